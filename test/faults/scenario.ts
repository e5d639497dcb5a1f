/** Runs one plan: real servers on a real file, real clients behind proxies, and then the checker. */
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { sleep, systemClock } from "../../src/clock.ts";
import { Random } from "../random.ts";
import { check, type Verdict } from "./checker.ts";
import { Child, Handling } from "./child.ts";
import { Client, FEATURES_OF } from "./client.ts";
import type { ClientSettings } from "./client-process.ts";
import { readStarts } from "./journal.ts";
import type { Place } from "./place.ts";
import type { Fault, Plan, Work } from "./plan.ts";
import { FaultProxy } from "./proxy.ts";
import type { ServerCommand, ServerSettings } from "./server-process.ts";

/** How long everything may take to be settled once there are no more faults. */
const SETTLE_MS = 25_000;
const LOCK_RETRY_MS = 5;
const RESTART_MS = 100;
/** How long a client takes to lose one welcome, and to give up a hello and say the next. */
const LOST_WELCOME_MS = 200;
const LATE_HELLO_MS = 2_000;
const MAX_AUDITED = 12;

class Server {
  readonly #settings: ServerSettings;
  #child: Child<ServerCommand>;
  /** Where it listens, while it does. */
  port: number | undefined;
  #over = false;
  readonly #handling = new Handling();

  constructor(settings: ServerSettings) {
    this.#settings = settings;
    this.#child = this.#spawn();
  }

  /** Like a supervisor: a server that cannot open its file now is started again. */
  async start(): Promise<void> {
    for (;;) {
      try {
        this.port = Number(await this.#child.ready());
        return;
      } catch (error) {
        if (!String(error).includes("StoreUnavailable") || this.#over) throw error;
      }
      await sleep(systemClock, RESTART_MS);
      this.#child = this.#spawn();
    }
  }

  send(command: ServerCommand): void {
    this.#child.send(command);
  }

  /** Ends it as `signal` does, and starts another one in its place. */
  replace(signal: "SIGKILL" | "SIGTERM", downMs: number): Promise<void> {
    return this.#handling.run(async () => {
      this.port = undefined;
      this.#child.signal(signal);
      await this.#child.exited;
      await sleep(systemClock, downMs);
      this.#child = this.#spawn();
      await this.start();
    });
  }

  pause(forMs: number): Promise<void> {
    return this.#handling.run(() => this.#child.pause(forMs));
  }

  kill(): Promise<void> {
    this.#over = true;
    return this.#child.kill();
  }

  #spawn(): Child<ServerCommand> {
    return new Child("server-process.ts", this.#settings);
  }
}

export class Scenario {
  readonly #plan: Plan;
  readonly #place: Place;
  readonly #file: string;
  readonly #servers: Server[] = [];
  readonly #clients: Client[] = [];
  /** Which server the next connection of each client goes to. */
  readonly #routes: number[] = [];
  readonly #jobs: string[] = [];
  /** Faults that are under way. */
  readonly #under = new Set<Promise<void>>();

  constructor(plan: Plan, place: Place) {
    this.#plan = plan;
    this.#place = place;
    this.#file = join(place.data, "holdfast.db");
  }

  /** Ends by itself; nothing of it is left but its place. */
  async run(): Promise<Verdict> {
    await using stack = new AsyncDisposableStack();
    for (let index = 0; index < this.#plan.servers; index += 1) await this.#addServer(stack, index);
    for (const index of this.#plan.clients.keys()) await this.#addClient(stack, index);
    await Promise.all(this.#clients.map((client) => client.ready()));
    for (const { afterMs, op } of this.#plan.steps) {
      await sleep(systemClock, afterMs);
      this.#do(op);
    }
    while (this.#under.size > 0) await Promise.all(this.#under);
    for (const client of this.#clients) client.proxy.heal();
    await this.#settle();
    return check({
      journals: new Map(this.#clients.map((client, index) => [`client ${index}`, client.journal])),
      starts: readStarts(join(this.#place.path, "starts")),
      mayEnd: {
        nodeLost: this.#plan.steps.some(({ op }) => op.do === "kill server" || op.do === "stop server"),
        shutdown: this.#plan.steps.some(({ op }) => op.do === "drain server"),
      },
    });
  }

  async #addServer(stack: AsyncDisposableStack, index: number): Promise<void> {
    const server = new Server({
      file: this.#file,
      starts: join(this.#place.path, "starts"),
      log: join(this.#place.path, `server-${index}.log`),
    });
    stack.defer(() => server.kill());
    this.#servers.push(server);
    await server.start();
  }

  async #addClient(stack: AsyncDisposableStack, index: number): Promise<void> {
    const { features, slow } = this.#plan.clients[index] as Plan["clients"][number];
    this.#routes.push(index % this.#plan.servers);
    const proxy = await FaultProxy.start({
      target: () => this.#servers[this.#routes[index] as number]?.port,
      chop: this.#plan.chop,
      random: new Random(this.#plan.seed * 31 + index),
    });
    const settings: ClientSettings = {
      name: `client-${index}`,
      url: `ws://127.0.0.1:${proxy.port}/arcp`,
      journal: join(this.#place.path, `client-${index}.journal`),
      features: FEATURES_OF[features],
      slow,
    };
    const client = new Client(settings, proxy, ({ jobId }) => {
      if (!this.#jobs.includes(jobId)) this.#jobs.push(jobId);
    });
    this.#clients.push(stack.use(client));
  }

  #do(op: Work | Fault): void {
    switch (op.do) {
      case "submit": {
        const { label, n, bytes, everyMs } = op;
        const key = op.keyed ? `key-${label}` : undefined;
        this.#clients[op.client]?.send({
          do: "submit",
          submission: { agent: "counting", input: { label, n, bytes, everyMs }, key },
        });
        return;
      }
      case "twins": {
        const { label, n, bytes, everyMs } = op;
        for (const client of this.#clients.slice(0, 2)) {
          const submission = { agent: "counting", input: { label, n, bytes, everyMs }, key: `key-${label}` };
          client.send({ do: "submit", submission });
        }
        return;
      }
      case "subscribe":
      case "cancel": {
        const jobId = this.#jobs[Math.floor(op.pick * this.#jobs.length)];
        if (jobId === undefined) return;
        this.#clients[op.client]?.send(
          op.do === "cancel" ? { do: "cancel", jobId } : { do: "subscribe", jobId, history: op.history },
        );
        return;
      }
      default:
        this.#fault(op);
    }
  }

  #fault(op: Fault): void {
    const client = "client" in op ? this.#clients[op.client] : undefined;
    const server = "server" in op ? this.#servers[op.server] : undefined;
    switch (op.do) {
      case "cut":
        client?.proxy.cut();
        return;
      case "cut after":
        client?.proxy.cutAfter(op.direction, op.bytes);
        return;
      case "deaf":
        client?.proxy.deafen(op.forMs);
        return;
      case "cut next":
        client?.proxy.cutNext(op.direction, op.bytes);
        return;
      case "half open":
        client?.proxy.halfOpen(op.forMs);
        return;
      case "stall":
        client?.proxy.stall(op.forMs);
        return;
      case "lose welcomes":
        client?.proxy.loseWelcomes(op.count);
        this.#await(sleep(systemClock, op.count * LOST_WELCOME_MS));
        return;
      case "late hello":
        client?.proxy.delayHello(op.byMs);
        this.#await(sleep(systemClock, LATE_HELLO_MS + op.byMs));
        return;
      case "hop":
        if (client === undefined) return;
        this.#routes[op.client] = op.server;
        if (op.takeover) client.proxy.halfOpen(1_000);
        else client.proxy.cut();
        return;
      case "kill server":
        this.#await(server?.replace("SIGKILL", op.downMs));
        return;
      case "drain server":
        this.#await(server?.replace("SIGTERM", op.downMs));
        return;
      case "stop server":
        this.#await(server?.pause(op.forMs));
        return;
      case "kill client":
        this.#await(client?.replace(op.downMs));
        return;
      case "stop client":
        this.#await(client?.pause(op.forMs));
        return;
      case "fill disk":
        this.#await(this.#fillDisk(op.forMs));
        return;
      case "lock file":
        this.#await(this.#lockFile(op.forMs));
        return;
      case "step clock":
        server?.send({ do: "step clock", byMs: op.byMs });
    }
  }

  #await(work: Promise<void> | undefined): void {
    if (work === undefined) return;
    const done = work.finally(() => this.#under.delete(done));
    this.#under.add(done);
  }

  async #fillDisk(forMs: number): Promise<void> {
    if (this.#place.ownDisk) this.#place.fill();
    else for (const server of this.#servers) server.send({ do: "full", full: true });
    await sleep(systemClock, forMs);
    if (this.#place.ownDisk) this.#place.empty();
    else for (const server of this.#servers) server.send({ do: "full", full: false });
  }

  /** Holds the file's write lock, as a process does that is stopped in the midst of a transaction. */
  async #lockFile(forMs: number): Promise<void> {
    const database = new DatabaseSync(this.#file, { timeout: 0 });
    try {
      for (;;) {
        try {
          database.exec("BEGIN IMMEDIATE");
          break;
        } catch {
          // A server is writing.
          await sleep(systemClock, LOCK_RETRY_MS);
        }
      }
      await sleep(systemClock, forMs);
      database.exec("ROLLBACK");
    } finally {
      database.close();
    }
  }

  /** Lets every client come to its end, the one that audits last. */
  async #settle(): Promise<void> {
    const enough = new AbortController();
    const late = sleep(systemClock, SETTLE_MS, enough.signal).catch(() => undefined);
    const [auditor, ...others] = this.#clients;
    const all = async () => {
      for (const client of others) client.send({ do: "finish", audit: [] });
      await Promise.all(others.map((client) => client.exited));
      auditor?.send({ do: "finish", audit: this.#plan.audit ? this.#jobs.slice(0, MAX_AUDITED) : [] });
      await auditor?.exited;
    };
    await Promise.race([all(), late]);
    enough.abort();
  }
}
