/**
 * Stands between Holdfast and the OpenCode server that it spawned, and ends the server when Holdfast is gone: a
 * process that is killed can do nothing for its children, but the pipe on their standard input ends. Runs as the
 * leader of a process group of its own: `keeper.js COMMAND ARGUMENT…`.
 */
import { spawn } from "node:child_process";

const [command, ...args] = process.argv.slice(2);
if (command === undefined) throw new Error("The keeper is given a command to run.");

const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"] });

const endAll = () => {
  // The leader of the group goes with it.
  if (process.platform !== "win32") process.kill(-process.pid, "SIGKILL");
  child.kill("SIGKILL");
  process.exit(1);
};
process.stdin.on("end", endAll).on("error", endAll).resume();

// The group got the signal as well; it is for the server to end, and the keeper ends after it.
process.on("SIGTERM", () => child.kill("SIGTERM"));
process.on("SIGINT", () => child.kill("SIGINT"));

child.on("error", (error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(127);
});
child.on("exit", (code, signal) => process.exit(code ?? (signal === null ? 1 : 128)));
