/**
 * One client of a fault scenario, in a process of its own: obeys the lines on its standard input, writes
 * down what it receives, and goes on where a killed process before it stopped.
 */
import { createInterface } from "node:readline";
import { type RawData, WebSocket } from "ws";
import { ArcpError, connect, type Feature, type JobHandle, type Session } from "../../src/client/index.ts";
import { sleep, systemClock } from "../../src/clock.ts";
import type { WebSocketConstructor } from "../../src/transport/websocket.ts";
import { type Entry, Journal, readJournal, repeatable, type Submission } from "./journal.ts";
import { REFUSALS } from "./turns/journal.ts";

export interface ClientSettings {
  name: string;
  url: string;
  journal: string;
  features: readonly Feature[];
  /** Pauses now and then while it reads. */
  slow: boolean;
}

export type ClientCommand =
  | { do: "submit"; submission: Submission }
  | { do: "subscribe"; jobId: string; history: boolean }
  | { do: "cancel"; jobId: string }
  /** Settle what is open, close the session, end. With `audit`: read these jobs from their start before. */
  | { do: "finish"; audit: readonly string[] };

/** What the process tells its parent. */
export type ClientWord = { said: "ready" } | { said: "accepted"; jobId: string; isTurn: boolean };

const RETRY_MS = 100;
const STATE_EVERY = 16;
const SLOW_EVERY = 40;
const SLOW_MS = 25;

const settings = JSON.parse(process.argv[2] ?? "") as ClientSettings;
const past: readonly Entry[] = readJournal(settings.journal);
const journal = new Journal(settings.journal);
const say = (word: ClientWord) => process.stdout.write(`${JSON.stringify(word)}\n`);
journal.write({ t: "start" });

let connections = 0;
/** Writes down what passes, before the client has it. */
class Recorded extends WebSocket {
  readonly #c: number;

  constructor(url: string) {
    super(url);
    connections += 1;
    this.#c = connections;
    this.on("message", (data: RawData) => journal.write({ t: "in", c: this.#c, frame: data.toString() }));
  }

  override send(data: string): void {
    journal.write({ t: "out", c: this.#c, frame: data });
    super.send(data);
  }
}

const entriesOf = <T extends Entry["t"]>(type: T) =>
  past.filter((entry): entry is Extract<Entry, { t: T }> => entry.t === type);

const resume = entriesOf("state").at(-1)?.state;

async function open(): Promise<Session> {
  for (;;) {
    try {
      return await connect(settings.url, {
        token: "token",
        client: { name: settings.name, version: "1" },
        features: settings.features,
        timeoutMs: 1_000,
        reconnect: { initialMs: 20, maxMs: 300, giveUpAfterMs: 120_000 },
        resume,
        ackEveryMs: 50,
        WebSocket: Recorded as unknown as WebSocketConstructor,
      });
    } catch (error) {
      if (error instanceof ArcpError && !error.retryable) {
        journal.write({ t: "closed", reason: `${error.code}: ${error.message}` });
        process.exit(3);
      }
    }
    await sleep(systemClock, RETRY_MS);
  }
}

const session = await open();
const noteState = () => journal.write({ t: "state", state: session.resumeState });
noteState();

const tasks = new Set<Promise<void>>();
let finishing = false;
function task(work: Promise<void>): void {
  const settled = work.finally(() => tasks.delete(settled));
  tasks.add(settled);
}

void session.closed.then(({ reason }) => {
  journal.write({ t: "closed", reason });
  if (!finishing) process.exit(3);
});
void (async () => {
  for await (const status of session.statuses()) {
    if (status.state === "connected" && !finishing) noteState();
  }
})();

let handles = 0;
async function read(job: JobHandle, whole: boolean): Promise<void> {
  handles += 1;
  const h = handles;
  journal.write({ t: "follow", h, jobId: job.id, whole });
  try {
    let seen = 0;
    for await (const event of job) {
      if (event.kind === "log") {
        journal.write({ t: "event", h, seq: event.seq, message: (event.body as { message: string }).message });
      }
      seen += 1;
      if (seen % STATE_EVERY === 0) noteState();
      if (settings.slow && seen % SLOW_EVERY === 0) await sleep(systemClock, SLOW_MS);
    }
    journal.write({ t: "terminal", h, jobId: job.id, terminal: await job.terminal });
  } catch (error) {
    journal.write({ t: "broken", h, jobId: job.id, why: String(error) });
    // Whatever kept it from being read, its end is told all the same.
    const terminal = await job.terminal.catch(() => undefined);
    if (terminal !== undefined) journal.write({ t: "terminal", h, jobId: job.id, terminal });
  }
  noteState();
}

const reading = new Set<JobHandle>();
async function readOnce(job: JobHandle, whole: boolean): Promise<void> {
  // A session has one handle per job, which has one reader.
  if (reading.has(job)) return;
  reading.add(job);
  await read(job, whole);
}

/** Under a label that may not be the submission's own. */
function send({ agent, input, key, turn }: Submission, label: string): Promise<JobHandle> {
  const labelled = { ...input, label };
  if (turn !== undefined) return session.turn(turn.key, agent, labelled, { onBusy: turn.onBusy, messageId: label });
  return session.submit(agent, labelled, key === undefined ? {} : { idempotencyKey: key });
}

async function submit(submission: Submission, whole: boolean): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    // A second attempt of what is not repeatable is another job, and the first may never run.
    const own = submission.input.label;
    const label = repeatable(submission) || attempt === 1 ? own : `${own}~${attempt}`;
    try {
      journal.write({ t: "submit", label, submission });
      const job = await send(submission, label);
      journal.write({ t: "accepted", label, jobId: job.id });
      noteState();
      say({ said: "accepted", jobId: job.id, isTurn: submission.turn !== undefined });
      await readOnce(job, whole);
      return;
    } catch (error) {
      const { code, retryable, message, details } =
        error instanceof ArcpError
          ? error
          : { code: "none", retryable: false, message: String(error), details: undefined };
      if (REFUSALS.includes(details?.["code"])) {
        journal.write({ t: "refused", label, code: String(details?.["code"]) });
        return;
      }
      journal.write({ t: "rejected", label, code, retryable, message });
      if (!retryable) return;
    }
    await sleep(systemClock, RETRY_MS);
  }
}

async function subscribe(jobId: string, history: boolean, whole: boolean): Promise<void> {
  for (;;) {
    try {
      const job = await session.subscribe(jobId, { history });
      await readOnce(job, whole);
      return;
    } catch (error) {
      if (!(error instanceof ArcpError && error.retryable)) {
        journal.write({
          t: "rejected",
          label: `subscribe ${jobId}`,
          code: "none",
          retryable: false,
          message: String(error),
        });
        return;
      }
    }
    await sleep(systemClock, RETRY_MS);
  }
}

async function cancel(jobId: string): Promise<void> {
  journal.write({ t: "cancel", jobId });
  for (const job of reading) {
    if (job.id !== jobId) continue;
    // A refusal (somebody else's job, a store that is down) leaves the job as it is.
    await job.cancel("as planned").catch(() => undefined);
  }
}

/** What a process before this one left open. */
function takeUp(): void {
  const unanswered = new Map(entriesOf("submit").map((entry) => [entry.label, entry]));
  for (const { label } of [...entriesOf("accepted"), ...entriesOf("refused"), ...entriesOf("abandoned")]) {
    unanswered.delete(label);
  }
  for (const { label, retryable } of entriesOf("rejected")) {
    const entry = unanswered.get(label);
    if (entry !== undefined && !(retryable && repeatable(entry.submission))) unanswered.delete(label);
  }
  for (const { label, submission } of unanswered.values()) {
    // Its first events may have come to the process that was killed.
    if (repeatable(submission)) task(submit(submission, false));
    else journal.write({ t: "abandoned", label });
  }
  const open = new Set([...entriesOf("accepted"), ...entriesOf("follow")].map(({ jobId }) => jobId));
  for (const { jobId } of entriesOf("terminal")) open.delete(jobId);
  for (const jobId of open) task(subscribe(jobId, true, false));
}

async function audit(jobIds: readonly string[]): Promise<void> {
  for (const jobId of jobIds) await subscribe(jobId, true, true);
}

async function finish(jobIds: readonly string[]): Promise<void> {
  while (tasks.size > 0) await Promise.all(tasks);
  await audit(jobIds);
  finishing = true;
  await session.close();
  journal.write({ t: "done" });
  journal.close();
  process.exit(0);
}

takeUp();
const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit(4));
lines.on("line", (line) => {
  const command = JSON.parse(line) as ClientCommand;
  switch (command.do) {
    case "submit":
      task(submit(command.submission, true));
      return;
    case "subscribe":
      task(subscribe(command.jobId, command.history, false));
      return;
    case "cancel":
      task(cancel(command.jobId));
      return;
    case "finish":
      void finish(command.audit);
  }
});
say({ said: "ready" });
