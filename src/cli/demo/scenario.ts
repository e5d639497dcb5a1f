/**
 * What the demo does: jobs run, the socket is cut, the server dies and comes back, and everything that
 * was emitted is there. Counted three times: on the wire by number, in the messages by content, and
 * against what a second session reads from the log.
 */
import { burstMessage, type SurveyReport } from "../../agents/index.ts";
import type { Terminal as JobEnd, JobEvent, JobHandle, Session } from "../../client/index.ts";
import type { Clock } from "../../clock.ts";
import { openSession } from "../connection.ts";
import { whileListed } from "../presence.ts";
import { type Counts, compareReadings, Sequence, sumOf } from "./counts.ts";
import { ServerProcess } from "./server-process.ts";
import { type Interruption, Wire } from "./wire.ts";

const BURST = { n: 20_000, bytes: 200 };
const TICKER = { n: 120, every_ms: 15 };
/** A session that hurries back: the demo is over in seconds. */
const RECONNECT = { initialMs: 20, maxMs: 200 };

export interface ScenarioOptions {
  home: string;
  directory: string;
  token: string;
  clock: Clock;
  signal: AbortSignal;
}

export interface JobStory {
  label: string;
  id: string;
  agent: string;
  /** Events with a number, the terminal one included. */
  events: number;
  end: JobEnd;
  /** The number of the event that ended it. */
  endSeq: number | undefined;
}

export interface Story {
  jobs: JobStory[];
  interruptions: Interruption[];
  survey: SurveyReport | undefined;
  durationMs: number;
  counts: Counts;
}

/** What a log holds of an event, as text; `undefined` for what is said of one session alone, and is in no log. */
function logEntry({ kind, ts, body }: JobEvent): string | undefined {
  const isNotice = kind === "status" && (body as { phase: string }).phase === "back_pressure";
  return isNotice ? undefined : JSON.stringify([kind, ts, body]);
}

/** One job, read to its end from the moment it was accepted. */
class Recording {
  readonly label: string;
  readonly agent: string;
  readonly input: unknown;
  readonly job: JobHandle;
  /** Every event of the log as text, in the order in which the client handed it out. */
  readonly entries: string[] = [];
  readonly seqs: number[] = [];
  readonly messages: string[] = [];
  /** Resolves at the job's end, whichever. */
  readonly done: Promise<JobEnd>;

  constructor(label: string, agent: string, input: unknown, job: JobHandle) {
    this.label = label;
    this.agent = agent;
    this.input = input;
    this.job = job;
    this.done = this.#read();
  }

  async #read(): Promise<JobEnd> {
    for await (const event of this.job) {
      const entry = logEntry(event);
      if (entry !== undefined) this.entries.push(entry);
      this.seqs.push(event.seq);
      if (event.kind === "log") this.messages.push((event.body as { message: string }).message);
    }
    return await this.job.terminal;
  }
}

const isLostToTheKill = (end: JobEnd): boolean => end.details?.["reason"] === "node_lost";

/** By the messages alone: each carries its own number. */
function countContent(recording: Recording, end: JobEnd): Counts {
  if (recording.agent !== "burst" && recording.agent !== "ticker") return sumOf([]);
  const numbers = new Sequence(0);
  for (const message of recording.messages) {
    const number = Number.parseInt(message.replace("tick ", ""), 10);
    // A message that is not whole is no message.
    if (recording.agent === "ticker" || message === burstMessage(number, BURST.bytes)) numbers.take(number);
  }
  const { n } = recording.input as { n: number };
  return end.final_status === "success" ? numbers.counts(n - 1) : numbers.counts();
}

/** Reads a job from the log in a session that has seen nothing of it. */
async function readAgain(session: Session, jobId: string): Promise<string[]> {
  const job = await session.subscribe(jobId, { history: true });
  const entries: string[] = [];
  for await (const event of job) {
    const entry = logEntry(event);
    if (entry !== undefined) entries.push(entry);
  }
  return entries;
}

export async function play(options: ScenarioOptions): Promise<Story> {
  const { clock, signal, token } = options;
  const beganMs = clock.monotonic();
  const startServer = async (port: number) => {
    const server = await ServerProcess.start({ ...options, port });
    if (signal.aborted) await server[Symbol.asyncDispose]();
    signal.throwIfAborted();
    return server;
  };
  /** Rejects when the demo is stopped or takes too long. */
  const stopped = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  // It reaches whoever races against it, and nobody may do so at that moment.
  stopped.catch(() => undefined);
  const inTime = <T>(work: Promise<T>): Promise<T> => Promise.race([work, stopped]);

  await using servers = new AsyncDisposableStack();
  const first = servers.use(await startServer(0));
  const target = { url: first.url, token };
  const wire = new Wire(clock);
  await using session = await openSession(target, { WebSocket: wire.WebSocket, reconnect: RECONNECT, signal });

  const recordings: Recording[] = [];
  const submit = async (label: string, agent: string, input: unknown): Promise<Recording> => {
    const recording = new Recording(label, agent, input, await session.submit(agent, input));
    recordings.push(recording);
    return recording;
  };
  const seen = (recording: Recording) => wire.trafficOf(recording.job.id).seqs.length;

  const act = async (): Promise<void> => {
    await submit("survey", "survey", {});
    const ticker = await submit("ticker", "ticker", TICKER);
    const burst = await submit("burst", "burst", BURST);
    for (const share of [0.1, 0.4, 0.7]) {
      await wire.until(() => seen(burst) >= BURST.n * share);
      await wire.cut();
    }
    await burst.done;
    await wire.until(() => seen(ticker) >= TICKER.n / 4);

    // In the middle of a burst and between two ticks.
    const second = await submit("burst 2", "burst", BURST);
    await wire.until(() => seen(second) >= BURST.n / 100);
    wire.lose("server killed");
    await first.kill();
    servers.use(await startServer(first.port));
    await wire.back();

    for (const killed of [...recordings]) {
      if (!isLostToTheKill(await killed.done)) continue;
      await submit(`${killed.label}, again`, killed.agent, killed.input);
    }
    const last = recordings.at(-1);
    if (last !== undefined) {
      await wire.until(() => seen(last) > 0);
      await wire.cut();
    }
    for (const recording of recordings) await recording.done;
  };
  await whileListed({ name: "demo" }, session, () => inTime(act()));

  const counts: Counts[] = [wire.counts];
  const jobs: JobStory[] = [];
  await using witness = await openSession(target, { signal });
  for (const recording of recordings) {
    const end = await recording.done;
    const traffic = wire.trafficOf(recording.job.id);
    const handedOut = compareReadings(traffic.seqs.map(String), recording.seqs.map(String));
    const inLog = compareReadings(recording.entries, await inTime(readAgain(witness, recording.job.id)));
    // A stored event that the first session never had was lost on its way to it.
    const secondLook = { ...inLog, lost: inLog.lost + inLog.duplicated, duplicated: 0 };
    for (const check of [handedOut, countContent(recording, end), secondLook]) counts.push({ ...check, events: 0 });
    jobs.push({
      label: recording.label,
      id: recording.job.id,
      agent: recording.job.agent,
      events: traffic.seqs.length + (traffic.terminalSeq === undefined ? 0 : 1),
      end,
      endSeq: traffic.terminalSeq,
    });
  }
  let survey: SurveyReport | undefined;
  for (const { agent, job, done } of recordings) {
    if (agent !== "survey" || (await done).final_status !== "success") continue;
    survey = JSON.parse(String(await job.result)) as SurveyReport;
  }
  return {
    jobs,
    interruptions: wire.interruptions,
    survey,
    durationMs: clock.monotonic() - beganMs,
    counts: sumOf(counts),
  };
}
