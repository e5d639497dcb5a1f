/** What goes wrong on a command line, told in one line that says what to do (CLI-6). */

/** 1: it did not work. 2: it was asked for wrongly. */
export type ExitStatus = 1 | 2;

export class Problem extends Error {
  override readonly name = "Problem";
  readonly exitStatus: ExitStatus;

  constructor(message: string, exitStatus: ExitStatus = 1, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.exitStatus = exitStatus;
  }
}

/** The one line of whatever was thrown. */
export function oneLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.split("\n", 1)[0] ?? message;
}
