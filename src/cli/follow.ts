/**
 * A job on the terminal, from its next event to its end. `submit --follow` may cancel it with Ctrl-C,
 * `watch` only leaves.
 */
import { Presets, SingleBar } from "cli-progress";
import type { JobEvent, JobHandle } from "../client/index.ts";
import { eventLine, progressText } from "./event-line.ts";
import { oneLine } from "./problem.ts";
import { shortened, type Terminal } from "./terminal.ts";

export interface FollowOptions {
  json: boolean;
  /** What the first Ctrl-C does; the second one leaves in any case. */
  onInterrupt: "cancel" | "leave";
}

/** How it went: 0 the job succeeded, 1 it did not, 130 somebody left before its end. */
export type FollowStatus = 0 | 1 | 130;

/** Writes events; on a terminal, progress is a bar under them. */
class EventPrinter {
  readonly #terminal: Terminal;
  readonly #json: boolean;
  #bar: SingleBar | undefined;

  constructor(terminal: Terminal, json: boolean) {
    this.#terminal = terminal;
    this.#json = json;
  }

  event(job: JobHandle, event: JobEvent): void {
    if (this.#json) {
      this.#terminal.json({ type: "event", job_id: job.id, ...event });
    } else if (event.kind === "progress" && this.#terminal.interactive) {
      this.#drawBar(event.body);
    } else {
      this.endBar();
      this.#terminal.line(eventLine(event));
    }
  }

  #drawBar(body: unknown): void {
    const { current, total } = body as { current: number; total?: number };
    const message = shortened(progressText(body), 60);
    if (total === undefined) {
      this.endBar();
      this.#terminal.line(message);
      return;
    }
    if (this.#bar === undefined) {
      this.#bar = new SingleBar(
        { format: "  {bar} {message}", hideCursor: true, clearOnComplete: true },
        Presets.shades_classic,
      );
      this.#bar.start(total, current, { message });
    } else {
      this.#bar.setTotal(total);
      this.#bar.update(current, { message });
    }
  }

  /** Takes the bar off, so that a line can be written. */
  endBar(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

/** Iterates the job now, so that none of its events is dropped for want of a reader. */
export async function follow(job: JobHandle, terminal: Terminal, options: FollowOptions): Promise<FollowStatus> {
  const printer = new EventPrinter(terminal, options.json);
  const left = Promise.withResolvers<"left">();
  let cancelling = false;
  const onSignal = () => {
    printer.endBar();
    if (options.onInterrupt === "leave" || cancelling) {
      terminal.remark(`Left; the job runs on: holdfast watch ${job.id}`);
      left.resolve("left");
      return;
    }
    cancelling = true;
    terminal.remark("Cancelling the job; Ctrl-C again leaves it alone.");
    job
      .cancel("interrupted")
      .catch((error: unknown) => terminal.remark(`The job was not cancelled: ${oneLine(error)}`));
  };
  process.on("SIGINT", onSignal);
  try {
    const events = (async () => {
      for await (const event of job) printer.event(job, event);
      return "ended" as const;
    })();
    if ((await Promise.race([events, left.promise])) === "left") return 130;
    printer.endBar();
    return await printEnd(job, terminal, options.json);
  } finally {
    printer.endBar();
    process.off("SIGINT", onSignal);
  }
}

async function printEnd(job: JobHandle, terminal: Terminal, json: boolean): Promise<FollowStatus> {
  const end = await job.terminal;
  const succeeded = end.final_status === "success";
  if (json) {
    const result = succeeded ? { result: await job.result } : {};
    terminal.json({ type: "end", job_id: job.id, ...end, ...result });
  } else if (succeeded) {
    terminal.line(`${job.agent} succeeded (${job.id})`);
    const result = await job.result;
    if (result !== undefined && result !== null) {
      terminal.block(typeof result === "string" ? result : (JSON.stringify(result, null, 2) ?? ""));
    }
  } else {
    const details = end.details === undefined ? "" : ` ${JSON.stringify(end.details)}`;
    terminal.remark(`${job.agent} ended ${end.final_status}: ${end.code}: ${end.message}${details} (${job.id})`);
  }
  return succeeded ? 0 : 1;
}
