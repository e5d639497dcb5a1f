/**
 * How a case ends when it does not simply return: it found something else than the rule asks for, or it
 * cannot be run here. Both are told in words for whoever writes the runtime.
 */

/** The rule does not hold: what was to be expected, and what came. */
export class Unmet extends Error {
  override readonly name = "Unmet";
  readonly expected: string;
  readonly got: string;

  constructor(expected: string, got: unknown) {
    const told = describe(got);
    super(`Expected ${expected}; got ${told}.`);
    this.expected = expected;
    this.got = told;
  }
}

/** The case cannot be run against this runtime, or not bearably. */
export class Skipped extends Error {
  override readonly name = "Skipped";
}

const LONGEST_FRAME = 300;
const SECRETS = /("(?:resume_token|token)"\s*:\s*")[^"]*/g;

/** A frame as a message may show it: short, and without a token that would open the session. */
export function shortFrame(frame: string): string {
  const safe = frame.slice(0, LONGEST_FRAME * 4).replace(SECRETS, "$1…");
  return safe.length <= LONGEST_FRAME ? safe : `${safe.slice(0, LONGEST_FRAME)}…`;
}

function describe(got: unknown): string {
  if (typeof got === "string") return got;
  if (got === undefined) return "nothing";
  if (typeof got === "object" && got !== null && "frame" in got && typeof got.frame === "string") {
    return shortFrame(got.frame);
  }
  return shortFrame(JSON.stringify(got) ?? String(got));
}

/**
 * Goes on only if the condition holds.
 *
 * @param expected what the rule asks for, as it follows "expected"
 * @param got a received frame, or what else was seen instead
 * @throws Unmet
 */
export function check(condition: unknown, expected: string, got: unknown): asserts condition {
  if (!condition) throw new Unmet(expected, got);
}
