/**
 * What people see while a turn runs: one message that is sent when there is something to say, and updated after that.
 * It tails the job's log like any reader (law 1), so the agent waits for nothing here; calls come one at a time, at
 * most one in the channel's interval, and each may fail or be left out.
 *
 * Every call is noted before it is made, under the run's epoch, with the time by which it is over (law 3): what ends
 * the turn meanwhile leaves the answer to wait for it, so a late update cannot stand where the answer should.
 */
import type { Clock, Timer } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import type { DeliveryFacet, NewEvent } from "../../store/store.ts";
import type { Route } from "../route.ts";
import { callChannel } from "./call.ts";
import { type Channel, ChannelError, type Receipt } from "./channel.ts";
import { beginning } from "./split.ts";

export interface ProgressParts {
  deliveries: DeliveryFacet;
  clock: Clock;
  logger: Logger;
  channel: Channel;
  delivery: { readonly deliveryId: string; readonly jobId: string; readonly conversationId: string; route: Route };
  runEpoch: number;
  /** Events above an n that are still kept, in order; a page of them. */
  read(afterN: number): Promise<readonly NewEvent[]>;
  /** Calls `listener` when the job's log has grown. @returns what ends that */
  onGrown(listener: () => void): () => void;
  /** How long the turn's lock is surely held. */
  lockRemainingMs(): number;
  stop: AbortSignal;
  shown(): void;
}

/** Pages that are read before one update; the rest waits for the next. */
const PAGES_AT_ONCE = 16;

export class Progress {
  readonly #parts: ProgressParts;
  readonly #offGrown: () => void;
  /** Aborted when the turn is over: a sign that an answer is on its way is of no use then. */
  readonly #over = new AbortController();
  #timer: Timer | undefined;
  #showing: Promise<void> | undefined;
  #again = false;
  #nextAt: number;
  #position = 0;
  /** The begin of the answer, as far as it is there. */
  #answer = "";
  /** What the agent last said of its work. */
  #line = "";
  #text = "";
  #receipt: Receipt | undefined;
  #unclear = false;
  /** The channel takes no more of this. */
  #mute = false;
  /** A call was noted, and that it is over has not been. */
  #owes = false;

  constructor(parts: ProgressParts) {
    this.#parts = parts;
    const { clock, channel } = parts;
    // A turn that is over soon has no such message.
    this.#nextAt = clock.monotonic() + channel.limits.minUpdateIntervalMs;
    this.#offGrown = parts.onGrown(() => this.#wake());
    this.#showTyping();
    this.#wake();
  }

  /** The turn is over: waits for a call that is under way, and leaves the rest to whoever sends the answer. */
  async finish(): Promise<void> {
    this.#over.abort(new Error("the turn is over"));
    this.#offGrown();
    this.#timer?.cancel();
    await this.#showing;
    if (!this.#owes) return;
    const { logger, delivery } = this.#parts;
    try {
      await this.#note(undefined);
    } catch (error) {
      logger.warn({ err: error, delivery_id: delivery.deliveryId }, "an answer waits longer than it would have to");
    }
  }

  #wake(): void {
    if (this.#over.signal.aborted || this.#mute || this.#timer !== undefined) return;
    if (this.#showing !== undefined) {
      this.#again = true;
      return;
    }
    const { clock } = this.#parts;
    this.#timer = clock.after(Math.max(0, this.#nextAt - clock.monotonic()), () => {
      this.#timer = undefined;
      this.#showing = this.#show()
        .catch((error: unknown) => this.#failed(error))
        .finally(() => {
          this.#showing = undefined;
          if (!this.#again) return;
          this.#again = false;
          this.#wake();
        });
    });
  }

  #failed(error: unknown): void {
    const { logger, clock, channel, delivery } = this.#parts;
    this.#nextAt = clock.monotonic() + channel.limits.minUpdateIntervalMs;
    if (error instanceof ChannelError) {
      // A place that refuses, and a first message that may have arrived: the answer will settle it.
      this.#mute = error.kind === "refused" || (error.kind === "unclear" && this.#receipt === undefined);
      if (error.kind === "rate_limited") this.#nextAt += error.retryAfterMs ?? 0;
      this.#text = "";
      this.#again = !this.#mute;
    }
    logger.info({ err: error, delivery_id: delivery.deliveryId }, "a turn's work could not be shown");
  }

  async #show(): Promise<void> {
    const { clock, channel, delivery, lockRemainingMs, stop, shown } = this.#parts;
    await this.#read();
    const text = beginning(this.#answer === "" ? this.#line : this.#answer, channel.limits.maxTextChars);
    const { timeoutMs } = channel.limits;
    if (text.trim() === "" || text === this.#text || lockRemainingMs() <= timeoutMs) return;
    const until = clock.wall() + timeoutMs;
    const endsAt = clock.monotonic() + timeoutMs;
    if (!(await this.#note(until))) {
      this.#mute = true;
      return;
    }
    this.#owes = true;
    const leftMs = Math.min(endsAt - clock.monotonic(), until - clock.wall());
    if (leftMs <= 0 || this.#over.signal.aborted) return;
    const { route, deliveryId, jobId, conversationId } = delivery;
    const message = { route, deliveryId, jobId, conversationId, part: 1, text, status: "working" as const, files: [] };
    this.#text = text;
    const receipt = this.#receipt;
    try {
      if (receipt === undefined) {
        this.#unclear = true;
        this.#receipt = await callChannel({ clock, timeoutMs: leftMs, stop }, (options) =>
          channel.send(message, options),
        );
        this.#unclear = false;
        await this.#note(undefined);
        this.#owes = false;
      } else {
        await callChannel({ clock, timeoutMs: leftMs, stop }, (options) => channel.update(receipt, message, options));
      }
    } catch (error) {
      if (error instanceof ChannelError && error.kind !== "unclear") this.#unclear = false;
      throw error;
    }
    this.#nextAt = clock.monotonic() + channel.limits.minUpdateIntervalMs;
    shown();
  }

  /** @returns false when this run shows nothing any more */
  #note(until: number | undefined): Promise<boolean> {
    const { deliveries, clock, delivery, runEpoch } = this.#parts;
    const receipt = this.#receipt === undefined ? undefined : JSON.stringify(this.#receipt);
    return deliveries.stream({
      deliveryId: delivery.deliveryId,
      runEpoch,
      until,
      receipt,
      // What is about to be sent may arrive, and its process die before it can say so.
      unclear: this.#unclear || (until !== undefined && receipt === undefined),
      now: clock.wall(),
    });
  }

  async #read(): Promise<void> {
    for (let page = 0; page < PAGES_AT_ONCE; page += 1) {
      const events = await this.#parts.read(this.#position);
      for (const event of events) this.#take(event);
      const last = events.at(-1);
      if (last === undefined) return;
      this.#position = last.n;
    }
    this.#again = true;
  }

  #take({ kind, payload }: NewEvent): void {
    switch (kind) {
      case "result_chunk": {
        const { data, encoding } = bodyOf<{ data: string; encoding: string }>(payload);
        const { maxTextChars } = this.#parts.channel.limits;
        if (encoding === "utf8" && this.#answer.length <= maxTextChars) this.#answer += data.slice(0, maxTextChars + 1);
        return;
      }
      case "progress": {
        const { current, total, units, message } = bodyOf<ProgressBody>(payload);
        const count = `${current}${total === undefined ? "" : `/${total}`}${units === undefined ? "" : ` ${units}`}`;
        this.#line = message === undefined ? count : `${message} (${count})`;
        return;
      }
      case "status": {
        const { phase, message } = bodyOf<{ phase: string; message?: string }>(payload);
        this.#line = message ?? phase;
        return;
      }
      case "thought":
        this.#line = bodyOf<{ text: string }>(payload).text;
    }
  }

  #showTyping(): void {
    const { channel, clock, logger, delivery, lockRemainingMs, stop } = this.#parts;
    const { timeoutMs } = channel.limits;
    if (channel.typing === undefined || lockRemainingMs() <= timeoutMs) return;
    const { typing } = channel;
    callChannel({ clock, timeoutMs, stop: AbortSignal.any([stop, this.#over.signal]) }, (options) =>
      typing.call(channel, delivery.route, options),
    ).catch((error: unknown) =>
      logger.debug({ err: error, delivery_id: delivery.deliveryId }, "that an answer is on its way could not be shown"),
    );
  }
}

interface ProgressBody {
  current: number;
  total?: number;
  units?: string;
  message?: string;
}

const bodyOf = <T>(payload: string): T => (JSON.parse(payload) as { body: T }).body;
