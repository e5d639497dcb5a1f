/** The log of a process of a scenario: a line at a time in a file, for whoever looks into a seed that failed. */
import { appendFileSync } from "node:fs";
import { systemClock } from "../../src/clock.ts";
import { type Logger, silentLogger } from "../../src/logger.ts";

export function logFile(file: string): Logger {
  const logged = (level: string) => (fields: object, message: string) => {
    const { err } = fields as { err?: unknown };
    const why = err instanceof Error ? { err: err.stack } : {};
    const at = new Date(systemClock.wall()).toISOString();
    appendFileSync(file, `${JSON.stringify({ at, pid: process.pid, level, message, ...fields, ...why })}\n`);
  };
  return { ...silentLogger, info: logged("info"), warn: logged("warn"), error: logged("error") };
}
