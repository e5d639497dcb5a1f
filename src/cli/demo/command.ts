/**
 * `holdfast demo`: a server in a process of its own, one session, and everything that can happen to it.
 * Takes a few seconds and a temporary directory, and leaves nothing behind.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { systemClock } from "../../clock.ts";
import { generateToken } from "../../server/index.ts";
import { Problem } from "../problem.ts";
import type { Terminal } from "../terminal.ts";
import { reportOf } from "./report.ts";
import { play, type Story } from "./scenario.ts";

const LONGEST_MS = 25_000;

/** The project's own directory, whether this is its source or its build. */
const PROJECT = fileURLToPath(new URL("../../..", import.meta.url));

export function demoCommand(terminal: Terminal): Command {
  return new Command("demo")
    .description("Show it: jobs run while the socket is cut and the server killed, and nothing is lost.")
    .option("--json", "print one JSON object instead of the report", false)
    .action(async (flags: { json: boolean }) => {
      const { counts, ...story } = await run();
      if (flags.json) terminal.json({ ...story, counts });
      else terminal.block(reportOf({ ...story, counts }));
      terminal.remark("");
      terminal.remark("Keep a server running:   npx holdfast serve --demo");
      terminal.remark("and give it something:   npx holdfast submit survey --follow");
      process.exitCode = counts.lost + counts.duplicated + counts.reordered === 0 ? 0 : 1;
    });
}

async function run(): Promise<Story> {
  const stop = new AbortController();
  const onSignal = () => stop.abort(new Problem("The demo was stopped."));
  const timer = systemClock.after(LONGEST_MS, () =>
    stop.abort(new Problem(`The demo was not through after ${LONGEST_MS / 1_000} s.`)),
  );
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  const home = await mkdtemp(path.join(tmpdir(), "holdfast-demo-"));
  try {
    return await play({ home, directory: PROJECT, token: generateToken(), clock: systemClock, signal: stop.signal });
  } finally {
    timer.cancel();
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
    await rm(home, { recursive: true, force: true });
  }
}
