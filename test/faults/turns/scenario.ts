/** Runs one plan of turns: real workers on one real file, messages through all their doors, and then the checker. */
import { join } from "node:path";
import { WebSocket } from "ws";
import { sleep, systemClock } from "../../../src/clock.ts";
import type { ConversationKey } from "../../../src/conversation/index.ts";
import { type Envelope, encodeMessage, IN_REPLY_TO, newMessageId } from "../../../src/protocol/index.ts";
import { sqlite } from "../../../src/store/sqlite/index.ts";
import type { Transport } from "../../../src/transport/transport.ts";
import { openWebSocket, type WebSocketConstructor } from "../../../src/transport/websocket.ts";
import { Child, Handling } from "../child.ts";
import type { Place } from "../place.ts";
import { checkTurns, type Disturbance, type TurnVerdict } from "./checker.ts";
import { type Answer, type Correspondence, REFUSALS, readRuns } from "./journal.ts";
import { type Door, type Message, RARE_WORKERS, type TurnOp, type TurnPlan, WORKERS } from "./plan.ts";
import { Witness, watch } from "./watch.ts";
import type { WorkerCommand, WorkerSettings, WorkerWord } from "./worker-process.ts";

/** How long everything may take to be settled once there are no more faults. */
const SETTLE_MS = 20_000;
/** A message without an answer is sent again, as a channel does. */
const ASK_AGAIN_MS = 2_500;
const LOOK_MS = 50;
const RESTART_MS = 100;

type Answered = (ask: number, answer: Answer) => void;

/** A session of the wire at one worker, for as long as that lives. */
class Wire {
  readonly #transport: Transport;
  readonly #answered: Answered;
  readonly #asks = new Map<string, { ask: number }>();
  #sessionId: string | undefined;
  #waiting: (() => void)[] = [];

  constructor(transport: Transport, answered: Answered) {
    this.#transport = transport;
    this.#answered = answered;
    transport.start({ onFrame: (frame) => this.#take(JSON.parse(frame) as Envelope), onClose: () => undefined });
    this.#say("session.hello", {
      client: { name: "faults", version: "1" },
      auth: { scheme: "bearer", token: "token" },
      capabilities: { features: [] },
    });
  }

  submit(ask: number, key: ConversationKey, { label, agent, onBusy, input }: Message): void {
    const send = () => {
      const turn = { key, onBusy, messageId: label };
      const id = newMessageId();
      this.#asks.set(id, { ask });
      this.#say("job.submit", { agent, input }, { id, extensions: { "x-vendor.holdfast.turn": turn } });
    };
    if (this.#sessionId === undefined) this.#waiting.push(send);
    else send();
  }

  close(): void {
    this.#transport.close(1000, "over");
  }

  #say(type: string, payload: object, rest: Partial<Envelope> = {}): void {
    const session = this.#sessionId === undefined ? {} : { session_id: this.#sessionId };
    const message = { id: newMessageId(), type, ...session, ...rest, payload };
    this.#transport.send([encodeMessage(message as Parameters<typeof encodeMessage>[0])]);
  }

  #take({ type, session_id, job_id, extensions, payload }: Envelope): void {
    if (type === "session.welcome") {
      this.#sessionId = session_id;
      for (const send of this.#waiting.splice(0)) send();
    }
    const known = this.#asks.get(String(extensions?.[IN_REPLY_TO]));
    if (known === undefined) return;
    if (type === "job.accepted") {
      this.#answered(known.ask, { said: "accepted", jobId: String(job_id) });
    } else {
      const { code } = (payload["details"] ?? {}) as { code?: string };
      const clear = type === "job.error" && REFUSALS.includes(code);
      this.#answered(
        known.ask,
        clear ? { said: "refused", code: String(code) } : { said: "unclear", why: JSON.stringify(payload) },
      );
    }
  }
}

class Worker {
  readonly name: string;
  readonly #settings: WorkerSettings;
  readonly #answered: Answered;
  readonly #disturbances: Disturbance[];
  readonly #handling = new Handling();
  #child: Child<WorkerCommand>;
  #wire: Wire | undefined;
  #over = false;

  constructor(name: string, settings: WorkerSettings, answered: Answered, disturbances: Disturbance[]) {
    this.name = name;
    this.#settings = settings;
    this.#answered = answered;
    this.#disturbances = disturbances;
    this.#child = this.#spawn();
  }

  /** Like a supervisor: one that cannot open its file now is started again. */
  async start(): Promise<void> {
    for (;;) {
      try {
        const url = JSON.parse(await this.#child.ready()) as string;
        const transport = await openWebSocket(url, { WebSocket: WebSocket as unknown as WebSocketConstructor });
        this.#wire = new Wire(transport, this.#answered);
        return;
      } catch (error) {
        if (this.#over) return;
        if (!String(error).includes("StoreUnavailable")) throw error;
      }
      await sleep(systemClock, RESTART_MS);
      this.#child = this.#spawn();
    }
  }

  send(command: WorkerCommand): void {
    this.#child.send(command);
  }

  submit(ask: number, via: Door["via"], key: ConversationKey, message: Message): void {
    if (via === "wire") {
      this.#wire?.submit(ask, key, message);
      return;
    }
    const { label, agent, onBusy, input } = message;
    this.#child.send({ do: "submit", ask, key, label, agent, onBusy, input });
  }

  replace(signal: "SIGKILL" | "SIGTERM", downMs: number): Promise<void> {
    return this.#disturb(signal === "SIGKILL" ? "kill" : "drain", async () => {
      this.#child.signal(signal);
      await this.#child.exited;
      this.#wire?.close();
      this.#wire = undefined;
      await sleep(systemClock, downMs);
      this.#child = this.#spawn();
      await this.start();
    });
  }

  pause(forMs: number): Promise<void> {
    return this.#disturb("pause", () => this.#child.pause(forMs));
  }

  async kill(): Promise<void> {
    this.#over = true;
    this.#wire?.close();
    await this.#child.kill();
  }

  #disturb(did: Disturbance["did"], work: () => Promise<void>): Promise<void> {
    return this.#handling.run(async () => {
      const done = { worker: this.name, did, from: systemClock.wall(), to: Number.POSITIVE_INFINITY };
      this.#disturbances.push(done);
      await work();
      done.to = systemClock.wall();
    });
  }

  #spawn(): Child<WorkerCommand> {
    return new Child("turns/worker-process.ts", this.#settings, (line) => {
      const word = JSON.parse(line) as WorkerWord | string;
      if (typeof word !== "string") this.#answered(word.ask, word.answer);
    });
  }
}

const keyOf = (conversation: number): ConversationKey =>
  conversation % 2 === 0
    ? { source: "cli", name: `room ${conversation}` }
    : { source: "slack", channel: "C1", thread: `1700.${conversation}` };

export class TurnScenario {
  readonly #plan: TurnPlan;
  readonly #place: Place;
  readonly #workers: Worker[] = [];
  readonly #messages: Message[] = [];
  readonly #correspondence: Correspondence[] = [];
  readonly #disturbances: Disturbance[] = [];
  /** By the number of the ask. */
  readonly #asks: Message[] = [];
  /** Messages that have no clear answer yet, with the time of their last ask. */
  readonly #open = new Map<string, { message: Message; askedAt: number }>();
  /** Faults that are under way. */
  readonly #under = new Set<Promise<void>>();

  constructor(plan: TurnPlan, place: Place) {
    this.#plan = plan;
    this.#place = place;
  }

  /** Ends by itself; nothing of it is left but its place. */
  async run(): Promise<TurnVerdict> {
    await using stack = new AsyncDisposableStack();
    const file = join(this.#place.data, "holdfast.db");
    const store = sqlite(file);
    await store.start();
    await store.stop();
    watch(file);
    for (let index = 0; index < WORKERS; index += 1) {
      const settings: WorkerSettings = {
        file,
        journal: this.#journal(index),
        log: join(this.#place.path, `worker-${index}.log`),
        agents: RARE_WORKERS.includes(index) ? ["talk", "rare"] : ["talk"],
      };
      const worker = new Worker(
        `worker ${index}`,
        settings,
        (ask, answer) => this.#take(ask, answer),
        this.#disturbances,
      );
      stack.defer(() => worker.kill());
      this.#workers.push(worker);
    }
    await Promise.all(this.#workers.map((worker) => worker.start()));
    for (const { afterMs, op } of this.#plan.steps) {
      await sleep(systemClock, afterMs);
      this.#do(op);
      this.#askAgain();
    }
    while (this.#under.size > 0) await Promise.all(this.#under);
    using witness = new Witness(file);
    await this.#settle(witness);
    const stored = witness.read();
    const journals = this.#workers.map(({ name }, index) => [name, readRuns(this.#journal(index))] as const);
    return checkTurns({
      messages: this.#messages,
      correspondence: this.#correspondence,
      journals: new Map(journals),
      stored,
      disturbances: this.#disturbances,
    });
  }

  #journal(index: number): string {
    return join(this.#place.path, `worker-${index}.journal`);
  }

  #do(op: TurnOp): void {
    switch (op.do) {
      case "message":
        this.#messages.push(op);
        for (const door of op.doors) this.#ask(op, door);
        return;
      case "hold":
        this.#workers[op.worker]?.send({ do: "hold", key: keyOf(op.conversation), forMs: op.forMs });
        return;
      case "kill":
        this.#await(this.#workers[op.worker]?.replace("SIGKILL", op.downMs));
        return;
      case "drain":
        this.#await(this.#workers[op.worker]?.replace("SIGTERM", op.downMs));
        return;
      case "pause":
        this.#await(this.#workers[op.worker]?.pause(op.forMs));
    }
  }

  #ask(message: Message, { worker, via }: Door): void {
    this.#open.set(message.label, { message, askedAt: systemClock.monotonic() });
    this.#asks.push(message);
    this.#correspondence.push({ t: "sent", label: message.label });
    this.#workers[worker]?.submit(this.#asks.length - 1, via, keyOf(message.conversation), message);
  }

  #take(ask: number, answer: Answer): void {
    const { label } = this.#asks[ask] as Message;
    this.#correspondence.push({ t: "answered", label, answer });
    if (answer.said !== "unclear") this.#open.delete(label);
  }

  /** Through the next worker that has the agent. */
  #askAgain(): void {
    for (const { message, askedAt } of [...this.#open.values()]) {
      if (systemClock.monotonic() - askedAt < ASK_AGAIN_MS) continue;
      const workers = message.agent === "rare" ? RARE_WORKERS : [...this.#workers.keys()];
      const worker = workers[this.#asks.length % workers.length] as number;
      this.#ask(message, { worker, via: this.#asks.length % 2 === 0 ? "wire" : "call" });
    }
  }

  async #settle(witness: Witness): Promise<void> {
    const since = systemClock.monotonic();
    while (this.#open.size > 0 || !witness.quiet()) {
      if (systemClock.monotonic() - since > SETTLE_MS) return;
      await sleep(systemClock, LOOK_MS);
      this.#askAgain();
    }
  }

  #await(work: Promise<void> | undefined): void {
    if (work === undefined) return;
    const done = work.finally(() => this.#under.delete(done));
    this.#under.add(done);
  }
}
