/**
 * A session that costs its client next to nothing: a socket, the few bytes of WebSocket that are needed, and
 * a count of events that are not parsed. Where a row needs thousands of sessions, or a client that is
 * surely faster than any server, it is used against both sides alike.
 */
import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import { newMessageId } from "../src/protocol/index.ts";

export interface RawMessage {
  type: string;
  session_id?: string;
  payload: Record<string, unknown>;
}

/** What a burst emits; what the runtime adds of its own (`back_pressure`) is not counted. */
const EVENT = Buffer.from('"kind":"log"');
const HEAD_END = Buffer.from("\r\n\r\n");
/** Of a frame: the envelope's fields before the payload. */
const KIND_WITHIN_BYTES = 400;
const FEATURES = ["heartbeat", "ack", "subscribe", "progress", "result_chunk"];

/** A text frame from a client. The mask is there, as it has to be, and changes nothing. */
function frameOf(message: object): Buffer {
  const payload = Buffer.from(JSON.stringify(message));
  const head =
    payload.length < 126
      ? Buffer.from([0x81, 0x80 | payload.length, 0, 0, 0, 0])
      : Buffer.from([0x81, 0x80 | 126, payload.length >> 8, payload.length & 255, 0, 0, 0, 0]);
  return Buffer.concat([head, payload]);
}

export interface RawOptions {
  token?: string;
  resume?: { session_id: string; resume_token: string; last_event_seq: number };
}

export class RawSession {
  /** Events of a burst that came. */
  events = 0;
  /** Resolves when the first one came. */
  readonly firstEvent: Promise<void>;
  sessionId = "";
  resumeToken = "";
  readonly #socket: Socket;
  #rest: Buffer | undefined;
  #upgraded = false;
  #tellFirst: () => void = () => undefined;
  readonly #waiting: { wanted: (message: RawMessage) => boolean; resolve: (message: RawMessage) => void }[] = [];
  readonly #failed = Promise.withResolvers<never>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.firstEvent = new Promise((resolve) => {
      this.#tellFirst = resolve;
    });
    this.#failed.promise.catch(() => undefined); // whoever waits for a message is told
    socket.on("data", (chunk) => this.#take(chunk));
    socket.on("error", (error) => this.#failed.reject(error));
    socket.on("close", () => this.#failed.reject(new Error("The server closed the connection.")));
  }

  /** Connects, says hello, and resolves at the welcome. */
  static async open(url: string, { token = "bench-0", resume }: RawOptions = {}): Promise<RawSession> {
    const { hostname, port, host, pathname } = new URL(url);
    const socket = createConnection({ host: hostname, port: Number(port), noDelay: true });
    const session = new RawSession(socket);
    const welcomed = session.next("session.welcome");
    await Promise.race([once(socket, "connect"), session.#failed.promise]);
    const upgrade =
      `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    const hello = {
      arcp: "1.1",
      id: newMessageId(),
      type: "session.hello",
      payload: {
        client: { name: "bench", version: "0" },
        auth: { scheme: "bearer", token },
        capabilities: { encodings: ["json"], features: FEATURES },
        ...(resume === undefined ? {} : { resume }),
      },
    };
    socket.write(Buffer.concat([Buffer.from(upgrade), frameOf(hello)]));
    const welcome = await welcomed;
    session.sessionId = welcome.session_id ?? "";
    session.resumeToken = String(welcome.payload["resume_token"]);
    return session;
  }

  /** Resolves with the next message of this type; one that answers `session.error` meanwhile fails loudly. */
  next(type: string): Promise<RawMessage> {
    const arrived = new Promise<RawMessage>((resolve, reject) => {
      this.#waiting.push({
        wanted: (message) => message.type === type || message.type === "session.error",
        resolve: (message) => {
          if (message.type === type) resolve(message);
          else reject(new Error(`The server answered ${JSON.stringify(message.payload)}.`));
        },
      });
    });
    return Promise.race([arrived, this.#failed.promise]);
  }

  send(type: string, payload: object): void {
    this.#socket.write(frameOf({ arcp: "1.1", id: newMessageId(), type, payload }));
  }

  /** Hangs up without a word, as a network does. */
  cut(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    let data = this.#rest === undefined ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = undefined;
    if (!this.#upgraded) {
      const end = data.indexOf(HEAD_END);
      if (end === -1) {
        this.#rest = data;
        return;
      }
      const status = data.toString("latin1", 0, 12);
      if (!status.endsWith("101")) this.#failed.reject(new Error(`The server answered the upgrade ${status}.`));
      this.#upgraded = true;
      data = data.subarray(end + HEAD_END.length);
    }
    let at = 0;
    while (data.length - at >= 2) {
      const short = (data[at + 1] ?? 0) & 127;
      const headBytes = short < 126 ? 2 : short === 126 ? 4 : 10;
      if (data.length - at < headBytes) break;
      const length =
        short < 126 ? short : short === 126 ? data.readUInt16BE(at + 2) : Number(data.readBigUInt64BE(at + 2));
      if (data.length - at < headBytes + length) break;
      if (((data[at] ?? 0) & 15) === 1) this.#frame(data.subarray(at + headBytes, at + headBytes + length));
      at += headBytes + length;
    }
    if (at < data.length) this.#rest = data.subarray(at);
  }

  #frame(payload: Buffer): void {
    if (payload.subarray(0, KIND_WITHIN_BYTES).includes(EVENT)) {
      this.events += 1;
      if (this.events === 1) this.#tellFirst();
      return;
    }
    const message = JSON.parse(payload.toString()) as RawMessage;
    if (message.type === "session.ping") {
      this.send("session.pong", { ping_nonce: message.payload["nonce"], received_at: message.payload["sent_at"] });
    }
    const index = this.#waiting.findIndex(({ wanted }) => wanted(message));
    if (index !== -1) this.#waiting.splice(index, 1)[0]?.resolve(message);
  }
}

/**
 * Opens idle sessions, so many at a time.
 *
 * @param count fifty principals share them
 */
export async function openIdle(url: string, count: number, atATime = 64): Promise<RawSession[]> {
  const sessions: RawSession[] = [];
  let opened = 0;
  const worker = async (): Promise<void> => {
    while (opened < count) {
      opened += 1;
      sessions.push(await RawSession.open(url, { token: `bench-${opened % 50}` }));
    }
  };
  await Promise.all(Array.from({ length: atATime }, worker));
  return sessions;
}
