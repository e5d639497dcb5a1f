import assert from "node:assert/strict";
import { systemClock } from "../src/clock.ts";
import { type Envelope, encodeMessage, FEATURES, IN_REPLY_TO, newMessageId } from "../src/protocol/index.ts";
import type { Transport } from "../src/transport/transport.ts";

/** A frame as it came, and what it says. */
export interface Received {
  frame: string;
  envelope: Envelope;
}

const DEADLINE_MS = 10_000;

/**
 * A client that speaks frames and believes nothing: tests see the wire through it, not through our own
 * client. It keeps all that it received, in order.
 */
export class WireClient {
  readonly received: Received[] = [];
  readonly transport: Transport;
  /** Set once the transport has closed. */
  closed: { code: number; reason: string } | undefined;
  sessionId: string | undefined;
  resumeToken: string | undefined;
  #watchers: (() => void)[] = [];

  constructor(transport: Transport) {
    this.transport = transport;
    transport.start({
      onFrame: (frame) => {
        const envelope = JSON.parse(frame) as Envelope;
        this.received.push({ frame, envelope });
        if (envelope.type === "session.welcome") {
          this.sessionId = envelope.session_id;
          this.resumeToken = envelope.payload["resume_token"] as string;
        }
        this.#look();
      },
      onClose: (code, reason) => {
        this.closed = { code, reason };
        this.#look();
      },
    });
  }

  /** Sends one message and answers its id. */
  send(type: string, payload: object, rest: Partial<Envelope> = {}): string {
    const id = rest.id ?? newMessageId();
    this.sendRaw(
      encodeMessage({
        id,
        type,
        ...(this.sessionId === undefined ? {} : { session_id: this.sessionId }),
        ...rest,
        payload,
      } as Parameters<typeof encodeMessage>[0]),
    );
    return id;
  }

  sendRaw(frame: string): void {
    this.transport.send([frame]);
  }

  /** The first answer that names the request `id`, already there or yet to come. */
  async reply(id: string): Promise<Envelope> {
    return this.waitFor(
      (envelope) => envelope.extensions?.[IN_REPLY_TO] === id || envelope.payload["request_id"] === id,
      `the answer to ${id}`,
    );
  }

  /** The first message of that type among all that came, or that will come. */
  message(type: string): Promise<Envelope> {
    return this.waitFor((envelope) => envelope.type === type, type);
  }

  async waitFor(matches: (envelope: Envelope) => boolean, what: string): Promise<Envelope> {
    await this.until(() => this.received.some(({ envelope }) => matches(envelope)), what);
    const found = this.received.find(({ envelope }) => matches(envelope));
    assert(found !== undefined);
    return found.envelope;
  }

  /** Resolves when the transport has closed. */
  async whenClosed(): Promise<{ code: number; reason: string }> {
    await this.until(() => this.closed !== undefined, "the connection to close");
    return this.closed as { code: number; reason: string };
  }

  /** Resolves when `done` holds after some frame; fails loudly when it does not within 10 s. */
  until(done: () => boolean, what: string): Promise<void> {
    if (done()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const deadline = systemClock.after(
        DEADLINE_MS,
        () => {
          const seen = this.received.slice(-5).map(({ frame }) => frame.slice(0, 300));
          reject(new Error(`Waited in vain for ${what}. Last frames:\n${seen.join("\n")}`));
        },
        { keepAlive: true },
      );
      const look = () => {
        if (!done()) {
          this.#watchers.push(look);
          return;
        }
        deadline.cancel();
        resolve();
      };
      this.#watchers.push(look);
    });
  }

  /** Numbered messages, in the order in which they came. */
  numbered(): Envelope[] {
    return this.received.map(({ envelope }) => envelope).filter(({ event_seq }) => event_seq !== undefined);
  }

  /** The numbers in the order in which they came. */
  seqs(): number[] {
    return this.numbered().map(({ event_seq }) => event_seq as number);
  }

  hello(options: {
    token: string;
    features?: readonly string[];
    name?: string;
    rest?: object;
    extensions?: Record<string, unknown>;
  }): string {
    return this.send(
      "session.hello",
      {
        client: { name: options.name ?? "wire-client", version: "1" },
        auth: { scheme: "bearer", token: options.token },
        capabilities: { features: options.features ?? FEATURES },
        ...options.rest,
      },
      options.extensions === undefined ? {} : { extensions: options.extensions },
    );
  }

  #look(): void {
    for (const watcher of this.#watchers.splice(0)) watcher();
  }
}
