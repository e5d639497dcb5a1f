import { type Clock, sleep } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { type AcceptedPayload, encodeMessage, eventEncoder, isVisible, newMessageId } from "../../protocol/index.ts";
import {
  type AttachedSession,
  type DelegatedJob,
  type Follow,
  type NewEvent,
  type NewRun,
  type OpenedChild,
  type Store,
  StoreRefusal,
  StoreUnavailable,
} from "../../store/store.ts";
import type { Transport } from "../../transport/transport.ts";
import type { RecentEvents } from "../job/recent-events.ts";
import type { Stats } from "../stats.ts";
import type { Wakeups } from "../wakeups.ts";
import { inlineResult } from "./inline-result.ts";
import type { ReplyQueue } from "./reply-queue.ts";

/** Nothing is written while more than this waits in the transport (law 7). */
const MAX_BUFFERED_BYTES = 256 * 1024;
/** One round of delivery, over all jobs. */
const ROUND_EVENTS = 512;
const ROUND_CHARS = 1024 * 1024;
const ROUND_JOBS = 64;
const REPLAY_RUNS = 64;
const RETRY_MS = 100;

const EVERYTHING = ["progress", "result_chunk"];

interface Followed {
  readonly follow: Follow;
  readonly encode: ReturnType<typeof eventEncoder>;
  /** Stops the wake-ups. */
  readonly stop: () => void;
}

/** Events of one job that are to be sent under consecutive numbers. */
interface Stretch {
  readonly run: NewRun;
  readonly followed: Followed;
  readonly events: NewEvent[];
}

export interface TailParts {
  session: AttachedSession;
  /** What the client has, by its own word. */
  lastEventSeq: number;
  transport: Transport;
  replies: ReplyQueue;
  store: Store;
  recent: RecentEvents;
  wakeups: Wakeups;
  clock: Clock;
  logger: Logger;
  stats: Stats;
  /** Unacknowledged events above which the session is told (SES-19). */
  backPressureThreshold: number;
  /** Puts credentials into an event's payload (CRD-8), in sessions that may see any. */
  reveal: ((jobId: string, event: NewEvent) => string | Promise<string>) | undefined;
  /** Called when delivery cannot go on: the session is another connection's, or the store refuses. */
  onFailure(error: unknown): void;
}

/**
 * The delivery of one session over one connection: reads the logs that the session follows from where
 * it stands, stores which numbers the events get, sends them, and waits to be woken (law 1). Replay is
 * the same with numbers that are stored already. One round holds a page in memory; a transport that
 * does not drain stops the rounds and nothing else.
 */
export class Tail {
  readonly #parts: TailParts;
  readonly #followed = new Map<string, Followed>();
  /** Jobs whose log may have grown; in the order in which they are served. */
  readonly #ready = new Set<string>();
  /** Jobs of which events went before this session had numbers for them. */
  #trimmed: Set<string> | undefined;
  readonly #seesEverything: boolean;
  /** Whether the next crossing of the back-pressure threshold is to be told. */
  #armed: boolean;
  #lastSeq: number;
  #closed = false;
  #wake: (() => void) | undefined;
  #waitingForIdle: (() => void)[] | undefined;

  constructor(parts: TailParts) {
    this.#parts = parts;
    this.#lastSeq = parts.session.lastSeq;
    this.#seesEverything = EVERYTHING.every((feature) => parts.session.features.includes(feature));
    for (const follow of parts.session.follows) this.follow(follow);
    this.#armed = this.#lag() <= parts.backPressureThreshold;
  }

  /** The newest number that was given. */
  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** Whether the session may follow that job, or a new one, too; one that it follows takes no more room. */
  hasRoom(mostFollows: number, jobId?: string): boolean {
    return this.#followed.size < mostFollows || (jobId !== undefined && this.#followed.has(jobId));
  }

  /** Joins a job; one that is followed already goes on as it is (JOB-12). */
  follow(follow: Follow): void {
    if (this.#closed) return;
    const { jobId } = follow;
    const known = this.#followed.get(jobId);
    if (known !== undefined) {
      known.follow.canCancel ||= follow.canCancel;
      return;
    }
    this.#followed.set(jobId, {
      follow: { ...follow },
      encode: eventEncoder(this.#parts.session.sessionId, jobId, follow.traceId),
      stop: this.#parts.wakeups.on(jobId, () => this.hint(jobId)),
    });
    this.hint(jobId);
  }

  /**
   * Leaves a job, before the store is asked to end the follow, so that no run of it is stored after.
   *
   * @returns the follow as it stood, to be joined again should the store fail
   */
  unfollow(jobId: string): Follow | undefined {
    const followed = this.#followed.get(jobId);
    if (followed !== undefined) this.#leave(jobId, followed);
    return followed?.follow;
  }

  /** Whether the session may cancel a job that it follows. */
  mayCancel(jobId: string): boolean {
    return this.#followed.get(jobId)?.follow.canCancel === true;
  }

  /** A job's log may have grown. */
  hint(jobId: string): void {
    this.#ready.add(jobId);
    this.#wakeUp();
  }

  /** Delivers until the connection closes. Called once, after the welcome was sent. */
  async run(): Promise<void> {
    try {
      await this.#replay();
      while (!this.#closed) {
        await this.#room();
        if (this.#closed) return;
        if (this.#ready.size === 0) {
          this.#becameIdle();
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
          continue;
        }
        await this.#round();
        for (const jobId of this.#trimmed ?? []) await this.#tellTrimmed(jobId);
        await this.#tellLag();
      }
    } catch (error) {
      if (!this.#closed) this.#parts.onFailure(error);
    }
  }

  /** Resolves when there is nothing left to deliver, or the tail was closed. */
  whenIdle(): Promise<void> {
    if (this.#closed || this.#wake !== undefined) return Promise.resolve();
    this.#waitingForIdle ??= [];
    const waiting = this.#waitingForIdle;
    return new Promise((resolve) => waiting.push(resolve));
  }

  close(): void {
    this.#closed = true;
    this.#becameIdle();
    for (const { stop } of this.#followed.values()) stop();
    this.#followed.clear();
    this.#ready.clear();
    this.#wakeUp();
  }

  /** Sends again what has numbers and is above what the client has (RES-1). */
  async #replay(): Promise<void> {
    const { session, store, recent } = this.#parts;
    let sent = this.#parts.lastEventSeq;
    while (sent < session.lastSeq && !this.#closed) {
      const runs = await this.#patiently(() => store.sessions.readRuns(session, sent, REPLAY_RUNS));
      for (const run of runs) {
        const encode = eventEncoder(session.sessionId, run.jobId, run.traceId);
        if (run.notice !== undefined) {
          await this.#room();
          if (this.#closed) return;
          this.#parts.transport.send([encode("job.event", run.firstSeq, run.notice)]);
        }
        let seq = run.firstSeq;
        let n = run.firstN - 1;
        while (n < run.lastN && run.notice === undefined) {
          await this.#room();
          await nextTurn();
          if (this.#closed) return;
          const after = n;
          const events = await this.#patiently(() => recent.read(run.jobId, after, run.lastN));
          const last = events.at(-1);
          if (last === undefined) throw new Error(`Job ${run.jobId} lacks events above ${n} that were numbered.`);
          const { frames, nextSeq } = await this.#frames(encode, run.jobId, events, seq, sent);
          n = last.n;
          seq = nextSeq;
          if (this.#closed) return;
          this.#parts.transport.send(frames);
          this.#parts.stats.eventsSent += frames.length;
        }
        const from = sent;
        const through = Math.max(sent, run.firstSeq + run.count - 1);
        sent = through;
        const children = session.owesChildren
          ? await this.#patiently(() => store.sessions.readChildren(session, from, through))
          : [];
        for (const child of children) {
          this.#parts.replies.push(child);
          // What comes after would prove that it arrived.
          await this.#parts.replies.barrier();
          if (this.#closed) return;
        }
      }
      if (runs.length === 0) throw new Error(`Session ${session.sessionId} lacks runs above ${sent}.`);
    }
  }

  /** One round of live delivery: read, number and store, send. */
  async #round(): Promise<void> {
    const stretches = await this.#gather();
    if (this.#closed) return;
    if (stretches.some(({ run, followed }) => this.#followed.get(run.jobId) !== followed)) {
      // Somebody left while we read: the store would refuse the round. Read it again.
      for (const { run } of stretches) if (this.#followed.has(run.jobId)) this.#ready.add(run.jobId);
      return;
    }
    const { session, store, replies, transport } = this.#parts;
    const runs = stretches.map((stretch) => stretch.run).filter((run) => run.count > 0);
    let children: OpenedChild[] = [];
    if (runs.length > 0) {
      // Moved in the very reaction to the answer: a request that the store took after these runs, and
      // answers in the same breath, must find the follows where the store left them.
      const stored = await this.#unlessTrimmed(
        runs.map((run) => run.jobId),
        () =>
          this.#patiently(() =>
            store.sessions
              .storeRuns(session, runs, (child) => this.#frameChild(child))
              .then((opened) => {
                this.#move(stretches);
                return opened;
              }),
          ),
      );
      if (stored === undefined) return;
      children = stored;
    } else {
      this.#move(stretches);
      // Nothing was stored, so nothing has made this round wait: a long stretch of events that this
      // session does not see would keep everybody else waiting (SES-13).
      await nextTurn();
    }
    const batches: string[][] = [];
    for (const { run, followed, events } of stretches) {
      batches.push((await this.#frames(followed.encode, run.jobId, events, run.firstSeq, 0)).frames);
    }
    await replies.barrier();
    if (this.#closed) return;
    const frames = batches.flat();
    transport.send(frames);
    this.#parts.stats.eventsSent += frames.length;
    for (const { jobId, traceId, frame } of children) {
      // In its turn, behind the answers to what was asked before: a client that tells answers by their order
      // would take it for one of those.
      replies.settle(replies.reserve(), frame, () => this.follow({ jobId, traceId, positionN: 0, canCancel: true }));
    }
  }

  /** What tells of a job that a followed one has delegated. */
  #frameChild(child: DelegatedJob): string {
    return encodeMessage({
      id: newMessageId(),
      type: "job.accepted",
      session_id: this.#parts.session.sessionId,
      job_id: child.jobId,
      trace_id: child.traceId,
      payload: JSON.parse(child.acceptedPayload) as AcceptedPayload,
    });
  }

  /**
   * What `operation` answers; `undefined` when events that it needs have been trimmed. The jobs are then read
   * again, from the store, and told how much is gone.
   */
  async #unlessTrimmed<T>(jobIds: readonly string[], operation: () => Promise<T>): Promise<T | undefined> {
    try {
      return await operation();
    } catch (error) {
      if (!(error instanceof StoreRefusal) || error.reason !== "below_floor") throw error;
      for (const jobId of jobIds) {
        this.#parts.recent.forget(jobId);
        if (!this.#followed.has(jobId)) continue;
        this.#trimmed ??= new Set();
        this.#trimmed.add(jobId);
      }
      return undefined;
    }
  }

  /** Says how many events of a job went before they had a number here, and goes on behind them (STO-15). */
  async #tellTrimmed(jobId: string): Promise<void> {
    this.#trimmed?.delete(jobId);
    const followed = this.#followed.get(jobId);
    const job = await this.#patiently(() => this.#parts.store.jobs.get(jobId));
    // Who left meanwhile is told nothing: the store would refuse it.
    if (followed === undefined || this.#followed.get(jobId) !== followed || job === undefined || this.#closed) return;
    const count = job.floorN - followed.follow.positionN;
    if (count > 0) {
      const message = `${count} events were removed before this session could receive them`;
      await this.#notify(followed, { phase: "history_trimmed", message, count }, job.floorN);
    }
    this.#ready.add(jobId);
  }

  /** Tells the session, once per crossing, that it is far behind (SES-19). */
  async #tellLag(): Promise<void> {
    const { session, backPressureThreshold, logger } = this.#parts;
    if (this.#closed || !session.features.includes("ack")) return;
    // What has a number is known at once; the jobs are looked at only where they could matter.
    if (!this.#armed && this.#lastSeq - session.ackedSeq > backPressureThreshold / 2) return;
    const lag = this.#lag();
    if (lag <= backPressureThreshold / 2) this.#armed = true;
    if (!this.#armed || lag <= backPressureThreshold) return;
    const newest = [...this.#followed.values()].at(-1);
    if (newest === undefined) return;
    this.#armed = false;
    const message = `event_seq lag ${lag} exceeds threshold ${backPressureThreshold}`;
    try {
      await this.#notify(newest, { phase: "back_pressure", message, lag }, undefined);
    } catch (error) {
      // Whoever has taken the session over is found at the next run; nothing else hangs on a notice.
      logger.warn({ err: error, session_id: session.sessionId }, "back-pressure notice not stored");
    }
  }

  /** Events that the client has not acked, and those that wait to be numbered, as far as is known here. */
  #lag(): number {
    const { session, recent } = this.#parts;
    let lag = this.#lastSeq - session.ackedSeq;
    for (const { follow } of this.#followed.values()) {
      lag += Math.max(0, recent.newestN(follow.jobId) - follow.positionN);
    }
    return lag;
  }

  /** A `status` event of this session alone, under a job that it follows. */
  async #notify(
    followed: Followed,
    body: { phase: string; message: string; [more: string]: unknown },
    skipToN: number | undefined,
  ): Promise<void> {
    const { session, store, replies, transport, clock } = this.#parts;
    const payload = JSON.stringify({ kind: "status", ts: new Date(clock.wall()).toISOString(), body });
    const seq = this.#lastSeq + 1;
    const { jobId } = followed.follow;
    await this.#patiently(() => store.sessions.storeNotice(session, { seq, jobId, payload, skipToN }));
    this.#lastSeq = seq;
    if (skipToN !== undefined) followed.follow.positionN = skipToN;
    await replies.barrier();
    if (!this.#closed) transport.send([followed.encode("job.event", seq, payload)]);
  }

  /** The follows stand behind these stretches now; a terminal event ends its follow. */
  #move(stretches: readonly Stretch[]): void {
    for (const { run, followed } of stretches) {
      followed.follow.positionN = run.lastN;
      this.#lastSeq += run.count;
      if (run.endsFollow) this.#leave(run.jobId, followed);
      else if (this.#followed.has(run.jobId)) this.#ready.add(run.jobId);
    }
  }

  async #gather(): Promise<Stretch[]> {
    const stretches: Stretch[] = [];
    let events = 0;
    let chars = 0;
    let nextSeq = this.#lastSeq + 1;
    for (const jobId of [...this.#ready].slice(0, ROUND_JOBS)) {
      if (events >= ROUND_EVENTS || chars >= ROUND_CHARS) break;
      this.#ready.delete(jobId);
      const followed = this.#followed.get(jobId);
      if (followed === undefined) continue;
      const afterN = followed.follow.positionN;
      const throughN = afterN + ROUND_EVENTS - events;
      const page = await this.#unlessTrimmed([jobId], () =>
        this.#patiently(() => this.#parts.recent.read(jobId, afterN, throughN)),
      );
      const last = page?.at(-1);
      if (page === undefined || last === undefined || this.#closed || this.#followed.get(jobId) !== followed) continue;
      let count = 0;
      let delegateIds: string[] | undefined;
      for (const event of page) {
        if (this.#visible(event)) count += 1;
        chars += event.payload.length;
        if (event.kind === "delegate" && followed.follow.canCancel) {
          delegateIds ??= [];
          delegateIds.push(delegateIdOf(event));
        }
      }
      events += page.length;
      const endsFollow = isTerminal(last);
      stretches.push({
        followed,
        events: page,
        run: { firstSeq: nextSeq, count, jobId, firstN: afterN + 1, lastN: last.n, endsFollow, delegateIds },
      });
      nextSeq += count;
    }
    return stretches;
  }

  /** The frames of consecutive events, the first visible one numbered `firstSeq`; those up to `sent` left out. */
  async #frames(
    encode: Followed["encode"],
    jobId: string,
    events: readonly NewEvent[],
    firstSeq: number,
    sent: number,
  ): Promise<{ frames: string[]; nextSeq: number }> {
    const { reveal } = this.#parts;
    const frames: string[] = [];
    let seq = firstSeq;
    for (const event of events) {
      if (!this.#visible(event)) continue;
      if (seq > sent) {
        if (isTerminal(event)) {
          frames.push(encode(event.kind, seq, await this.#terminalPayload(jobId, event)));
        } else {
          const payload = reveal === undefined ? event.payload : reveal(jobId, event);
          frames.push(encode("job.event", seq, typeof payload === "string" ? payload : await payload));
        }
      }
      seq += 1;
    }
    return { frames, nextSeq: seq };
  }

  async #terminalPayload(jobId: string, event: NewEvent): Promise<string> {
    if (event.kind === "job.error" || this.#parts.session.features.includes("result_chunk")) return event.payload;
    const { store, recent } = this.#parts;
    return inlineResult(event.payload, event.n - 1, {
      floorN: async () => (await store.jobs.get(jobId))?.floorN ?? 0,
      read: (afterN, throughN) => recent.read(jobId, afterN, throughN),
    });
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  #becameIdle(): void {
    const waiting = this.#waitingForIdle;
    this.#waitingForIdle = undefined;
    for (const resolve of waiting ?? []) resolve();
  }

  #leave(jobId: string, followed: Followed): void {
    followed.stop();
    if (this.#followed.get(jobId) !== followed) return;
    this.#followed.delete(jobId);
    this.#ready.delete(jobId);
  }

  #visible(event: NewEvent): boolean {
    return this.#seesEverything || isVisible(event.kind, this.#parts.session.features);
  }

  async #room(): Promise<void> {
    const { transport } = this.#parts;
    if (transport.bufferedBytes > MAX_BUFFERED_BYTES) await transport.drained(MAX_BUFFERED_BYTES);
  }

  /** Tries again while the store is down; a refusal is final. */
  async #patiently<T>(operation: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await operation();
      } catch (error) {
        if (!(error instanceof StoreUnavailable) || this.#closed) throw error;
        this.#parts.stats.storeErrors.delivery += 1;
        this.#parts.logger.warn(
          { err: error, session_id: this.#parts.session.sessionId },
          "store down; delivery waits",
        );
        await sleep(this.#parts.clock, RETRY_MS);
      }
    }
  }
}

const delegateIdOf = (event: NewEvent): string =>
  (JSON.parse(event.payload) as { body: { delegate_id: string } }).body.delegate_id;

const isTerminal = (event: NewEvent): boolean => event.kind === "job.result" || event.kind === "job.error";

/** Lets the event loop serve everybody else. */
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
