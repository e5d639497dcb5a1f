/**
 * The way from one node to the database, by TCP, with as many connections as the node makes. All of them are well or
 * ill together: `closed` ends them and refuses new ones, `silent` lets nothing pass and tells nobody, and `deaf` lets
 * through what the node says and loses every answer, so that it cannot know what was done.
 */
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export type LinkState = "open" | "closed" | "silent" | "deaf";

interface Pipe {
  node: Socket;
  database: Socket;
}

export class Link implements AsyncDisposable {
  readonly #server: Server;
  readonly #target: number;
  readonly #pipes = new Set<Pipe>();
  #state: LinkState = "open";

  private constructor(target: number) {
    this.#target = target;
    this.#server = createServer((node) => this.#accept(node));
  }

  /** @param target the port of the database, on this machine */
  static async start(target: number): Promise<Link> {
    const link = new Link(target);
    await new Promise<void>((resolve) => link.#server.listen(0, "127.0.0.1", resolve));
    return link;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  enter(state: LinkState): void {
    const before = this.#state;
    this.#state = state;
    // An answer that was lost does not come later: its connection goes with it.
    if (state === "closed" || before === "deaf") this.#cut();
    for (const pipe of this.#pipes) this.#steer(pipe);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#cut();
    await closed;
  }

  #accept(node: Socket): void {
    if (this.#state === "closed") {
      node.on("error", () => undefined);
      node.destroy();
      return;
    }
    const pipe = { node, database: connect(this.#target, "127.0.0.1") };
    this.#pipes.add(pipe);
    this.#carry(pipe, node, pipe.database);
    this.#carry(pipe, pipe.database, node);
    this.#steer(pipe);
  }

  #carry(pipe: Pipe, from: Socket, to: Socket): void {
    from.setNoDelay(true);
    from.on("data", (chunk) => {
      if (!to.write(chunk)) from.pause();
    });
    to.on("drain", () => this.#steer(pipe));
    // A reset is a way to close; `close` follows.
    from.on("error", () => undefined);
    from.on("close", () => this.#end(pipe));
  }

  /** Which side is read, as the state has it. */
  #steer({ node, database }: Pipe): void {
    if (this.#state === "silent") node.pause();
    else node.resume();
    if (this.#state === "open") database.resume();
    else database.pause();
  }

  #cut(): void {
    for (const pipe of this.#pipes) this.#end(pipe);
  }

  #end(pipe: Pipe): void {
    this.#pipes.delete(pipe);
    pipe.node.destroy();
    pipe.database.destroy();
  }
}
