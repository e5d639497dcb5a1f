/**
 * Runs one plan of a cluster: a real PostgreSQL server, real nodes on it, each with ways of its own to get there, real
 * clients that are sent to any node with each connection, and then the checker.
 */
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sleep, systemClock } from "../../../src/clock.ts";
import { postgres } from "../../../src/store/postgres/index.ts";
import { killServerIn, type PostgresServer, postgresServer } from "../../postgres.ts";
import { Random } from "../../random.ts";
import { Child, Handling } from "../child.ts";
import { Client, FEATURES_OF } from "../client.ts";
import type { ClientCommand } from "../client-process.ts";
import { readStarts } from "../journal.ts";
import type { Place } from "../place.ts";
import { FaultProxy } from "../proxy.ts";
import type { Disturbance } from "../turns/checker.ts";
import { readRuns } from "../turns/journal.ts";
import { type ClusterVerdict, checkCluster } from "./checker.ts";
import { Link } from "./link.ts";
import type { NodeSettings } from "./node-process.ts";
import { CLIENTS, type ClusterFault, type ClusterOp, type ClusterPlan, type Cut, losesNodes, NODES } from "./plan.ts";
import { Witness } from "./witness.ts";

/** How long everything may take to be settled once there are no more faults, and how long clients then have to end. */
const SETTLE_MS = 30_000;
const FINISH_MS = 30_000;
/** Beyond its length: what is not over then has hung. */
const LIMIT_MS = 120_000;
const LOOK_MS = 100;
const RESTART_MS = 100;
const MAX_AUDITED = 20;

/** What was done, by name, next to what was found. */
export type ClusterOutcome = ClusterVerdict & { did: Record<string, number> };

/** Folders of servers that may run, for the end of the program, however it comes. */
const folders = new Set<string>();

export function killDatabases(): void {
  for (const folder of folders) killServerIn(folder);
}

class Node {
  readonly name: string;
  readonly #settings: NodeSettings;
  readonly #disturbances: Disturbance[];
  readonly #bus: Link;
  readonly #database: Link;
  readonly #handling = new Handling();
  readonly #cuts = { bus: new Handling(), database: new Handling() };
  #child: Child<never>;
  /** Where it listens, while it does. */
  port: number | undefined;
  #over = false;

  constructor(name: string, settings: NodeSettings, links: { bus: Link; database: Link }, disturbances: Disturbance[]) {
    this.name = name;
    this.#settings = settings;
    this.#bus = links.bus;
    this.#database = links.database;
    this.#disturbances = disturbances;
    this.#child = this.#spawn();
  }

  /** Like a supervisor: one that cannot reach its database now is started again. */
  async start(): Promise<void> {
    for (;;) {
      try {
        this.port = Number(await this.#child.ready());
        return;
      } catch (error) {
        if (this.#over) return;
        if (!String(error).includes("StoreUnavailable")) throw error;
      }
      await sleep(systemClock, RESTART_MS);
      this.#child = this.#spawn();
    }
  }

  /** Ends it as `signal` does, and starts another one in its place. */
  replace(signal: "SIGKILL" | "SIGTERM", downMs: number): Promise<void> {
    return this.#handling.run(() =>
      this.#disturb(signal === "SIGKILL" ? "kill" : "drain", async () => {
        this.port = undefined;
        this.#child.signal(signal);
        await this.#child.exited;
        await sleep(systemClock, downMs);
        this.#child = this.#spawn();
        await this.start();
      }),
    );
  }

  pause(forMs: number): Promise<void> {
    return this.#handling.run(() => this.#disturb("pause", () => this.#child.pause(forMs)));
  }

  cutBus(as: Cut, forMs: number): Promise<void> {
    return this.#cuts.bus.run(() => cut(this.#bus, as, forMs));
  }

  cutDatabase(as: Cut, forMs: number): Promise<void> {
    return this.#cuts.database.run(() => this.#disturb("cut", () => cut(this.#database, as, forMs)));
  }

  kill(): Promise<void> {
    this.#over = true;
    return this.#child.kill();
  }

  async #disturb(did: Disturbance["did"], work: () => Promise<void>): Promise<void> {
    const done = { worker: this.name, did, from: systemClock.wall(), to: Number.POSITIVE_INFINITY };
    this.#disturbances.push(done);
    await work();
    // What it does next may still come of it: a heartbeat that was missed is seen later.
    done.to = systemClock.wall() + this.#settings.nodeTimeoutMs;
  }

  #spawn(): Child<never> {
    return new Child("cluster/node-process.ts", this.#settings);
  }
}

async function cut(link: Link, as: Cut, forMs: number): Promise<void> {
  link.enter(as);
  await sleep(systemClock, forMs);
  link.enter("open");
}

const portOf = (url: string): number => Number(new URL(url).port);

function through(url: string, link: Link): string {
  const by = new URL(url);
  by.port = String(link.port);
  return by.href;
}

export class ClusterScenario {
  readonly #plan: ClusterPlan;
  readonly #place: Place;
  readonly #nodes: Node[] = [];
  readonly #clients: Client[] = [];
  /** Jobs that are known by now. */
  readonly #jobs = new Set<string>();
  /** Those of them that are no turns: a turn is interrupted, and not cancelled. */
  readonly #cancellable = new Set<string>();
  readonly #disturbances: Disturbance[] = [];
  readonly #did: Record<string, number> = {};
  readonly #databaseHandling = new Handling();
  /** Faults that are under way. */
  readonly #under = new Set<Promise<void>>();

  constructor(plan: ClusterPlan, place: Place) {
    this.#plan = plan;
    this.#place = place;
  }

  /** Ends by itself; nothing of it is left but its place. */
  async run(): Promise<ClusterOutcome> {
    await using stack = new AsyncDisposableStack();
    const limit = new AbortController();
    stack.defer(() => limit.abort());
    const limitMs = this.#plan.lengthMs + LIMIT_MS;
    const late = sleep(systemClock, limitMs, limit.signal).then(() => {
      throw new Error(`it did not end within ${limitMs} ms`);
    });
    return await Promise.race([this.#run(stack), late]);
  }

  async #run(stack: AsyncDisposableStack): Promise<ClusterOutcome> {
    const server = await this.#startDatabase(stack);
    const { url } = await server.createDatabase();
    const store = postgres({ url });
    await store.start();
    await store.stop();
    const witness = new Witness(url);
    await witness.watch();
    for (let index = 0; index < NODES; index += 1) await this.#addNode(stack, index, url);
    await Promise.all(this.#nodes.map((node) => node.start()));
    for (let index = 0; index < CLIENTS; index += 1) await this.#addClient(stack, index);
    await Promise.all(this.#clients.map((client) => client.ready()));
    for (const { afterMs, op } of this.#plan.steps) {
      await sleep(systemClock, afterMs);
      this.#do(op, server, witness);
    }
    while (this.#under.size > 0) await Promise.all(this.#under);
    for (const client of this.#clients) client.proxy.heal();
    await this.#settle(witness);
    return { ...(await this.#judge(witness)), did: this.#did };
  }

  async #judge(witness: Witness): Promise<ClusterVerdict> {
    const stored = await witness.read();
    // For whoever looks into a seed that failed: the database is gone by then.
    writeFileSync(this.#file("stored.json"), JSON.stringify(stored));
    return checkCluster({
      clients: new Map(this.#clients.map((client) => [client.name, client.journal])),
      nodes: new Map(this.#nodes.map(({ name }, index) => [name, readRuns(this.#file(`runs-${index}`))])),
      starts: readStarts(this.#file("starts")),
      stored,
      disturbances: this.#disturbances,
      mayEnd: { nodeLost: losesNodes(this.#plan), shutdown: this.#plan.steps.some(({ op }) => op.do === "drain") },
    });
  }

  #file(name: string): string {
    return join(this.#place.path, name);
  }

  // ------------------------------------------------------------------------------------ processes

  async #startDatabase(stack: AsyncDisposableStack): Promise<PostgresServer> {
    // The server may run as another user, who has to get there.
    chmodSync(this.#place.path, 0o755);
    const folder = this.#place.data;
    folders.add(folder);
    stack.defer(() => void folders.delete(folder));
    const server = await postgresServer({ folder });
    if ("reason" in server) throw new Error(server.reason);
    return stack.use(server);
  }

  async #addNode(stack: AsyncDisposableStack, index: number, url: string): Promise<void> {
    const links = { bus: stack.use(await Link.start(portOf(url))), database: stack.use(await Link.start(portOf(url))) };
    const settings: NodeSettings = {
      url: through(url, links.database),
      listenUrl: through(url, links.bus),
      nodeTimeoutMs: this.#plan.nodeTimeoutMs,
      starts: this.#file("starts"),
      runs: this.#file(`runs-${index}`),
      log: this.#file(`node-${index}.log`),
    };
    const node = new Node(`node ${index}`, settings, links, this.#disturbances);
    stack.defer(() => node.kill());
    this.#nodes.push(node);
  }

  async #addClient(stack: AsyncDisposableStack, index: number): Promise<void> {
    const { features, slow } = this.#plan.clients[index] as ClusterPlan["clients"][number];
    const random = new Random(this.#plan.seed * 31 + index);
    const proxy = await FaultProxy.start({
      // As a balancer does that knows only who listens: no connection goes where the one before went.
      target: () => {
        const ports = this.#nodes.flatMap(({ port }) => (port === undefined ? [] : [port]));
        return ports.length === 0 ? undefined : random.pick(ports);
      },
      chop: this.#plan.chop,
      random,
    });
    const settings = {
      name: `client-${index}`,
      url: `ws://127.0.0.1:${proxy.port}/arcp`,
      journal: this.#file(`client-${index}.journal`),
      features: FEATURES_OF[features],
      slow,
    };
    const client = new Client(settings, proxy, ({ jobId, isTurn }) => {
      this.#jobs.add(jobId);
      if (!isTurn) this.#cancellable.add(jobId);
    });
    this.#clients.push(stack.use(client));
  }

  // ----------------------------------------------------------------------------------- operations

  #do(op: ClusterOp, server: PostgresServer, witness: Witness): void {
    switch (op.do) {
      case "submit": {
        const { agent, input, keyed } = op;
        const submission = { agent, input, key: keyed ? `key-${input.label}` : undefined };
        this.#send(op, { do: "submit", submission });
        return;
      }
      case "turn": {
        const { agent, input } = op;
        const turn = { key: `cli:room-${op.turn.conversation}`, onBusy: op.turn.onBusy };
        this.#send(op, { do: "submit", submission: { agent, input, turn } });
        return;
      }
      case "subscribe":
      case "cancel": {
        const jobs = [...(op.do === "cancel" ? this.#cancellable : this.#jobs)];
        const jobId = jobs[Math.floor(op.pick * jobs.length)];
        if (jobId === undefined) return;
        this.#clients[op.client]?.send(
          op.do === "cancel" ? { do: "cancel", jobId } : { do: "subscribe", jobId, history: op.history },
        );
        return;
      }
      default:
        this.#did[op.do] = (this.#did[op.do] ?? 0) + 1;
        this.#await(this.#fault(op, server, witness));
    }
  }

  /** By another client, too, where it is to be said twice. */
  #send({ client, twice }: { client: number; twice: boolean }, command: ClientCommand): void {
    this.#clients[client]?.send(command);
    if (twice) this.#clients[(client + 1) % CLIENTS]?.send(command);
  }

  async #fault(op: ClusterFault, server: PostgresServer, witness: Witness): Promise<void> {
    const node = "node" in op ? this.#nodes[op.node] : undefined;
    const client = "client" in op ? this.#clients[op.client] : undefined;
    switch (op.do) {
      case "kill":
        return node?.replace("SIGKILL", op.downMs);
      case "drain":
        return node?.replace("SIGTERM", op.downMs);
      case "stop":
        return node?.pause(op.forMs);
      case "cut bus":
        return node?.cutBus(op.as, op.forMs);
      case "cut database":
        return node?.cutDatabase(op.as, op.forMs);
      case "restart database":
        return this.#outage(() => server.restart(op.downMs));
      case "crash database":
        return this.#outage(() => witness.crash());
      case "cut client":
        return client?.proxy.cut();
      case "cut client after":
        return client?.proxy.cutAfter(op.direction, op.bytes);
      case "half open client":
        return client?.proxy.halfOpen(op.forMs);
      case "kill client":
        return client?.replace(op.downMs);
    }
  }

  /** Whatever happens to the database happens to all nodes, and to one thing at a time. */
  #outage(work: () => Promise<void>): Promise<void> {
    return this.#databaseHandling.run(async () => {
      const from = systemClock.wall();
      await work();
      const to = systemClock.wall() + this.#plan.nodeTimeoutMs;
      for (const { name } of this.#nodes) this.#disturbances.push({ worker: name, did: "outage", from, to });
    });
  }

  #await(work: Promise<void>): void {
    const done = work.finally(() => this.#under.delete(done));
    this.#under.add(done);
  }

  // ------------------------------------------------------------------------------------------ end

  /** Lets all jobs end, and then every client come to its end, the one that audits last. */
  async #settle(witness: Witness): Promise<void> {
    const since = systemClock.monotonic();
    while (!(await witness.quiet()) && systemClock.monotonic() - since < SETTLE_MS) await sleep(systemClock, LOOK_MS);
    const enough = new AbortController();
    const late = sleep(systemClock, FINISH_MS, enough.signal).catch(() => undefined);
    const [auditor, ...others] = this.#clients;
    const all = async () => {
      for (const client of others) client.send({ do: "finish", audit: [] });
      await Promise.all(others.map((client) => client.exited));
      auditor?.send({ do: "finish", audit: [...this.#jobs].slice(0, MAX_AUDITED) });
      await auditor?.exited;
    };
    await Promise.race([all(), late]);
    enough.abort();
  }
}
