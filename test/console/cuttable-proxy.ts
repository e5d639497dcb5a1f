/** Stands between a browser and a server, so that a test can cut what is open and change the server behind it. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export class CuttableProxy implements AsyncDisposable {
  /** Of the server; 0 refuses. */
  target = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((socket) => this.#join(socket));

  static async listen(): Promise<CuttableProxy> {
    const proxy = new CuttableProxy();
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.cut();
    await closed;
  }

  #join(near: Socket): void {
    if (this.target === 0) {
      near.destroy();
      return;
    }
    const far = connect(this.target, "127.0.0.1");
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(one);
      one.pipe(other);
      one.on("error", () => other.destroy());
      one.on("close", () => {
        this.#sockets.delete(one);
        other.destroy();
      });
    }
  }
}
