/**
 * `node --import` this, and `holdfast`, `holdfast/client` and so on are the sources of this repository instead of
 * what was last built: examples are tested as they would be with the next build.
 */
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";

const ROOT = new URL("../", import.meta.url);
const { exports } = JSON.parse(readFileSync(new URL("package.json", ROOT), "utf8")) as {
  exports: Record<string, { default: string } | string>;
};

registerHooks({
  resolve(specifier, context, next) {
    const entry = /^holdfast(\/|$)/.test(specifier) ? exports[specifier.replace("holdfast", ".")] : undefined;
    if (typeof entry !== "object") return next(specifier, context);
    const source = entry.default.replace("./dist/", "./src/").replace(/\.js$/, ".ts");
    return { url: new URL(source, ROOT).href, shortCircuit: true };
  },
});
