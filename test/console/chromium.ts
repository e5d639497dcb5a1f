/** Where this machine's Chromium is. Tests without one are skipped by name, except where CI says that it must be. */
import { accessSync, constants } from "node:fs";
import path from "node:path";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

function find(): string | undefined {
  const given = process.env["HOLDFAST_CHROMIUM"];
  const candidates = (process.env["PATH"] ?? "")
    .split(path.delimiter)
    .flatMap((folder) => NAMES.map((name) => path.join(folder, name)));
  return (given === undefined ? candidates : [given]).find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

export const chromiumPath = find();

/** For a test's `skip`. */
export const withoutChromium: string | false =
  chromiumPath !== undefined || process.env["CI"] === "true"
    ? false
    : "no Chromium on the PATH (or set HOLDFAST_CHROMIUM)";
