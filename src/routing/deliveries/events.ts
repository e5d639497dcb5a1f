/** What deliveries tell of themselves, and the telling: a listener that fails harms nobody. */
import type { Logger } from "../../logger.ts";
import type { ChannelErrorKind } from "./channel.ts";

interface OfDelivery {
  readonly deliveryId: string;
  readonly jobId: string;
  readonly conversationId: string;
  readonly channel: string;
}

/** What each event carries. */
export interface DeliveryEvents {
  /** The turn's work was shown, or shown anew, while it ran. */
  shown: OfDelivery;
  /** The whole answer has arrived, in so many parts. */
  delivered: OfDelivery & { readonly attempt: number; readonly parts: number };
  /** A try came to nothing, and the next is due then (wall time). */
  retrying: OfDelivery & {
    readonly attempt: number;
    readonly kind: ChannelErrorKind;
    readonly error: string;
    readonly dueAt: number;
  };
  /** It is given up, and kept for an operator. */
  failed: OfDelivery & { readonly attempt: number; readonly error: string };
}

type Listener<K extends keyof DeliveryEvents> = (event: DeliveryEvents[K]) => void;

export class DeliveryListeners {
  readonly #listeners: { [K in keyof DeliveryEvents]?: readonly Listener<K>[] } = {};
  readonly #logger: Logger;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** @returns what takes the listener off again */
  add<K extends keyof DeliveryEvents>(name: K, listener: Listener<K>): () => void {
    const listeners: { [P in K]?: readonly Listener<P>[] } = this.#listeners;
    listeners[name] = [...(listeners[name] ?? []), listener];
    return () => {
      listeners[name] = listeners[name]?.filter((other) => other !== listener) ?? [];
    };
  }

  tell<K extends keyof DeliveryEvents>(name: K, event: DeliveryEvents[K]): void {
    const listeners: { [P in K]?: readonly Listener<P>[] } = this.#listeners;
    for (const listener of listeners[name] ?? []) {
      try {
        listener(event);
      } catch (error) {
        this.#logger.warn({ err: error, event: name }, "a listener of deliveries failed");
      }
    }
  }
}
