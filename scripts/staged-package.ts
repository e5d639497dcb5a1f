/**
 * The package as npm would publish it now, built from the sources into a folder of its own. What checks
 * the package reads it there, so that a check neither depends on how old `dist/` is nor rebuilds it
 * under somebody who uses it. Costs a compilation, about 3 s.
 */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import ts from "typescript";

interface Manifest {
  name: string;
  files: string[];
  bin: Record<string, string>;
  dependencies: Record<string, string>;
  exports: Record<string, string | { types?: string }>;
}

/** Optional peers whose types an entry of their own shows: who imports that entry has them. */
const TYPED_PEERS = ["@slack/bolt"];

export interface StagedPackage extends Disposable {
  /** A project whose `node_modules` holds the package, what it depends on, and Node's types. */
  readonly consumer: string;
  /** The package in there. */
  readonly directory: string;
  /** Import specifier (`holdfast/client`) and declaration file of each entry that has types. */
  readonly entries: readonly { specifier: string; types: string }[];
  /** Packs it and answers the file. */
  pack(): string;
}

/**
 * @param root the repository's directory
 * @throws Error when a source cannot be parsed, or its declarations cannot be written
 */
export function stagePackage(root: string): StagedPackage {
  const manifest = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8")) as Manifest;
  const consumer = mkdtempSync(path.join(tmpdir(), "holdfast-package-"));
  const dispose = () => rmSync(consumer, { recursive: true, force: true });
  try {
    const modules = path.join(consumer, "node_modules");
    const directory = path.join(modules, manifest.name);
    mkdirSync(directory, { recursive: true });
    build(root, path.join(directory, "dist"));
    for (const name of ["package.json", "README.md", "LICENSE", ...manifest.files]) {
      const from = path.join(root, name);
      if (name !== "dist" && existsSync(from)) cpSync(from, path.join(directory, name), { recursive: true });
    }
    for (const name of [...Object.keys(manifest.dependencies), ...TYPED_PEERS, "@types/node", "undici-types"]) {
      const link = path.join(modules, name);
      mkdirSync(path.dirname(link), { recursive: true });
      symlinkSync(path.join(root, "node_modules", name), link, "junction");
    }
    const entries = Object.entries(manifest.exports).flatMap(([subpath, target]) =>
      typeof target === "object" && target.types !== undefined
        ? [{ specifier: path.posix.join(manifest.name, subpath), types: path.join(directory, target.types) }]
        : [],
    );
    return {
      consumer,
      directory,
      entries,
      pack: () => {
        const packed = execFileSync("npm", ["pack", "--ignore-scripts", "--json", "--pack-destination", consumer], {
          cwd: directory,
          encoding: "utf8",
          stdio: ["ignore", "pipe", "ignore"],
          shell: process.platform === "win32",
        });
        const [{ filename }] = JSON.parse(packed) as [{ filename: string }];
        return path.join(consumer, filename);
      },
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

function build(root: string, outDir: string): void {
  const config = ts.getParsedCommandLineOfConfigFile(
    path.join(root, "tsconfig.build.json"),
    { outDir },
    { ...ts.sys, onUnRecoverableConfigFileDiagnostic: (diagnostic) => fail([diagnostic]) },
  );
  if (config === undefined) throw new Error("tsconfig.build.json cannot be read.");
  const program = ts.createProgram(config.fileNames, config.options);
  // Whether the sources are well typed is `check:types`' question; here only what cannot be written counts.
  const diagnostics = [...program.getSyntacticDiagnostics(), ...program.emit().diagnostics];
  if (diagnostics.length > 0) fail(diagnostics);
}

function fail(diagnostics: readonly ts.Diagnostic[]): never {
  throw new Error(`The package does not compile:\n${formatDiagnostics(diagnostics)}`);
}

/** As `tsc` prints them, paths from here. */
export const formatDiagnostics = (diagnostics: readonly ts.Diagnostic[]): string =>
  ts.formatDiagnostics(diagnostics, {
    getCanonicalFileName: (name) => name,
    getCurrentDirectory: () => process.cwd(),
    getNewLine: () => "\n",
  });
