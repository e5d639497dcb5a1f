/**
 * One connection of a session: opened, greeted with a hello, then a pipe of messages until it is
 * dropped. A dropped link tells nothing more, so a session never hears from a connection it has left.
 */
import type { Clock } from "../clock.ts";
import type { ArcpError } from "../protocol/index.ts";
import type { Transport } from "../transport/transport.ts";
import { errorFromPayload } from "./errors.ts";
import { type Inbound, readFrame, readWelcome, type Welcome } from "./inbound.ts";

export interface LinkParts {
  open(signal: AbortSignal): Promise<Transport>;
  /** The first frame. Made anew for each connection, as a token may be fetched for it. */
  hello(): Promise<string>;
  clock: Clock;
  /** For all of it: token, connection, welcome. */
  timeoutMs: number;
  signal: AbortSignal;
  /** Called within the welcome's delivery, so that nothing comes between it and what follows. */
  onWelcome(link: Link, welcome: Welcome): void;
  onMessage(message: Inbound, bytes: number): void;
  onMalformed(frame: string): void;
  /** The connection has ended, and not by {@link Link.drop}. */
  onClose(link: Link, why: string): void;
}

/** The runtime has answered the hello. Everything else that may go wrong is thrown. */
export type Greeting = { outcome: "welcome" } | { outcome: "refused"; error: ArcpError };

type Phase = { name: "greeting"; greeted: PromiseWithResolvers<Greeting> } | { name: "open" } | { name: "dropped" };

export class Link {
  readonly #transport: Transport;
  readonly #parts: LinkParts;
  #phase: Phase;

  constructor(transport: Transport, parts: LinkParts) {
    this.#transport = transport;
    this.#parts = parts;
    this.#phase = { name: "greeting", greeted: Promise.withResolvers<Greeting>() };
  }

  /** Sends the hello and resolves with what it is answered. */
  greet(hello: string): Promise<Greeting> {
    if (this.#phase.name !== "greeting") throw new Error(`A link that is ${this.#phase.name} cannot greet.`);
    const { promise } = this.#phase.greeted;
    this.#transport.start({
      onFrame: (frame) => this.#onFrame(frame),
      onClose: (code, reason) => this.#onClose(code, reason),
    });
    this.#transport.send([hello]);
    return promise;
  }

  /** False when the frames went nowhere, as the connection is ending. */
  send(frames: readonly string[]): boolean {
    if (this.#phase.name !== "open" || !this.#transport.open) return false;
    this.#transport.send(frames);
    return true;
  }

  /** Closes the connection and says nothing more. */
  drop(reason: string): void {
    this.#phase = { name: "dropped" };
    this.#transport.close(1000, reason);
  }

  #onFrame(frame: string): void {
    if (this.#phase.name === "dropped") return;
    const message = readFrame(frame);
    if (message === undefined) this.#parts.onMalformed(frame);
    else if (this.#phase.name === "open") this.#parts.onMessage(message, frame.length);
    else this.#onGreeting(this.#phase.greeted, message);
  }

  #onGreeting(greeted: PromiseWithResolvers<Greeting>, message: Inbound): void {
    if (message.type === "session.error") {
      this.drop("refused");
      greeted.resolve({ outcome: "refused", error: errorFromPayload(message.payload) });
    } else if (message.type === "session.welcome") {
      let welcome: Welcome;
      try {
        welcome = readWelcome(message);
      } catch (error) {
        this.drop("bad welcome");
        greeted.reject(error);
        return;
      }
      this.#phase = { name: "open" };
      this.#parts.onWelcome(this, welcome);
      greeted.resolve({ outcome: "welcome" });
    }
  }

  #onClose(code: number, reason: string): void {
    const phase = this.#phase;
    if (phase.name === "dropped") return;
    this.#phase = { name: "dropped" };
    const why = `the connection was closed (${code}${reason === "" ? "" : `, ${reason}`})`;
    if (phase.name === "open") this.#parts.onClose(this, why);
    else phase.greeted.reject(new Error(`No welcome: ${why}.`));
  }
}

/**
 * Opens a connection and greets. Rejects when it cannot be opened, closes before the welcome, takes too
 * long, or the signal aborts (with the signal's reason).
 */
export async function openLink(parts: LinkParts): Promise<Greeting> {
  const { clock, timeoutMs, signal } = parts;
  const limit = new AbortController();
  const given = Promise.withResolvers<never>();
  const stop = (reason: unknown) => {
    limit.abort(reason);
    given.reject(reason);
  };
  const onAbort = () => stop(signal.reason);
  if (signal.aborted) throw signal.reason;
  signal.addEventListener("abort", onAbort, { once: true });
  const timer = clock.after(timeoutMs, () => stop(new Error(`The runtime gave no welcome within ${timeoutMs} ms.`)), {
    keepAlive: true,
  });
  let link: Link | undefined;
  try {
    const hello = await Promise.race([parts.hello(), given.promise]);
    const opening = parts.open(limit.signal);
    opening.then(
      (transport) => {
        if (limit.signal.aborted) transport.close(1000, "too late");
      },
      () => undefined, // told to whoever awaits the race below
    );
    link = new Link(await Promise.race([opening, given.promise]), parts);
    return await Promise.race([link.greet(hello), given.promise]);
  } catch (error) {
    link?.drop("gave up");
    throw error;
  } finally {
    timer.cancel();
    signal.removeEventListener("abort", onAbort);
  }
}
