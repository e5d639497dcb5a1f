/**
 * The wire between the demo's client and the server: it can be cut, and it counts what passes by
 * itself, below the client.
 */
import { type RawData, WebSocket } from "ws";
import type { Clock } from "../../clock.ts";
import type { WebSocketConstructor } from "../../transport/websocket.ts";
import { type Counts, Sequence } from "./counts.ts";

/** How one connection was lost, and how the session came back. */
export interface Interruption {
  what: "socket cut" | "server killed";
  /** The newest `event_seq` that had arrived. */
  atSeq: number;
  /** From the cut to the next welcome. */
  backAfterMs: number | undefined;
  /** Events that had been emitted before the client was back, and that the resume brought. */
  replayed: number;
}

/** What passed for one job. */
export interface JobTraffic {
  /** `event_seq` of its events, as they came. */
  seqs: number[];
  /** `event_seq` of its terminal message. */
  terminalSeq: number | undefined;
}

interface Seen {
  type: string;
  job_id?: string;
  event_seq?: number;
  payload: { ts?: string };
}

export class Wire {
  readonly interruptions: Interruption[] = [];
  readonly #clock: Clock;
  readonly #numbers = new Sequence(1);
  readonly #jobs = new Map<string, JobTraffic>();
  #watchers: { condition: () => boolean; resolve: () => void }[] = [];
  #socket: WebSocket | undefined;
  #cutAtMs = 0;
  #backAtWallMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A WebSocket class whose instances go through this wire. */
  get WebSocket(): WebSocketConstructor {
    const opened = (socket: WebSocket) => this.#opened(socket);
    return class extends WebSocket {
      constructor(url: string) {
        super(url);
        opened(this);
      }
    } as unknown as WebSocketConstructor;
  }

  get counts(): Counts {
    return this.#numbers.counts();
  }

  trafficOf(jobId: string): JobTraffic {
    const known = this.#jobs.get(jobId);
    if (known !== undefined) return known;
    const traffic: JobTraffic = { seqs: [], terminalSeq: undefined };
    this.#jobs.set(jobId, traffic);
    return traffic;
  }

  /** Destroys the socket, as a network does: no close frame, no flush. Resolves when the session is back. */
  cut(): Promise<void> {
    this.lose("socket cut");
    this.#socket?.terminate();
    return this.back();
  }

  /** Notes that the connection ends now. */
  lose(what: Interruption["what"]): void {
    this.#cutAtMs = this.#clock.monotonic();
    this.interruptions.push({ what, atSeq: this.#numbers.highest, backAfterMs: undefined, replayed: 0 });
  }

  /** Resolves at the welcome that follows the last interruption. */
  back(): Promise<void> {
    return this.until(() => this.interruptions.at(-1)?.backAfterMs !== undefined);
  }

  /** Resolves with the frame that makes the condition true. */
  until(condition: () => boolean): Promise<void> {
    if (condition()) return Promise.resolve();
    return new Promise((resolve) => this.#watchers.push({ condition, resolve }));
  }

  #opened(socket: WebSocket): void {
    this.#socket = socket;
    socket.on("message", (data: RawData) => this.#frame(JSON.parse(data.toString()) as Seen));
  }

  #frame(seen: Seen): void {
    const last = this.interruptions.at(-1);
    if (seen.type === "session.welcome" && last !== undefined && last.backAfterMs === undefined) {
      last.backAfterMs = this.#clock.monotonic() - this.#cutAtMs;
      this.#backAtWallMs = this.#clock.wall();
    }
    if (seen.event_seq !== undefined) {
      this.#numbers.take(seen.event_seq);
      const traffic = this.trafficOf(seen.job_id ?? "");
      if (seen.type === "job.event") traffic.seqs.push(seen.event_seq);
      else traffic.terminalSeq = seen.event_seq;
      const { ts } = seen.payload;
      if (last !== undefined && ts !== undefined && Date.parse(ts) < this.#backAtWallMs) last.replayed += 1;
    }
    const watchers = this.#watchers;
    this.#watchers = watchers.filter(({ condition, resolve }) => {
      if (!condition()) return true;
      resolve();
      return false;
    });
  }
}
