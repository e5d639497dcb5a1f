/**
 * Emits as fast as the log takes it: the agent that measures, and that shows a loss by content. Every
 * message starts with its own number, so a reader can tell what is missing without looking at
 * `event_seq`.
 */
import { z } from "zod";
import type { AgentHandler } from "../runtime/index.ts";
import { parseInput } from "./input.ts";

const Input = z.strictObject({
  /** How many events. */
  n: z.int().min(0).max(10_000_000),
  /** The length of each message, in bytes (ASCII only). */
  bytes: z.int().min(1).max(1_048_576),
  /** How long to wait before the first, in milliseconds. */
  delay_ms: z.number().min(0).max(3_600_000).optional(),
});

const DIGITS = 8;

/** Message `index` of a burst: its number in eight digits, filled with dots to `bytes`. */
export const burstMessage = (index: number, bytes: number): string =>
  bytes < DIGITS
    ? String(index).padStart(bytes, "0").slice(-bytes)
    : String(index).padStart(DIGITS, "0").padEnd(bytes, ".");

/** `{n, bytes, delay_ms?}`: waits, emits n `log` events whose message is that long, returns `{n}`. */
export const burst: AgentHandler = async (input, job) => {
  const { n, bytes, delay_ms } = parseInput("burst", Input, input);
  if (delay_ms !== undefined) await job.sleep(delay_ms);
  for (let index = 0; index < n; index += 1) {
    job.signal.throwIfAborted();
    await job.log(burstMessage(index, bytes));
  }
  return { n };
};
