/** A channel in memory, for tests: it shows what it was given, and fails when it is told to. */
import {
  type CallOptions,
  type Channel,
  ChannelError,
  type ChannelErrorKind,
  type ChannelLimits,
  type OutgoingMessage,
  type Receipt,
} from "../routing/deliveries/channel.ts";
import type { Route } from "../routing/route.ts";

export type FakeChannelMethod = "send" | "update" | "find" | "typing";

export interface FakeChannelFault {
  /** Rejects with this; absent: the call works. */
  kind?: ChannelErrorKind;
  retryAfterMs?: number;
  /** Whether the call is carried out, and fails only then: an answer that is lost. @default false */
  late?: boolean;
  /** The call waits for this first. */
  until?: Promise<unknown>;
}

/** What people see in one place. */
export interface FakeShown {
  readonly id: number;
  readonly route: Route;
  readonly deliveryId: string;
  readonly part: number;
  /** Every text that stood here, the newest last. */
  readonly texts: string[];
  status: OutgoingMessage["status"];
  files: OutgoingMessage["files"];
}

export interface FakeChannelOptions {
  name?: string;
  limits?: Partial<ChannelLimits>;
  /** Whether it can tell what has arrived. @default true */
  finds?: boolean;
}

/** The same place whichever way its route was written down. */
const placeOf = (route: Route): string => JSON.stringify([route.externalRoomId, route.threadId ?? null]);

export class FakeChannel implements Channel {
  readonly name: string;
  readonly limits: ChannelLimits;
  readonly find: Channel["find"];
  /** In the order in which they came up. */
  readonly shown: FakeShown[] = [];
  /** Every call that came, in order. */
  readonly calls: { method: FakeChannelMethod; deliveryId?: string; part?: number; text?: string }[] = [];
  /** Which places this process can reach. */
  reaching: (route: Route) => boolean = () => true;
  /** Places that take nothing any more. */
  archived: (route: Route) => boolean = () => false;
  readonly #faults = new Map<FakeChannelMethod, FakeChannelFault[]>();
  #lastId = 0;

  constructor({ name = "fake", limits = {}, finds = true }: FakeChannelOptions = {}) {
    this.name = name;
    this.limits = { maxTextChars: 4_000, minUpdateIntervalMs: 1_000, timeoutMs: 10_000, ...limits };
    this.find = finds ? (where, options) => this.#find(where, options) : undefined;
  }

  /** The next call of that method meets this; several wait in order. */
  fail(method: FakeChannelMethod, fault: FakeChannelFault): void {
    this.#faults.set(method, [...(this.#faults.get(method) ?? []), fault]);
  }

  /** The texts that stand in a place now, in order. */
  textsAt(route: Route): string[] {
    return this.shown.filter((one) => placeOf(one.route) === placeOf(route)).map(({ texts }) => texts.at(-1) ?? "");
  }

  /** How many calls of that method came. */
  count(method: FakeChannelMethod): number {
    return this.calls.filter((call) => call.method === method).length;
  }

  reaches(route: Route): boolean {
    return this.reaching(route);
  }

  send(message: OutgoingMessage, options: CallOptions): Promise<Receipt> {
    return this.#call("send", message, options, () => {
      this.#open(message.route);
      const { route, deliveryId, part, text, status, files } = message;
      this.#lastId += 1;
      this.shown.push({ id: this.#lastId, route, deliveryId, part, texts: [text], status, files });
      return { id: this.#lastId };
    });
  }

  update(receipt: Receipt, message: OutgoingMessage, options: CallOptions): Promise<void> {
    return this.#call("update", message, options, () => {
      this.#open(message.route);
      const one = this.shown.find(({ id }) => id === receipt["id"]);
      if (one === undefined) throw new ChannelError("refused", `there is no message ${receipt["id"]}`);
      one.texts.push(message.text);
      one.status = message.status;
      one.files = message.files;
    });
  }

  typing(route: Route, options: CallOptions): Promise<void> {
    return this.#call("typing", undefined, options, () => this.#open(route));
  }

  #find(
    { route, deliveryId }: { route: Route; deliveryId: string },
    options: CallOptions,
  ): Promise<{ part: number; receipt: Receipt }[]> {
    return this.#call("find", { deliveryId }, options, () =>
      this.shown
        .filter((one) => one.deliveryId === deliveryId && placeOf(one.route) === placeOf(route))
        .map(({ part, id }) => ({ part, receipt: { id } })),
    );
  }

  #open(route: Route): void {
    if (this.archived(route)) throw new ChannelError("refused", "the place is archived");
  }

  async #call<T>(
    method: FakeChannelMethod,
    about: { deliveryId: string; part?: number; text?: string } | undefined,
    { signal }: CallOptions,
    work: () => T,
  ): Promise<T> {
    const { deliveryId, part, text } = about ?? {};
    this.calls.push({
      method,
      ...(deliveryId === undefined ? {} : { deliveryId }),
      ...(part === undefined ? {} : { part }),
      ...(text === undefined ? {} : { text }),
    });
    if (signal.aborted) throw new ChannelError("retry", "the call was not made: its signal has aborted");
    const { kind, retryAfterMs, late = false, until } = this.#faults.get(method)?.shift() ?? {};
    if (until !== undefined) await within(signal, until);
    if (kind === undefined) return work();
    if (late) work();
    throw new ChannelError(
      kind,
      `${method} fails, as the test wants it`,
      retryAfterMs === undefined ? {} : { retryAfterMs },
    );
  }
}

async function within(signal: AbortSignal, work: Promise<unknown>): Promise<void> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(new ChannelError("unclear", "the call was stopped", { cause: signal.reason }));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
