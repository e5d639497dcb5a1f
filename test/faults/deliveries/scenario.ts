/**
 * Two workers on one file, people who speak in threads, and a channel that kills whoever sends an answer, before it
 * has arrived or after, again and again. In the end each answer is there once, in its own thread and nowhere else.
 */

import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { sleep, systemClock } from "../../../src/clock.ts";
import { sqlite } from "../../../src/store/sqlite/index.ts";
import { Random } from "../../random.ts";
import { Child } from "../child.ts";
import type { Place } from "../place.ts";
import { type Arrived, ChannelDouble } from "./double.ts";
import { paragraphsTo, placeOf, ROOM } from "./words.ts";
import type { WorkerCommand, WorkerSettings, WorkerWord } from "./worker-process.ts";

const WORKERS = 2;
const THREADS = 12;
/** Longer than a try is put off after so many failures as this run can make. */
const SETTLE_MS = 150_000;
/** A message without an answer is sent again, as a channel does. */
const ASK_AGAIN_MS = 2_000;
const LOOK_MS = 50;

export interface DeliveryVerdict {
  /** Answers that are there, whole. */
  delivered: number;
  lost: number;
  doubled: number;
  misrouted: number;
  findings: string[];
  fates: ChannelDouble["fates"];
}

interface StoredDelivery {
  deliveryId: string;
  state: string;
  label: string;
  jobState: string;
}

/** A worker, started again whenever it was killed. */
class Worker {
  readonly #settings: WorkerSettings;
  readonly #heard: (word: WorkerWord) => void;
  #child: Child<WorkerCommand>;
  #over = false;

  constructor(settings: WorkerSettings, heard: (word: WorkerWord) => void) {
    this.#settings = settings;
    this.#heard = heard;
    this.#child = this.#spawn();
  }

  ready(): Promise<string> {
    return this.#child.ready();
  }

  send(command: WorkerCommand): void {
    this.#child.send(command);
  }

  /** At once; the next process starts by itself. */
  kill(): void {
    this.#child.signal("SIGKILL");
  }

  async end(): Promise<void> {
    this.#over = true;
    await this.#child.kill();
  }

  #spawn(): Child<WorkerCommand> {
    const child = new Child<WorkerCommand>("deliveries/worker-process.ts", this.#settings, (line) => {
      const word = JSON.parse(line) as WorkerWord | string;
      if (typeof word !== "string") this.#heard(word);
    });
    void child.exited.then(() => {
      if (!this.#over) this.#child = this.#spawn();
    });
    return child;
  }
}

export class DeliveryScenario {
  readonly #random: Random;
  readonly #seed: number;
  readonly #lengthMs: number;
  readonly #place: Place;
  readonly #workers: Worker[] = [];
  /** Labels, with their threads. */
  readonly #asked = new Map<string, string>();
  /** Those that no worker has taken yet, with the time of the last ask. */
  readonly #open = new Map<string, number>();

  constructor(seed: number, lengthMs: number, place: Place) {
    this.#seed = seed;
    this.#random = new Random(seed);
    this.#lengthMs = lengthMs;
    this.#place = place;
  }

  /** Ends by itself; nothing of it is left but its place. */
  async run(): Promise<DeliveryVerdict> {
    await using stack = new AsyncDisposableStack();
    const file = join(this.#place.data, "holdfast.db");
    const store = sqlite(file);
    await store.start();
    await store.stop();
    const double = stack.use(new ChannelDouble(this.#random, (worker) => this.#workers[worker]?.kill()));
    const url = await double.start();
    for (let worker = 0; worker < WORKERS; worker += 1) {
      const log = join(this.#place.path, `worker-${worker}.log`);
      const started = new Worker({ file, log, url, worker }, ({ label, problem }) => {
        if (problem === undefined) this.#open.delete(label);
      });
      stack.defer(() => started.end());
      this.#workers.push(started);
    }
    await Promise.all(this.#workers.map((worker) => worker.ready()));
    const until = systemClock.monotonic() + this.#lengthMs;
    while (systemClock.monotonic() < until) {
      await sleep(systemClock, this.#random.int(0, 400));
      this.#ask(`s${this.#seed}m${this.#asked.size}`);
      this.#askAgain();
    }
    double.calm = true;
    const db = stack.adopt(new DatabaseSync(file, { readOnly: true }), (open) => open.close());
    await this.#settle(db);
    return verdict(this.#asked, storedIn(db), double);
  }

  #ask(label: string): void {
    const thread = this.#asked.get(label) ?? `t${this.#random.int(0, THREADS - 1)}`;
    this.#asked.set(label, thread);
    this.#open.set(label, systemClock.monotonic());
    this.#random.pick(this.#workers).send({ label, thread });
  }

  #askAgain(): void {
    for (const [label, askedAt] of this.#open) {
      if (systemClock.monotonic() - askedAt > ASK_AGAIN_MS) this.#ask(label);
    }
  }

  async #settle(db: DatabaseSync): Promise<void> {
    const since = systemClock.monotonic();
    while (systemClock.monotonic() - since < SETTLE_MS) {
      if (this.#open.size === 0 && storedIn(db).every(({ state }) => state === "delivered")) return;
      await sleep(systemClock, LOOK_MS);
      this.#askAgain();
    }
  }
}

/** With SQL of its own, so that a fault of the store's code cannot hide itself. */
const storedIn = (db: DatabaseSync): StoredDelivery[] =>
  db
    .prepare(
      `SELECT d.delivery_id AS deliveryId, d.state, j.input AS label, h.state AS jobState FROM deliveries d
         JOIN jobs j ON j.job_key = d.job_key JOIN job_heads h ON h.job_key = d.job_key`,
    )
    .all()
    .map((row) => ({ ...(row as unknown as StoredDelivery), label: JSON.parse(String(row["label"])) as string }));

function verdict(
  asked: ReadonlyMap<string, string>,
  stored: readonly StoredDelivery[],
  { arrived, fates }: ChannelDouble,
): DeliveryVerdict {
  const findings: string[] = [];
  const counts = { delivered: 0, lost: 0, doubled: 0, misrouted: 0 };
  const found = (what: "lost" | "doubled" | "misrouted", words: string) => {
    counts[what] += 1;
    findings.push(`${what}: ${words}`);
  };
  const byLabel = Map.groupBy(stored, ({ label }) => label);
  const byDelivery = Map.groupBy(arrived, ({ deliveryId }) => deliveryId);
  for (const [label, thread] of asked) {
    const [delivery, ...more] = byLabel.get(label) ?? [];
    if (delivery === undefined) {
      found("lost", `${label} was never taken`);
      continue;
    }
    if (more.length > 0) found("doubled", `${label} has ${more.length + 1} deliveries`);
    const place = placeOf({ externalRoomId: ROOM, threadId: thread });
    const messages = byDelivery.get(delivery.deliveryId) ?? [];
    for (const message of messages) {
      if (message.place !== place) found("misrouted", `${label} of ${place} was shown in ${message.place}`);
    }
    const parts = Map.groupBy(messages, ({ part }) => part);
    for (const [part, same] of parts) {
      if (same.length > 1) found("doubled", `part ${part} of ${label} is there ${same.length} times`);
    }
    const missing = missingOf(label, delivery, messages);
    if (missing === undefined) counts.delivered += 1;
    else found("lost", `${label} (${delivery.state}, ${delivery.jobState}): ${missing}`);
  }
  for (const { place, text, deliveryId } of arrived) {
    if (!stored.some((delivery) => delivery.deliveryId === deliveryId)) {
      found("misrouted", `nobody knows of ${deliveryId}, shown in ${place}: ${text}`);
    }
  }
  return { ...counts, findings, fates };
}

/** What is not there of an answer, or not as it should be. */
function missingOf(label: string, { jobState }: StoredDelivery, messages: readonly Arrived[]): string | undefined {
  const working = messages.find(({ status }) => status === "working");
  if (working !== undefined) return `part ${working.part} still shows ${JSON.stringify(working.text)}`;
  const texts = messages.toSorted((a, b) => a.part - b.part).map(({ text }) => text.trim());
  if (jobState !== "success") return texts.length === 0 ? "nobody was told how it ended" : undefined;
  const expected = paragraphsTo(label);
  for (const [index, text] of expected.entries()) {
    if (!texts.includes(text.trim())) return `part ${index + 1} has not arrived; ${JSON.stringify(texts)} has`;
  }
  return texts.length === expected.length ? undefined : `${texts.length} parts arrived rather than ${expected.length}`;
}
