/**
 * A channel's server, for the fault run: it takes messages over HTTP, writes down what arrived where, and can be asked
 * for it. A plan says what goes wrong with a call: it may be lost before it has arrived, its answer may be lost, it may
 * be told to come again, and whoever made it may be killed at either moment.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import type { Random } from "../../random.ts";

export interface Arrived {
  id: number;
  /** Room and thread. */
  place: string;
  deliveryId: string;
  part: number;
  text: string;
  status: string;
}

/** What a worker sends. */
export interface DoubleMessage {
  worker: number;
  id?: number;
  place: string;
  deliveryId: string;
  part: number;
  text: string;
  status: string;
}

type Fate = "fine" | "lost" | "lost answer" | "rate limit" | "kill before" | "kill after";

const MAX_KILLS = 10;

export class ChannelDouble {
  readonly arrived: Arrived[] = [];
  readonly fates: Record<Fate, number> = {
    fine: 0,
    lost: 0,
    "lost answer": 0,
    "rate limit": 0,
    "kill before": 0,
    "kill after": 0,
  };
  /** No more faults. */
  calm = false;
  /** Of those to come. An answer that many senders died with waits long for its next try, and the run with it. */
  #killsLeft = MAX_KILLS;
  readonly #random: Random;
  readonly #kill: (worker: number) => void;
  readonly #server = createServer((request, response) => void this.#serve(request, response));

  /** @param kill kills that worker at once */
  constructor(random: Random, kill: (worker: number) => void) {
    this.#random = random;
    this.#kill = kill;
  }

  async start(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body: string;
    try {
      body = await text(request);
    } catch {
      // Whoever sent it was killed in the middle: nothing has arrived.
      return;
    }
    if (request.method === "GET") {
      const { searchParams } = new URL(request.url ?? "", "http://double");
      const found = this.arrived.filter(
        ({ place, deliveryId }) => place === searchParams.get("place") && deliveryId === searchParams.get("delivery"),
      );
      response.end(JSON.stringify(found.map(({ part, id }) => ({ part, id }))));
      return;
    }
    const message = JSON.parse(body) as DoubleMessage;
    const fate = this.#fate(message.status);
    this.fates[fate] += 1;
    if (fate === "rate limit") {
      response.writeHead(429).end();
      return;
    }
    if (fate === "kill before") this.#kill(message.worker);
    if (fate === "lost" || fate === "kill before") {
      response.destroy();
      return;
    }
    const id = this.#take(message);
    if (fate === "kill after") this.#kill(message.worker);
    if (fate !== "fine") response.destroy();
    else if (id === undefined) response.writeHead(404).end();
    else response.end(JSON.stringify({ id }));
  }

  #take({ id, place, deliveryId, part, text, status }: DoubleMessage): number | undefined {
    if (id === undefined) {
      const newest = this.arrived.length + 1;
      this.arrived.push({ id: newest, place, deliveryId, part, text, status });
      return newest;
    }
    const known = this.arrived.find((message) => message.id === id && message.place === place);
    if (known === undefined) return undefined;
    known.text = text;
    known.status = status;
    return id;
  }

  #fate(status: string): Fate {
    if (this.calm) return "fine";
    // Streamed updates are many; the answers are what is looked at.
    const kills = this.#killsLeft === 0 ? 0 : status === "working" ? 1 : 12;
    const fate = this.#random.weighted({
      fine: 80,
      lost: 3,
      "lost answer": 4,
      "rate limit": 2,
      "kill before": kills,
      "kill after": kills,
    });
    if (fate === "kill before" || fate === "kill after") this.#killsLeft -= 1;
    return fate;
  }
}
