/**
 * A job on the terminal, from its next event to its end. `submit --follow` may cancel it with Ctrl-C,
 * `watch` only leaves.
 */
import { Presets, SingleBar } from "cli-progress";
import { type JobEvent, type JobHandle, type JobQuestion, questionOf } from "../client/index.ts";
import { eventLine, progressText } from "./event-line.ts";
import { oneLine } from "./problem.ts";
import { shortened, type Terminal } from "./terminal.ts";

export interface FollowOptions {
  json: boolean;
  /** What the first Ctrl-C does; the second one leaves in any case. */
  onInterrupt: "cancel" | "leave";
}

/** What is shown of a schema, of an id that the server made up, and of what an agent says of its result. */
const MAX_SCHEMA_CHARS = 400;
const MAX_ID_CHARS = 64;
const MAX_SUMMARY_CHARS = 400;

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
    } else if (event.kind !== "result_chunk") {
      // The result is told in one piece at the end.
      this.endBar();
      this.#terminal.line(eventLine(event));
      const question = questionOf(event);
      if (question !== undefined) this.#tellHowToAnswer(job, question);
    }
  }

  #tellHowToAnswer(job: JobHandle, { questionId, schema }: JobQuestion): void {
    const form = schema === undefined ? "" : ` of the form ${shortened(JSON.stringify(schema), MAX_SCHEMA_CHARS)}`;
    this.#terminal.line(
      `          answer it: holdfast answer ${job.id} ${shortened(questionId, MAX_ID_CHARS)} JSON${form}`,
    );
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

/** As `/v1` tells a result: bytes are base64, and it says so. */
const asJson = (result: unknown): { result: unknown; result_encoding?: "base64" } =>
  result instanceof Uint8Array
    ? { result: Buffer.from(result).toString("base64"), result_encoding: "base64" }
    : { result };

async function printEnd(job: JobHandle, terminal: Terminal, json: boolean): Promise<FollowStatus> {
  const end = await job.terminal;
  const succeeded = end.final_status === "success";
  if (json) {
    terminal.json({ type: "end", job_id: job.id, ...end, ...(succeeded ? asJson(await job.result) : {}) });
  } else if (succeeded) {
    const summary = end.summary === undefined ? "" : `: ${shortened(end.summary, MAX_SUMMARY_CHARS)}`;
    terminal.line(`${job.agent} succeeded${summary} (${job.id})`);
    const result = await job.result;
    if (result instanceof Uint8Array) {
      terminal.line(`${result.length} bytes; get them with: holdfast result ${job.id} --raw > FILE`);
    } else if (result !== undefined && result !== null) {
      terminal.block(typeof result === "string" ? result : (JSON.stringify(result, null, 2) ?? ""));
    }
  } else {
    const details = end.details === undefined ? "" : ` ${JSON.stringify(end.details)}`;
    terminal.remark(`${job.agent} ended ${end.final_status}: ${end.code}: ${end.message}${details} (${job.id})`);
  }
  return succeeded ? 0 : 1;
}
