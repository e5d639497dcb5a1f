/**
 * The shell commands of one page of documentation, typed in as a reader types them: all blocks from the first to the
 * last in one bash, in a home and a folder of their own, where `npx holdfast` is this repository's source. A server that
 * a block starts goes on in the background, as in a terminal of its own, until the next one or the page's end. JOB stands
 * for the newest job.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
/** Before what a block prints; no command prints it. */
const MARK = "\u001e";

/** The port that pages name stands for one that is free. */
const PORT = "7777";

export interface Block {
  language: string;
  /** Of its first line, from 1. */
  line: number;
  text: string;
}

export interface PageRun {
  status: number | null;
  /** What each block printed, as far as they were reached; what stood before the first is left out. */
  printed: string[];
}

/** @returns the fenced blocks of a Markdown page, in their order */
export function blocksOf(page: string): Block[] {
  const blocks: Block[] = [];
  let open: { language: string; line: number; lines: string[] } | undefined;
  for (const [index, line] of page.split("\n").entries()) {
    const fence = /^```(.*)$/.exec(line);
    if (fence === null) open?.lines.push(line);
    else if (open === undefined) open = { language: fence[1] ?? "", line: index + 2, lines: [] };
    else {
      blocks.push({ language: open.language, line: open.line, text: open.lines.join("\n") });
      open = undefined;
    }
  }
  if (open !== undefined) throw new Error(`line ${open.line - 1}: a block is opened and not closed`);
  return blocks;
}

/** JOB is the one that was named last: asking for it would take as long as the command itself. */
const PREAMBLE = `
npx() {
  shift
  if [ "$1" != serve ] || [ "\${2:-}" = --stdio ]; then "$NODE" "$MAIN" "$@" | tee -a "$HOME/printed"; return; fi
  end_server
  shift
  coproc SERVER { exec "$NODE" "$MAIN" serve --port "$PORT" --drain 0 "$@" 2>&1; }
  local line said=
  while read -r line <&"\${SERVER[0]}"; do
    case $line in *'stop    Ctrl-C'*) return;; esac
    said+="$line"$'\\n'
  done
  printf '%s' "$said"
  return 1
}
end_server() {
  if [ -n "\${SERVER_PID:-}" ]; then kill -KILL "$SERVER_PID"; wait "$SERVER_PID" 2>/dev/null || true; fi
}
newest_job() { grep -o 'job_[0-9A-Z]*' "$HOME/printed" | tail -n 1; }
trap end_server EXIT
`;

/** A line whose comment says so has to exit with that status, any other with 0. */
function withStatus(line: string): string {
  const [, command, status] = /^(.*\S)\s+#.*\bexits (\d+)\b/.exec(line) ?? [];
  return command === undefined ? line : `if ${command}; then false; else [ $? -eq ${status} ]; fi`;
}

const scriptOf = (block: Block): string =>
  block.text
    .split("\n")
    .map(withStatus)
    .join("\n")
    .replaceAll(/(?<= )JOB\b/g, '"$(newest_job)"');

/**
 * Runs blocks of one page, in their order.
 *
 * @param options.compileCache a folder in which all pages share what Node makes of the sources: half of each start
 */
export async function runBlocks(
  blocks: readonly Block[],
  options: { timeoutMs: number; compileCache: string },
): Promise<PageRun> {
  const home = await mkdtemp(path.join(tmpdir(), "holdfast-page-"));
  const folder = path.join(home, "project");
  const runtimeFolder = path.join(home, "run");
  await mkdir(folder);
  await mkdir(runtimeFolder, { mode: 0o700 });
  await writeFile(path.join(folder, "notes.md"), "# Notes\n\nOne line.\n");
  const port = String(await freePort());
  const script = [
    "set -eu -o pipefail",
    PREAMBLE,
    ...blocks.flatMap((block) => [`printf '${MARK}'`, scriptOf(block).replaceAll(PORT, port)]),
  ].join("\n");
  const shell = spawn("bash", ["-c", `exec 2>&1\n${script}`], {
    cwd: folder,
    env: {
      PATH: process.env["PATH"],
      HOME: home,
      XDG_RUNTIME_DIR: runtimeFolder,
      NODE: process.execPath,
      MAIN,
      PORT: port,
      NODE_COMPILE_CACHE: options.compileCache,
    },
    stdio: ["ignore", "pipe", "inherit"],
    timeout: options.timeoutMs,
    // A group of its own, so that all that a block started can be ended.
    detached: true,
  });
  try {
    const [out, [status]] = await Promise.all([text(shell.stdout), once(shell, "exit")]);
    const printed = out.replaceAll(port, PORT).split(MARK).slice(1);
    return { status: status as number | null, printed };
  } finally {
    endGroup(shell.pid);
    await rm(home, { recursive: true, force: true });
  }
}

/**
 * @param shown what a page shows: `…` stands for the rest of a word or a line, and in a line of its own for lines
 * @returns whether that was printed
 */
export function isShown(shown: string, printed: string): boolean {
  const pattern = shown
    .trimEnd()
    .split("\n")
    .map((line) =>
      line.trim() === "…"
        ? "(?:.*\\n)*?"
        : `${line
            .split("…")
            .map((part) => part.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&"))
            .join(".*?")}[ \\t]*\\n`,
    )
    .join("");
  return new RegExp(`^${pattern}$`).test(`${printed.trimEnd()}\n`);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("a server on loopback has no port");
  return address.port;
}

function endGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
