/**
 * Sends answers: one for each process. It looks once a second, and whenever a turn ends here, for what is due, claims
 * what its channels reach, and sends that, a few at a time; the order within a conversation is the store's (DLV-5).
 *
 * A claim is a lease: no call is begun that may outlast it, and each part that the channel has taken is noted under it
 * at once, so whoever claims the delivery next goes on from there. Between a part's arrival and its note a process may
 * die: then the next one asks the channel what has arrived, where the channel can tell (DLV-7).
 */
import { type Clock, sleep } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import type {
  DeliveredPart,
  DeliveryFacet,
  DeliveryRecord,
  DeliverySettlement,
  DueDelivery,
} from "../../store/store.ts";
import type { Route } from "../route.ts";
import { type Answer, answerOf, type Ending } from "./answer.ts";
import { callChannel, wordsOf } from "./call.ts";
import { type Channel, ChannelError, type OutgoingMessage, type Receipt } from "./channel.ts";
import type { DeliveryListeners } from "./events.ts";
import { split } from "./split.ts";

export interface SenderParts {
  deliveries: DeliveryFacet;
  clock: Clock;
  logger: Logger;
  listeners: DeliveryListeners;
  channels: ReadonlyMap<string, Channel>;
  /** Says an answer in the host's own way; `undefined`: as always. */
  render: ((ending: Ending, of: { jobId: string; conversationId: string }) => Answer | undefined) | undefined;
  maxAttempts: number;
  maxParts: number;
  nodeId(): string;
  /** How a job ended; `undefined` for one that is not there, or has not. */
  ending(jobId: string): Promise<Ending | undefined>;
  /** Aborts when nobody waits for calls any more. */
  stop: AbortSignal;
}

/** Answers that are sent at one time. */
const AT_ONCE = 16;
/** Rows that one question for what is due may answer, and questions of one look. */
const PAGE = 64;
const PAGES_PER_LOOK = 8;
const LEAST_LEASE_MS = 30_000;
const FIRST_BACKOFF_MS = 1_000;
const LONGEST_BACKOFF_MS = 300_000;
/** A rate limit beyond this is not believed. */
const LONGEST_RATE_LIMIT_MS = 3_600_000;
const NOTE_AGAIN_MS = 500;

/** A claim that somebody else has by now: what is done under it is done by him. */
class ClaimLost extends Error {
  override readonly name = "ClaimLost";
}

export class Sender {
  readonly #parts: SenderParts;
  readonly #leaseMs: number;
  readonly #sending = new Map<string, Promise<void>>();
  #running = false;
  #looking: Promise<void> | undefined;
  #again = false;
  /** Where the last look came to, if it did not see all: places that are not reached from here may be many. */
  #after: DueDelivery | undefined;

  constructor(parts: SenderParts) {
    this.#parts = parts;
    const longestCall = Math.max(0, ...[...parts.channels.values()].map(({ limits }) => limits.timeoutMs));
    this.#leaseMs = Math.max(LEAST_LEASE_MS, 3 * longestCall);
  }

  start(): void {
    if (this.#parts.channels.size === 0) return;
    this.#running = true;
    this.look();
  }

  /** Finishes its look, and waits until what it sends is sent, or given back between two parts. */
  async stop(): Promise<void> {
    if (!this.#running) return;
    while (this.#looking !== undefined) await this.#looking;
    this.#running = false;
    await Promise.all(this.#sending.values());
  }

  /** Looks for what is due; a look that is under way is followed by another. */
  look(): void {
    if (!this.#running) return;
    if (this.#looking !== undefined) {
      this.#again = true;
      return;
    }
    this.#looking = this.#look()
      .catch((error: unknown) => this.#parts.logger.warn({ err: error }, "answers that are due could not be looked at"))
      .finally(() => {
        this.#looking = undefined;
        if (!this.#running || !this.#again) return;
        this.#again = false;
        this.look();
      });
  }

  async #look(): Promise<void> {
    const { deliveries, clock, channels, nodeId } = this.#parts;
    for (let pages = 0; pages < PAGES_PER_LOOK && this.#sending.size < AT_ONCE; pages += 1) {
      const names = [...channels.keys()];
      const due = await deliveries.due({ channels: names, after: this.#after, limit: PAGE, now: clock.wall() });
      const free = AT_ONCE - this.#sending.size;
      const reached = due.filter((one) => !this.#sending.has(one.deliveryId) && this.#reaches(one));
      const ids = reached.slice(0, free).map(({ deliveryId }) => deliveryId);
      if (ids.length > 0) {
        const askedAt = clock.monotonic();
        const claim = { deliveryIds: ids, nodeId: nodeId(), leaseMs: this.#leaseMs, now: clock.wall() };
        for (const record of await deliveries.claim(claim)) this.#begin(record, askedAt);
      }
      // What was left for want of room is looked at again from here.
      if (reached.length > free) return;
      this.#after = due.length < PAGE ? undefined : due.at(-1);
      if (this.#after === undefined) return;
    }
  }

  #reaches({ channel: name, route }: DueDelivery): boolean {
    const channel = this.#parts.channels.get(name);
    return channel !== undefined && (channel.reaches?.(JSON.parse(route) as Route) ?? true);
  }

  #begin(record: DeliveryRecord, askedAt: number): void {
    const channel = this.#parts.channels.get(record.channel);
    if (channel === undefined) return;
    const work = new Attempt(
      record,
      channel,
      askedAt + this.#leaseMs,
      this.#leaseMs,
      this.#parts,
      () => !this.#running,
    );
    const sent = work.run().finally(() => {
      this.#sending.delete(record.deliveryId);
      // The next of its conversation may go, and there is room.
      this.look();
    });
    this.#sending.set(record.deliveryId, sent);
  }
}

/** One try at one delivery, under its claim. Settles it, whatever happens, unless the store or somebody else has it. */
class Attempt {
  readonly #record: DeliveryRecord;
  readonly #channel: Channel;
  readonly #parts: SenderParts;
  readonly #leaseMs: number;
  readonly #stopping: () => boolean;
  readonly #route: Route;
  readonly #done: Map<number, { receipt: Receipt; final: boolean }>;
  /** On the monotonic clock. */
  #claimEndsAt: number;

  constructor(
    record: DeliveryRecord,
    channel: Channel,
    claimEndsAt: number,
    leaseMs: number,
    parts: SenderParts,
    stopping: () => boolean,
  ) {
    this.#record = record;
    this.#channel = channel;
    this.#claimEndsAt = claimEndsAt;
    this.#leaseMs = leaseMs;
    this.#parts = parts;
    this.#stopping = stopping;
    this.#route = JSON.parse(record.route) as Route;
    this.#done = new Map(
      record.parts.map(({ part, receipt, final }) => [part, { receipt: JSON.parse(receipt) as Receipt, final }]),
    );
  }

  async run(): Promise<void> {
    const { logger } = this.#parts;
    const fields = this.#fields();
    try {
      await this.#settle(await this.#outcome());
    } catch (error) {
      if (error instanceof ClaimLost) logger.warn(fields, "somebody else sends this answer by now");
      else logger.error({ err: error, ...fields }, "what became of an answer could not be stored; its claim runs out");
    }
  }

  async #outcome(): Promise<DeliverySettlement> {
    try {
      return (await this.#send()) ? { state: "delivered" } : this.#back(undefined, false);
    } catch (error) {
      if (error instanceof ClaimLost) throw error;
      if (error instanceof ChannelError) return this.#failure(error);
      this.#parts.logger.error({ err: error, ...this.#fields() }, "an answer could not be sent; trying again");
      return this.#again(new ChannelError("retry", wordsOf(error), { cause: error }));
    }
  }

  /** @returns false when it was given back, because the sender stops */
  async #send(): Promise<boolean> {
    const { maxParts, ending: endingOf } = this.#parts;
    const { jobId, conversationId, deliveryId } = this.#record;
    const ending = await endingOf(jobId);
    if (ending === undefined) throw new ChannelError("refused", `how ${jobId} ended is not known any more`);
    const { text, files = [] } = this.#render(ending);
    const texts = capped(split(text, this.#channel.limits.maxTextChars), maxParts, this.#channel, jobId);
    if (this.#record.unclear) await this.#find();
    for (const [index, partText] of texts.entries()) {
      const part = index + 1;
      if (this.#done.get(part)?.final === true) continue;
      if (this.#stopping() && index > 0) return false;
      await this.#sendPart({
        route: this.#route,
        deliveryId,
        jobId,
        conversationId,
        part,
        text: partText,
        status: ending.status,
        files: part === texts.length ? files : [],
      });
    }
    return true;
  }

  #render(ending: Ending): Answer {
    const { render, logger } = this.#parts;
    try {
      const own = render?.(ending, this.#record);
      if (own !== undefined && own.text.trim() !== "") return own;
    } catch (error) {
      logger.error({ err: error, ...this.#fields() }, "the host's rendering of an answer failed; it is said as always");
    }
    return answerOf(ending);
  }

  /** What has arrived already is not sent again. */
  async #find(): Promise<void> {
    const { find } = this.#channel;
    if (find === undefined) return;
    const where = { route: this.#route, deliveryId: this.#record.deliveryId };
    const found = await this.#call((options) => find.call(this.#channel, where, options));
    const news = found.filter(({ part }) => !this.#done.has(part));
    // A first message may be from while the turn ran; putting the answer into it once more does no harm.
    for (const { part, receipt } of news) this.#done.set(part, { receipt, final: part > 1 });
    if (news.length > 0) await this.#note(news.map(({ part }) => part));
  }

  async #sendPart(message: OutgoingMessage): Promise<void> {
    const known = this.#done.get(message.part);
    const receipt = known === undefined ? undefined : await this.#update(known.receipt, message);
    this.#done.set(message.part, {
      receipt: receipt ?? (await this.#call((options) => this.#channel.send(message, options))),
      final: true,
    });
    await this.#note([message.part]);
  }

  /** @returns `undefined` when the message is gone, and has to be sent anew */
  async #update(receipt: Receipt, message: OutgoingMessage): Promise<Receipt | undefined> {
    try {
      await this.#call((options) => this.#channel.update(receipt, message, options));
      return receipt;
    } catch (error) {
      if (error instanceof ChannelError && error.kind === "refused") return undefined;
      throw error;
    }
  }

  /** A call that ends before the claim does (law 3). */
  async #call<T>(work: Parameters<typeof callChannel<T>>[1]): Promise<T> {
    const { clock, stop } = this.#parts;
    const { timeoutMs } = this.#channel.limits;
    while (this.#claimEndsAt - clock.monotonic() <= timeoutMs) await this.#note([]);
    return await callChannel({ clock, timeoutMs, stop }, work);
  }

  /** Stores what has arrived, and has the claim for longer; as long as the claim lasts, it is tried again. */
  async #note(partNumbers: readonly number[]): Promise<void> {
    const { deliveries, clock, logger, stop } = this.#parts;
    const { deliveryId, attempt } = this.#record;
    const parts = partNumbers.flatMap((part): DeliveredPart[] => {
      const done = this.#done.get(part);
      return done === undefined ? [] : [{ part, receipt: JSON.stringify(done.receipt), final: done.final }];
    });
    for (;;) {
      const askedAt = clock.monotonic();
      try {
        const leaseMs = this.#leaseMs;
        const held = await deliveries.note({ deliveryId, attempt, parts, leaseMs, now: clock.wall() });
        if (!held) throw new ClaimLost(`the claim of ${deliveryId} is lost`);
        this.#claimEndsAt = askedAt + leaseMs;
        return;
      } catch (error) {
        if (error instanceof ClaimLost || stop.aborted || clock.monotonic() >= this.#claimEndsAt) throw error;
        logger.warn({ err: error, ...this.#fields() }, "that an answer has arrived could not be stored; trying again");
      }
      await sleep(clock, NOTE_AGAIN_MS);
    }
  }

  #failure(error: ChannelError): DeliverySettlement {
    switch (error.kind) {
      case "refused":
        return { state: "failed", error: wordsOf(error), unclear: false };
      case "rate_limited":
        return this.#back(error, false);
      case "retry":
      case "unclear":
        return this.#parts.stop.aborted ? this.#back(error, false) : this.#again(error);
    }
  }

  /** Another try, later; or none, after too many. */
  #again(error: ChannelError): DeliverySettlement {
    if (this.#record.failures + 1 >= this.#parts.maxAttempts) {
      return { state: "failed", error: wordsOf(error), unclear: error.kind === "unclear" };
    }
    return this.#back(error, true);
  }

  #back(error: ChannelError | undefined, failed: boolean): DeliverySettlement {
    const now = this.#parts.clock.wall();
    const dueAt = now + (failed ? backoffMs(this.#record.failures) : waitMs(error));
    const words = error === undefined ? undefined : wordsOf(error);
    return { state: "pending", dueAt, error: words, unclear: error?.kind === "unclear", failed };
  }

  async #settle(settlement: DeliverySettlement): Promise<void> {
    const { deliveries, clock, logger, listeners } = this.#parts;
    const { deliveryId, attempt } = this.#record;
    const held = await deliveries.settle({ deliveryId, attempt, settlement, now: clock.wall() });
    if (!held) throw new ClaimLost(`the claim of ${deliveryId} is lost`);
    const { jobId, conversationId, channel } = this.#record;
    const of = { deliveryId, jobId, conversationId, channel, attempt };
    switch (settlement.state) {
      case "delivered":
        logger.info({ ...this.#fields(), parts: this.#done.size }, "an answer was delivered");
        listeners.tell("delivered", { ...of, parts: this.#done.size });
        return;
      case "failed":
        logger.error({ ...this.#fields(), error: settlement.error }, "an answer could not be delivered and is kept");
        listeners.tell("failed", { ...of, error: settlement.error });
        return;
      case "pending": {
        const { error, dueAt, unclear } = settlement;
        if (error === undefined) return;
        const kind = unclear ? "unclear" : settlement.failed ? "retry" : "rate_limited";
        logger.warn(
          { ...this.#fields(), kind, error, due_at: dueAt },
          "an answer could not be delivered; trying again",
        );
        listeners.tell("retrying", { ...of, kind, error, dueAt });
      }
    }
  }

  #fields() {
    const { deliveryId, jobId, conversationId, channel, attempt } = this.#record;
    return { delivery_id: deliveryId, job_id: jobId, conversation_id: conversationId, channel, attempt };
  }
}

/** How long a channel wants to be left alone; nothing where it is the sender that stops. */
function waitMs(error: ChannelError | undefined): number {
  if (error?.kind !== "rate_limited") return 0;
  const given = error.retryAfterMs ?? FIRST_BACKOFF_MS;
  return Math.min(Math.max(given, FIRST_BACKOFF_MS), LONGEST_RATE_LIMIT_MS);
}

/** Twice as long each time, and never all at once. */
function backoffMs(failures: number): number {
  const longest = Math.min(FIRST_BACKOFF_MS * 2 ** Math.min(failures, 30), LONGEST_BACKOFF_MS);
  return Math.round(longest * (0.5 + Math.random() / 2));
}

/** An answer that is longer than people read ends with where the rest is. */
function capped(texts: string[], maxParts: number, channel: Channel, jobId: string): string[] {
  if (texts.length <= maxParts) return texts;
  const note = `\n\n… The answer is longer than ${maxParts} messages; the result of ${jobId} has all of it.`;
  const kept = texts.slice(0, maxParts);
  const last = kept.pop() ?? "";
  const room = channel.limits.maxTextChars - note.length;
  return [...kept, room > 0 ? `${split(last, room)[0]}${note}` : last];
}
