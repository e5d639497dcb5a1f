/**
 * A TCP connection whose bytes the test writes itself: what no WebSocket class would send is said here.
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { systemClock } from "../../src/clock.ts";

const DEADLINE_MS = 10_000;

export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

export interface FrameBits {
  opcode?: number;
  /** @default true */
  fin?: boolean;
  /** The reserved bits, as they stand in the first byte. @default 0 */
  reserved?: number;
  /** Clients must mask. @default true */
  masked?: boolean;
  /** What the header says instead of the payload's length. */
  claimedLength?: number;
}

/** The bytes of one WebSocket frame, right or wrong. */
export function wsFrame(payload: string | Buffer, bits: FrameBits = {}): Buffer {
  const { opcode = OPCODE.text, fin = true, reserved = 0, masked = true } = bits;
  const data = Buffer.from(payload);
  const length = bits.claimedLength ?? data.length;
  const header = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
  header[0] = (fin ? 0x80 : 0) | reserved | opcode;
  if (length < 126) {
    header[1] = length;
  } else if (length < 65_536) {
    header[1] = 126;
    header.writeUInt16BE(length, 2);
  } else {
    header[1] = 127;
    header.writeBigUInt64BE(BigInt(length), 2);
  }
  if (!masked) return Buffer.concat([header, data]);
  header[1] = (header[1] as number) | 0x80;
  const mask = randomBytes(4);
  return Buffer.concat([header, mask, data.map((byte, index) => byte ^ (mask[index % 4] as number))]);
}

export class RawSocket {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  /** True once the other side has said that nothing more will come, or the connection broke. */
  ended = false;
  #watchers: (() => void)[] = [];

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#look();
    });
    // A reset is an end like any other here.
    socket.on("error", () => this.#end());
    socket.on("end", () => this.#end());
    socket.on("close", () => this.#end());
  }

  /** What has come so far, as text. */
  get text(): string {
    return this.#received.toString("latin1");
  }

  write(bytes: string | Buffer): void {
    this.socket.write(bytes);
  }

  /** Asks for a WebSocket and resolves with the status. */
  async upgrade(port: number, headers: readonly string[] = [], target = "/arcp"): Promise<number> {
    const lines = [
      `GET ${target} HTTP/1.1`,
      ...(headers.some((line) => /^host:/i.test(line)) ? [] : [`Host: 127.0.0.1:${port}`]),
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
      ...headers,
    ];
    this.write(`${lines.join("\r\n")}\r\n\r\n`);
    return this.status();
  }

  /** The status of the first answer; 0 when the connection ends without one. */
  async status(): Promise<number> {
    await this.until(() => this.ended || this.text.includes("\r\n\r\n"), "an answer");
    return Number(/^HTTP\/1\.1 (\d{3})/.exec(this.text)?.[1] ?? 0);
  }

  /** Says hello by hand and resolves when the welcome has begun to arrive. */
  async hello(token = "alice"): Promise<void> {
    this.write(wsFrame(helloText(token)));
    await this.until(() => this.text.includes("session.welcome"), "the welcome");
  }

  /** The code of the close frame that came; `undefined` when the connection ended without one. */
  async closeCode(): Promise<number | undefined> {
    await this.until(() => this.ended || this.#closeCode() !== undefined, "the end");
    return this.#closeCode();
  }

  whenEnded(): Promise<void> {
    return this.until(() => this.ended, "the end of the connection");
  }

  until(done: () => boolean, what: string): Promise<void> {
    if (done()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const deadline = systemClock.after(
        DEADLINE_MS,
        () => reject(new Error(`Waited in vain for ${what}. It came: ${this.text.slice(-300)}`)),
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

  [Symbol.dispose](): void {
    this.socket.destroy();
  }

  /** Goes through the frames behind the answer to the upgrade: servers do not mask. */
  #closeCode(): number | undefined {
    let at = this.#received.indexOf("\r\n\r\n") + 4;
    while (at + 2 <= this.#received.length) {
      const opcode = (this.#received[at] as number) & 0x0f;
      const short = (this.#received[at + 1] as number) & 0x7f;
      const head = short < 126 ? 2 : short === 126 ? 4 : 10;
      const length =
        short < 126
          ? short
          : short === 126
            ? this.#received.readUInt16BE(at + 2)
            : Number(this.#received.readBigUInt64BE(at + 2));
      if (opcode === OPCODE.close) return length >= 2 ? this.#received.readUInt16BE(at + head) : 1005;
      at += head + length;
    }
    return undefined;
  }

  #end(): void {
    this.ended = true;
    this.#look();
  }

  #look(): void {
    for (const watcher of this.#watchers.splice(0)) watcher();
  }
}

export const helloText = (token: string): string =>
  JSON.stringify({
    arcp: "1.1",
    id: "hello",
    type: "session.hello",
    payload: { client: { name: "raw", version: "1" }, auth: { scheme: "bearer", token } },
  });

export async function rawSocket(port: number): Promise<RawSocket> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.setNoDelay(true);
  return new RawSocket(socket);
}
