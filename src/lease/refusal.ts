/** Why a pattern or a target is not taken. Whoever knows the field or the operation makes the wire's error of it. */

/** The reason completes a sentence whose subject is the value: "… holds a backslash". */
export class Refusal extends Error {
  override readonly name = "Refusal";
}

export function refuse(reason: string): never {
  throw new Refusal(reason);
}

/** @returns what `attempt` returns, or what `otherwise` makes of the reason */
export function unlessRefused<T>(attempt: () => T, otherwise: (reason: string) => T): T {
  try {
    return attempt();
  } catch (error) {
    if (error instanceof Refusal) return otherwise(error.message);
    throw error;
  }
}

/** What an error repeats of a value that somebody made up (ENV-13). */
const MAX_QUOTED_CHARS = 64;

export const shorten = (text: string): string =>
  text.length <= MAX_QUOTED_CHARS ? text.toWellFormed() : `${text.slice(0, MAX_QUOTED_CHARS).toWellFormed()}…`;

/** For a message: short, on one line, and without a control character. */
export function quote(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(shorten(value));
  return value === null || typeof value !== "object" ? shorten(String(value)) : `a JSON ${kindOfJson(value)}`;
}

const kindOfJson = (value: object): string => (Array.isArray(value) ? "array" : "object");
