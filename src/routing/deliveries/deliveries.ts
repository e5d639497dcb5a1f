/**
 * Deliveries: a turn's answer goes where the message came from. Here is what a process does about it (pin, show,
 * send) and what an operator sees; the store decides what is due and whose it is (store/deliveries.ts).
 */
import type { Clock } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import {
  type DeliveryFacet,
  type DeliveryRecord,
  type DeliveryState,
  type NewDelivery,
  type NewEvent,
  StoreRefusal,
} from "../../store/store.ts";
import type { Route } from "../route.ts";
import type { Answer, Ending } from "./answer.ts";
import type { Channel } from "./channel.ts";
import { type DeliveryEvents, DeliveryListeners } from "./events.ts";
import { pin, type ReplyTo, type RouteTable } from "./pin.ts";
import { Progress } from "./progress.ts";
import { Sender } from "./sender.ts";

/** A way out that this process has. */
export interface ChannelOptions {
  channel: Channel;
  /** Whether a thread's answer may go to its whole room where the table knows no route for the thread. @default false */
  roomFallback?: boolean;
}

export interface DeliveriesOptions {
  channels: readonly (Channel | ChannelOptions)[];
  /** Where answers go; without one, a turn brings its route as a fallback. */
  routes?: RouteTable;
  /** Says an answer in the host's own way; `undefined`, or an empty text: as always. */
  render?: (ending: Ending, of: { jobId: string; conversationId: string }) => Answer | undefined;
  /** Tries that may come to nothing before an answer is given up and kept. @default 20 */
  maxAttempts?: number;
  /** Messages that one answer may take. @default 20 */
  maxParts?: number;
}

/** What deliveries need of a runtime and its conversations. */
export interface DeliveriesHost {
  readonly store: DeliveryFacet;
  readonly clock: Clock;
  readonly logger: Logger;
  nodeId(): string;
  /** Events of a job above an n that are still kept, in order; a page of them. */
  read(jobId: string, afterN: number): Promise<readonly NewEvent[]>;
  /** Calls `listener` when the job's log has grown. @returns what ends that */
  onGrown(jobId: string, listener: () => void): () => void;
  /** How a job ended; `undefined` for one that is not there, or has not. */
  ending(jobId: string): Promise<Ending | undefined>;
  /** How long the lock of a turn that runs here is surely held. */
  lockRemainingMs(jobId: string): number;
}

/** Who asks: an operator sees all deliveries, others those of their own jobs. */
export interface DeliveryViewer {
  principal: string;
  operator: boolean;
}

export interface DeliveryQuery {
  state?: DeliveryState | undefined;
  channel?: string | undefined;
  conversationId?: string | undefined;
  /** 1 to 1000. @default 100 */
  limit?: number | undefined;
  cursor?: string | undefined;
}

const DEFAULT_PAGE = 100;
/** How long a stop waits for calls that are under way. */
const STOP_GRACE_MS = 3_000;

export class Deliveries {
  readonly #host: DeliveriesHost;
  readonly #listeners: DeliveryListeners;
  readonly #channels: ReadonlyMap<string, Channel>;
  readonly #roomFallback: ReadonlyMap<string, { roomFallback: boolean }>;
  readonly #routes: RouteTable | undefined;
  readonly #sender: Sender;
  readonly #stop = new AbortController();
  /** Of the turns that run here, by job; `undefined` while its delivery is looked up. */
  readonly #progress = new Map<string, Progress | undefined>();
  readonly #finishing = new Set<Promise<void>>();

  /** @throws RangeError for options that cannot be */
  constructor(host: DeliveriesHost, options: DeliveriesOptions = { channels: [] }) {
    this.#host = host;
    this.#listeners = new DeliveryListeners(host.logger);
    const given = options.channels.map((one) => ("channel" in one ? one : { channel: one }));
    this.#channels = new Map(given.map(({ channel }) => [channel.name, channel]));
    if (this.#channels.size < given.length) throw new RangeError("channels: two have the same name.");
    for (const { channel } of given) checkLimits(channel);
    this.#roomFallback = new Map(
      given.map(({ channel, roomFallback = false }) => [channel.name, { roomFallback }] as const),
    );
    this.#routes = options.routes;
    const { store, clock, logger, nodeId, ending } = host;
    this.#sender = new Sender({
      deliveries: store,
      clock,
      logger,
      nodeId,
      ending,
      listeners: this.#listeners,
      channels: this.#channels,
      render: options.render,
      maxAttempts: countOf(options.maxAttempts ?? 20, "maxAttempts"),
      maxParts: countOf(options.maxParts ?? 20, "maxParts"),
      stop: this.#stop.signal,
    });
  }

  /** Calls `listener` for each event of that name. @returns what takes it off again */
  on<K extends keyof DeliveryEvents>(name: K, listener: (event: DeliveryEvents[K]) => void): () => void {
    return this.#listeners.add(name, listener);
  }

  /** Newest first: one's own; an operator sees all. @throws ArcpError INVALID_REQUEST for a bad cursor */
  async list(
    who: DeliveryViewer,
    query: DeliveryQuery = {},
  ): Promise<{ deliveries: DeliveryRecord[]; nextCursor: string | undefined }> {
    const principal = who.operator ? undefined : who.principal;
    try {
      return await this.#host.store.list({ ...query, principal, limit: query.limit ?? DEFAULT_PAGE });
    } catch (error) {
      if (!(error instanceof StoreRefusal) || error.reason !== "bad_cursor") throw error;
      throw new ArcpError("INVALID_REQUEST", "cursor: is not one that a list has given; start without one.");
    }
  }

  /** @throws ArcpError INVALID_REQUEST for one that is not there, or not for this one to see */
  async get(deliveryId: string, who: DeliveryViewer): Promise<DeliveryRecord> {
    const record = await this.#host.store.get({ deliveryId });
    if (record === undefined || !(who.operator || record.principal === who.principal)) throw unknown(deliveryId);
    return record;
  }

  /** Has an answer that failed tried again. @throws ArcpError INVALID_REQUEST, also for one that has not failed */
  async retry(deliveryId: string, who: DeliveryViewer): Promise<DeliveryRecord> {
    const record = await this.#operate("retry", deliveryId, who);
    this.#sender.look();
    return record;
  }

  /** Gives an answer up: nobody sends it any more. @throws ArcpError INVALID_REQUEST, also for one that is on its way */
  discard(deliveryId: string, who: DeliveryViewer): Promise<DeliveryRecord> {
    return this.#operate("discard", deliveryId, who);
  }

  async #operate(what: "retry" | "discard", deliveryId: string, who: DeliveryViewer): Promise<DeliveryRecord> {
    const { store, clock, logger } = this.#host;
    await this.get(deliveryId, who);
    const record = await store[what](deliveryId, clock.wall()).catch((error: unknown) => {
      if (!(error instanceof StoreRefusal)) throw error;
      if (error.reason === "unknown_delivery") throw unknown(deliveryId);
      throw new ArcpError("INVALID_REQUEST", `delivery: ${error.message}.`, { details: { reason: error.reason } });
    });
    const { jobId, conversationId } = record;
    logger.info(
      {
        audit: `delivery.${what}`,
        principal: who.principal,
        delivery_id: deliveryId,
        job_id: jobId,
        conversation_id: conversationId,
      },
      what === "retry" ? "an answer is tried again" : "an answer was discarded",
    );
    return record;
  }

  /** Where a turn's answer goes, to be stored with it. @throws ArcpError INVALID_REQUEST naming the field */
  pin(replyTo: ReplyTo): Promise<NewDelivery> {
    return pin(replyTo, { routes: this.#routes, channels: this.#roomFallback });
  }

  /** For conversations: the runtime runs. */
  start(): void {
    this.#sender.start();
  }

  /** For conversations: the channels that this process has. */
  get channels(): readonly string[] {
    return [...this.#channels.keys()];
  }

  /** For conversations: something is due. */
  look(): void {
    this.#sender.look();
  }

  /** For conversations: a turn's job runs here, under that epoch. */
  began(jobId: string, runEpoch: number): void {
    if (this.#channels.size === 0) return;
    this.#progress.set(jobId, undefined);
    this.#host.store.get({ jobId }).then(
      (record) => record !== undefined && this.#show(record, runEpoch),
      (error: unknown) => this.#host.logger.warn({ err: error, job_id: jobId }, "a turn's work is not shown"),
    );
  }

  /** For conversations: that job is over here, however it ended. */
  ended(jobId: string): void {
    const progress = this.#progress.get(jobId);
    this.#progress.delete(jobId);
    if (progress === undefined) {
      this.#sender.look();
      return;
    }
    const finishing = progress.finish().finally(() => {
      this.#finishing.delete(finishing);
      this.#sender.look();
    });
    this.#finishing.add(finishing);
  }

  /**
   * For conversations: no job runs here any more. What is being sent goes out, and the rest is left to others.
   */
  async stop(): Promise<void> {
    const { clock } = this.#host;
    const grace = clock.after(STOP_GRACE_MS, () => this.#stop.abort(new Error("the runtime stops")));
    await Promise.all(this.#finishing);
    await this.#sender.stop();
    grace.cancel();
  }

  #show(record: DeliveryRecord, runEpoch: number): void {
    const { jobId, deliveryId, conversationId } = record;
    const channel = this.#channels.get(record.channel);
    const route = JSON.parse(record.route) as Route;
    // The turn may be over by now.
    if (!this.#progress.has(jobId) || channel === undefined || channel.reaches?.(route) === false) return;
    const { store, clock, logger, read, onGrown, lockRemainingMs } = this.#host;
    this.#progress.set(
      jobId,
      new Progress({
        deliveries: store,
        clock,
        logger,
        channel,
        delivery: { deliveryId, jobId, conversationId, route },
        runEpoch,
        read: (afterN) => read(jobId, afterN),
        onGrown: (listener) => onGrown(jobId, listener),
        lockRemainingMs: () => lockRemainingMs(jobId),
        stop: this.#stop.signal,
        shown: () => this.#listeners.tell("shown", { deliveryId, jobId, conversationId, channel: channel.name }),
      }),
    );
  }
}

/** At most an hour: a claim lasts as long as several calls. */
const LONGEST_CALL_MS = 3_600_000;

function checkLimits({ name, limits }: Channel): void {
  const { maxTextChars, minUpdateIntervalMs, timeoutMs } = limits;
  const bad = (limit: string, value: number, rule: string) =>
    new RangeError(`channels: ${limit} of ${JSON.stringify(name)}: ${value} is not ${rule}.`);
  if (!Number.isSafeInteger(maxTextChars) || maxTextChars < 1) {
    throw bad("maxTextChars", maxTextChars, "a whole number of at least 1");
  }
  if (!(minUpdateIntervalMs >= 0)) throw bad("minUpdateIntervalMs", minUpdateIntervalMs, "a number of at least 0");
  if (!(timeoutMs > 0 && timeoutMs <= LONGEST_CALL_MS)) {
    throw bad("timeoutMs", timeoutMs, `a number above 0 and up to ${LONGEST_CALL_MS} (an hour)`);
  }
}

function countOf(count: number, name: string): number {
  if (Number.isSafeInteger(count) && count >= 1) return count;
  throw new RangeError(`${name}: ${count} is not a whole number of at least 1.`);
}

const unknown = (deliveryId: string): ArcpError =>
  new ArcpError("INVALID_REQUEST", `delivery: there is no ${JSON.stringify(deliveryId.slice(0, 128))}.`, {
    details: { reason: "unknown_delivery" },
  });
