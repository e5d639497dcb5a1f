import { type Clock, sleep, type Timer } from "../clock.ts";
import { Authority } from "../lease/index.ts";
import { type AgentInfo, ArcpError, isFinal, type VendorType } from "../protocol/index.ts";
import {
  type ClaimedJob,
  type ClaimedTurn,
  type Hint,
  type NewEvent,
  type NewJob,
  type NodeRecord,
  type SessionListPage,
  type StoreCensus,
  StoreRefusal,
  type SweepQuery,
  type TurnClaim,
  type TurnPlace,
} from "../store/store.ts";
import type { Transport } from "../transport/transport.ts";
import { type ToolHandler, type ToolOptions, ToolRegistry } from "./acting/tools.ts";
import { type AgentHandler, type AgentOptions, AgentRegistry } from "./agents.ts";
import { type Asker, type Identity, isOperator, principalOf } from "./auth.ts";
import { CredentialKeeper } from "./credentials/keeper.ts";
import { Masking } from "./credentials/masking.ts";
import { maskingLogger } from "./credentials/masking-logger.ts";
import { maskingTracing } from "./credentials/masking-tracing.ts";
import { EventKinds } from "./event-kinds.ts";
import { type Extension, Extensions } from "./extensions.ts";
import { GivenBackJobs } from "./given-back.ts";
import { inTime } from "./in-time.ts";
import { Janitor } from "./janitor.ts";
import { givenBackPayload } from "./job/given-back-payload.ts";
import { LogWriter } from "./job/log-writer.ts";
import { RecentEvents } from "./job/recent-events.ts";
import { RunningJobs } from "./job/running-jobs.ts";
import { chargeSpentBefore } from "./job/spent-before.ts";
import { JobDesk } from "./job-desk.ts";
import { Logins } from "./logins.ts";
import { NodeKeeper } from "./node-keeper.ts";
import { type RuntimeOptions, type Settings, settle } from "./options.ts";
import { grantedLease } from "./policy.ts";
import { Answering } from "./questions/answering.ts";
import { OpenQuestions } from "./questions/open-questions.ts";
import { Connection, type ConnectionParts } from "./session/connection.ts";
import { Stats } from "./stats.ts";
import { type EndedJob, storedOutcome } from "./stored-outcome.ts";
import { Tickets } from "./tickets.ts";
import type { RunningTurn, TurnHost, TurnKeeper } from "./turn-seam.ts";
import type { ValueSchema } from "./value-schema.ts";
import { Wakeups } from "./wakeups.ts";

/** @default of `stop`: how long running jobs may go on */
const DRAIN_MS = 10_000;
/** How long a stop waits for terminal events to be stored and to reach their clients. */
const FAREWELL_MS = 5_000;

type Phase = "new" | "running" | "stopping" | "stopped";

/**
 * Serves sessions and runs jobs on one store. It owns no socket: `serve` and `attach` bring
 * connections, or whoever has a `Transport`.
 */
export class Runtime {
  /** Jobs for whoever has no session. */
  readonly jobs: JobDesk;
  /** For pages: what stands for a token in them. */
  readonly logins: Logins;
  /** For pages: what they say hello with. */
  readonly tickets: Tickets;
  /** What this process has done since its start. */
  readonly stats = new Stats();
  readonly #settings: Settings;
  readonly #agents = new AgentRegistry();
  readonly #masking = new Masking();
  readonly #wakeups = new Wakeups();
  readonly #recent: RecentEvents;
  readonly #writer: LogWriter;
  readonly #jobs: RunningJobs;
  readonly #tools: ToolRegistry;
  readonly #extensions = new Extensions();
  readonly #kinds = new EventKinds();
  readonly #questions: OpenQuestions;
  readonly #credentials: CredentialKeeper;
  readonly #node: NodeKeeper;
  readonly #janitor: Janitor;
  readonly #givenBack: GivenBackJobs;
  /** One for all connections: thousands of them are idle, and each byte counts. */
  readonly #connectionParts: ConnectionParts;
  /** Every open connection, and those that are attached, by session. */
  readonly #connections = new Set<Connection>();
  readonly #attached = new Map<string, Connection>();
  #phase: Phase = "new";
  #starting: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;
  #sweep: Timer | undefined;
  /** Until nothing runs here any more: while the runtime drains there are still jobs to cancel and answers to send. */
  #sweeps = true;
  #stopHints: (() => void) | undefined;
  /** What hints have named since the last look at it. */
  #hints: { sessionIds: Set<string>; jobIds: Set<string> } | undefined;
  /** The length of each log when the last sweep looked. */
  #sweptLastN = new Map<string, number>();

  /** @throws RangeError for an option that is not a positive number */
  constructor(options: RuntimeOptions) {
    const masking = this.#masking;
    const settings = settle(options);
    this.#settings = {
      ...settings,
      logger: maskingLogger(settings.logger, masking),
      tracing: settings.provisioner === undefined ? settings.tracing : maskingTracing(settings.tracing, masking),
    };
    const { store, clock, logger, cancelGraceMs, maxResultBytes } = this.#settings;
    this.#recent = new RecentEvents(store.jobs);
    const recent = this.#recent;
    this.#writer = new LogWriter({
      store,
      clock,
      logger,
      recent,
      wakeups: this.#wakeups,
      masking,
      stats: this.stats,
      handedOver: (turn, askedAt) => this.#runTurn(turn, askedAt),
    });
    const { policy, maxDelegationDepth, maxChildrenPerJob, maxRunningJobsPerPrincipal, maxInputBytes } = this.#settings;
    this.#tools = new ToolRegistry(logger);
    this.#questions = new OpenQuestions({ store, masking, clock, logger });
    const { mayAnswer, viewing } = this.#settings;
    const answering = new Answering({
      store,
      open: this.#questions,
      mayAnswer,
      viewing,
      masking,
      clock,
      logger,
    });
    this.#credentials = new CredentialKeeper({
      store,
      provisioner: settings.provisioner,
      masking,
      clock,
      logger,
      nodeId: () => this.#node.nodeId,
      timeoutMs: settings.provisionerTimeoutMs,
      intervalMs: settings.janitorIntervalMs,
    });
    this.#jobs = new RunningJobs({
      writer: this.#writer,
      recent,
      tools: this.#tools,
      questions: this.#questions,
      kinds: this.#kinds,
      credentials: this.#credentials,
      stats: this.stats,
      cancelGraceMs,
      maxResultBytes,
      tracing: this.#settings.tracing,
      delegation: {
        store,
        agents: this.#agents,
        masking,
        policy,
        maxDelegationDepth,
        maxChildrenPerJob,
        maxRunningJobsPerPrincipal,
        maxInputBytes,
      },
      clock,
      logger,
    });
    const { storeTimeoutMs } = this.#settings;
    const passes = { store, clock, logger, timeoutMs: storeTimeoutMs };
    this.logins = new Logins({ ...passes, authenticate: (token) => this.authenticate(token) });
    this.tickets = new Tickets(passes);
    this.jobs = new JobDesk({
      store,
      jobs: this.#jobs,
      answering,
      masking,
      viewing: this.#settings.viewing,
      recent,
      wakeups: this.#wakeups,
      stats: this.stats,
      submit: {
        settings: this.#settings,
        agents: this.#agents,
        nodeId: () => this.#node.nodeId,
        accepting: () => this.#phase === "running",
      },
      ended: (jobIds) => this.#endedByStore(jobIds),
      clock,
      logger,
      storeTimeoutMs,
    });
    const { maxBufferedEvents, maxBufferedBytes, maxStoredBytes, jobRetentionMs } = this.#settings;
    this.#janitor = new Janitor({
      store,
      clock,
      logger,
      intervalMs: this.#settings.janitorIntervalMs,
      policy: {
        jobRetentionMs,
        maxEventsPerJob: maxBufferedEvents,
        maxBytesPerJob: maxBufferedBytes,
        maxBytesPerStore: maxStoredBytes,
        conversationRetentionMs: this.#settings.conversationRetentionMs,
      },
    });
    this.#node = new NodeKeeper({
      store,
      clock,
      logger,
      heartbeatMs: this.#settings.nodeHeartbeatMs,
      timeoutMs: this.#settings.nodeTimeoutMs,
      lost: () => this.#dropAll(),
      jobsBuried: ({ endedJobIds, givenBackJobIds }) => {
        for (const jobId of [...endedJobIds, ...givenBackJobIds]) this.#wakeups.wake(jobId);
        if (givenBackJobIds.length > 0) this.#givenBack.look();
      },
    });
    this.#givenBack = new GivenBackJobs({
      jobs: store.jobs,
      logger,
      claim: () => this.#claim(),
      run: (job) => this.#runAgain(job),
    });
    this.#connectionParts = {
      settings: this.#settings,
      agents: this.#agents,
      jobs: this.#jobs,
      extensions: this.#extensions,
      credentials: this.#credentials,
      masking,
      answering,
      desk: this.jobs,
      recent,
      wakeups: this.#wakeups,
      stats: this.stats,
      authenticate: async (token) => (await this.tickets.redeem(token)) ?? (await this.authenticate(token)),
      nodeId: () => this.#node.nodeId,
      turns: () => this.#jobs.turns,
      ended: (jobIds) => this.#endedByStore(jobIds),
      placed: (place) => this.#turnPlaced(place),
      accepting: () => this.#phase === "running",
      attached: (newcomer) => this.#attach(newcomer),
      closed: (gone, sessionId) => this.#forget(gone, sessionId),
    };
  }

  /** This process start's id in the store. */
  get nodeId(): string {
    return this.#node.nodeId;
  }

  get clock(): Clock {
    return this.#settings.clock;
  }

  /** Who is behind a token, or `undefined` when the token is not good, or is over. A ticket is none. */
  async authenticate(token: string): Promise<Identity | undefined> {
    const identity = await this.#settings.auth.authenticate(token);
    const { expiresAt } = identity ?? {};
    return expiresAt !== undefined && expiresAt <= this.#settings.clock.wall() ? undefined : identity;
  }

  /** Events that wait to be stored. */
  get unstoredEvents(): number {
    return this.#jobs.unstored;
  }

  /** The agents that are offered here, with their versions. */
  get agents(): AgentInfo[] {
    return this.#agents.list(true);
  }

  /** Sessions that have their connection here. */
  get attachedSessions(): number {
    return this.#attached.size;
  }

  /**
   * Whether new work is taken: the runtime runs, and its store answers in time.
   *
   * @throws ArcpError INTERNAL_ERROR with `details.code: "STORE_UNAVAILABLE"` where it is not
   */
  async ready(): Promise<void> {
    if (this.#phase !== "running")
      throw ArcpError.detail("STORE_UNAVAILABLE", "The runtime does not run; it is stopping.");
    await this.nodes();
  }

  /** The processes that share the store. @throws ArcpError as {@link ready} */
  nodes(): Promise<NodeRecord[]> {
    return this.#inTime(() => this.#settings.store.nodes.list());
  }

  /** The same with what each of them has in hand, and what waits for one. @throws ArcpError as {@link ready} */
  census(): Promise<StoreCensus> {
    return this.#inTime(() => this.#settings.store.nodes.census(this.#settings.clock.wall()));
  }

  /**
   * Sessions that the asker may see: its principal's own; an operator's are everybody's.
   *
   * @throws ArcpError INVALID_REQUEST for a bad cursor; as {@link ready}
   */
  async sessions(
    asker: Asker,
    query: { limit?: number | undefined; cursor?: string | undefined } = {},
  ): Promise<SessionListPage> {
    const { store, clock } = this.#settings;
    const principal = isOperator(asker) ? undefined : principalOf(asker);
    const { limit = 100, cursor } = query;
    return await this.#inTime(() => store.sessions.list({ principal, limit, cursor, now: clock.wall() })).catch(
      (error: unknown) => {
        if (!(error instanceof StoreRefusal) || error.reason !== "bad_cursor") throw error;
        throw new ArcpError("INVALID_REQUEST", "query.cursor: is not one that a list has given; start without one.");
      },
    );
  }

  #inTime<T>(work: () => Promise<T>): Promise<T> {
    const { clock, logger, storeTimeoutMs } = this.#settings;
    return inTime(work, { clock, logger, timeoutMs: storeTimeoutMs });
  }

  /** Jobs that run here now. */
  get runningJobs(): number {
    return this.#jobs.size;
  }

  /**
   * Offers an agent.
   *
   * @throws RangeError for a name of other characters than letters, digits and `. _ / -`, or one that is taken
   */
  agent(name: string, handler: AgentHandler, options?: AgentOptions): this {
    this.#agents.register(name, handler, options);
    return this;
  }

  /**
   * Offers a tool to the jobs whose lease's `tool.call` covers its name (ACT-1).
   *
   * @param options.input a Standard Schema (zod and others): what the arguments must be, and what the handler gets
   * @throws RangeError for a name of other characters, one in `fs.` or `net.`, or one that is taken
   */
  tool<Args = unknown>(name: string, handler: ToolHandler<Args>, options?: ToolOptions<Args>): this {
    this.#tools.register(name, handler, options);
    return this;
  }

  /**
   * Adds a message of the host's own to the wire: clients may send it, and `handle` answers (EXT).
   *
   * @throws RangeError for a type that is not `x-vendor.<vendor>.<name>`, is Holdfast's, or is taken
   */
  extension<T = Record<string, unknown>>(type: VendorType, extension: Extension<T>): this {
    this.#extensions.register(type, extension);
    return this;
  }

  /**
   * Has the bodies of an event kind of the host's own checked when an agent emits them (EXT).
   *
   * @throws RangeError for a kind that is not `x-vendor.<vendor>.<name>`, is Holdfast's, or is taken
   */
  eventKind(kind: VendorType, options: { schema: ValueSchema }): this {
    this.#kinds.register(kind, options.schema);
    return this;
  }

  /**
   * Takes turns of conversations (`new Conversations(runtime)` calls it). Once, before the start.
   *
   * @throws Error when the runtime has a keeper of turns, or has started
   */
  keepTurns(keeper: (host: TurnHost) => TurnKeeper): void {
    if (this.#jobs.turns !== undefined || this.#starting !== undefined) {
      throw new Error("A runtime has its conversations once, and before it starts.");
    }
    const { store, clock, logger } = this.#settings;
    this.#jobs.handOver = () => this.#claim();
    this.#jobs.turns = keeper({
      store,
      clock,
      logger,
      settings: this.#settings,
      claim: () => this.#claim(),
      nodeId: () => this.#node.nodeId,
      masked: (text) => this.#masking.text(text),
      admit: (starting) => {
        const done = () => undefined;
        this.#jobs.admit(starting.then(done, done));
      },
      run: (turn, askedAt) => this.#runTurn(turn, askedAt),
      stop: (jobId, cause) => this.#jobs.stop(jobId, cause),
      ended: (jobIds) => this.#endedByStore(jobIds),
      placed: (place) => this.#turnPlaced(place),
      prepare: (agent, input, principal) => this.#prepare(agent, input, principal),
      read: (jobId, afterN) => this.#readKept(jobId, afterN),
      onGrown: (jobId, listener) => this.#wakeups.on(jobId, listener),
      ending: (jobId) => this.#ending(jobId),
    });
  }

  /** Opens the store, ends what dead processes left, and is ready for connections. Idempotent. */
  start(): Promise<void> {
    if (this.#stopping !== undefined)
      return Promise.reject(new Error("A runtime that was stopped cannot start again."));
    this.#starting ??= this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    await this.#settings.store.start();
    await this.#node.start();
    this.#phase = "running";
    this.#scheduleSweep();
    this.#janitor.start();
    this.#credentials.start();
    this.#givenBack.start();
    this.#jobs.turns?.start();
    this.#stopHints = this.#settings.store.onHint((hint) => this.#hinted(hint));
  }

  /**
   * Serves one connection until it closes. A runtime that does not run closes it at once.
   *
   * @param hooks.onWelcome called once, when the peer has proved who it is and has its session
   */
  accept(transport: Transport, hooks: { onWelcome?: () => void } = {}): void {
    if (this.#phase !== "running") {
      transport.close(1013, "the runtime is not running");
      return;
    }
    const connection = new Connection(transport, this.#connectionParts, hooks.onWelcome);
    if (connection.open) this.#connections.add(connection);
  }

  /**
   * Drains and stops: running jobs get `drainMs`, then end with a retryable INTERNAL_ERROR
   * (`details.reason: "shutdown"`); clients are told to go and may resume elsewhere (SRV-5).
   *
   * @param options.drainMs @default 10_000
   */
  stop(options: { drainMs?: number } = {}): Promise<void> {
    this.#stopping ??= this.#stop(options.drainMs ?? DRAIN_MS);
    return this.#stopping;
  }

  async #stop(drainMs: number): Promise<void> {
    const { store } = this.#settings;
    await this.#starting?.catch(() => undefined);
    const wasRunning = this.#phase === "running";
    this.#phase = "stopping";
    if (wasRunning) {
      await this.#atMost(FAREWELL_MS, Promise.all([this.#jobs.turns?.stop(), this.#givenBack.stop()]));
      const cause = new ArcpError("INTERNAL_ERROR", "The runtime was stopped; submit the job again.", {
        details: { reason: "shutdown" },
      });
      await this.#atMost(drainMs + FAREWELL_MS, this.#jobs.drain(drainMs, cause));
      await this.#atMost(FAREWELL_MS, this.#jobs.turns?.drained() ?? Promise.resolve());
      // Every reader that reads gets what is stored.
      const readers = [...this.#connections, this.jobs];
      await this.#atMost(FAREWELL_MS, Promise.all(readers.map((reader) => reader.whenIdle())));
      this.jobs.stop();
      for (const connection of this.#connections) connection.close(1001, "the runtime is stopping");
      this.#sweeps = false;
      this.#sweep?.cancel();
      this.#stopHints?.();
      await this.#atMost(FAREWELL_MS, Promise.all([this.#janitor.stop(), this.#credentials.stop(), this.#node.stop()]));
      this.#writer.stop();
      await store.stop();
    }
    this.#phase = "stopped";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** Waits for something that a store which does not answer, or a reader that does not read, may hold up. */
  async #atMost(limitMs: number, work: Promise<unknown>): Promise<void> {
    const enough = new AbortController();
    const done = work.then(() => enough.abort());
    await Promise.race([done, sleep(this.#settings.clock, limitMs, enough.signal).catch(() => undefined)]);
  }

  /** Who takes turns: this node, for the agents that it offers, unless it is about to stop. */
  #claim(): Omit<TurnClaim, "now"> | undefined {
    return this.#phase === "running" ? { nodeId: this.#node.nodeId, agents: this.#agents.labels() } : undefined;
  }

  #runTurn(claimed: ClaimedTurn, askedAt: RunningTurn["askedAt"]): void {
    const { job, principal, runEpoch, conversationId, lockEpoch, ttlMs, userId } = claimed;
    const turn = { jobId: job.jobId, conversationId, lockEpoch, ttlMs, userId, askedAt };
    if (claimed.attempt > 1) {
      this.#runAgain(claimed, turn);
      return;
    }
    // What it claimed it offers: an agent is never taken back.
    const agent = this.#agents.resolve(job.agent, "agent");
    this.#jobs.start({
      job,
      agent: {
        ...agent,
        handler: async (input, context) => {
          // The node that took the submit may be another, or gone.
          await this.#credentials.ensure(job.jobId, principal);
          return await agent.handler(input, context);
        },
      },
      input: JSON.parse(job.input),
      principal,
      runEpoch,
      turn,
    });
    this.#wakeups.wake(job.jobId);
  }

  /** A job that was given back is this node's now: it starts when what it had spent is counted, and its credentials are new. */
  #runAgain(claimed: ClaimedJob, turn?: RunningTurn): void {
    const { job, principal, runEpoch, attempt, lastN, checkpoint } = claimed;
    const { jobId } = job;
    const { store, logger } = this.#settings;
    const starting = async () => {
      const agent = this.#agents.resolve(job.agent, "agent");
      const authority = new Authority({ lease: job.lease, expiresAtMs: job.leaseExpiresAt });
      await chargeSpentBefore(store.jobs, jobId, authority.budget);
      await this.#credentials.ensure(jobId, principal);
      logger.info({ job_id: jobId, attempt }, "a job is run again");
      const again = { attempt, lastN, checkpoint, authority };
      this.#jobs.start({ job, agent, input: JSON.parse(job.input), principal, runEpoch, turn, again });
      this.#wakeups.wake(jobId);
    };
    const started = starting().catch(async (error: unknown) => {
      logger.error({ err: error, job_id: jobId, attempt }, "a job could not be run again; it is given back");
      const payload = givenBackPayload(this.clock, {
        phase: "handed_over",
        message: "The job could not be begun here.",
      });
      await store.jobs.giveBack({ jobId, runEpoch, payload });
    });
    this.#jobs.admit(
      started.catch((error: unknown) =>
        logger.error({ err: error, job_id: jobId }, "a job could not be given back; whoever buries this node does it"),
      ),
    );
  }

  #prepare(wanted: string, input: unknown, principal: string): Pick<NewJob, "agent" | "input" | "lease" | "restarts"> {
    const { policy, maxInputBytes } = this.#settings;
    const agent = this.#agents.resolve(wanted, "agent");
    const text = JSON.stringify(input);
    if (Buffer.byteLength(text) > maxInputBytes) {
      throw new ArcpError("INVALID_REQUEST", `input: takes more than ${maxInputBytes} bytes.`, {
        details: { limit: maxInputBytes },
      });
    }
    return {
      agent: agent.label,
      input: this.#masking.json(text),
      lease: grantedLease(agent.lease, policy(principal, agent.name), "lease"),
      restarts: agent.restarts,
    };
  }

  async #readKept(jobId: string, afterN: number): Promise<readonly NewEvent[]> {
    try {
      return await this.#recent.read(jobId, afterN, Number.MAX_SAFE_INTEGER);
    } catch (error) {
      if (!(error instanceof StoreRefusal) || error.reason !== "below_floor") throw error;
      const floorN = (await this.#settings.store.jobs.get(jobId))?.floorN ?? afterN;
      return floorN > afterN ? await this.#recent.read(jobId, floorN, Number.MAX_SAFE_INTEGER) : [];
    }
  }

  async #ending(jobId: string): Promise<EndedJob | undefined> {
    const { jobs } = this.#settings.store;
    const job = await jobs.get(jobId);
    return job === undefined || !isFinal(job.status) ? undefined : await storedOutcome(jobs, job);
  }

  #turnPlaced({ interrupted, endedJobId }: TurnPlace): void {
    if (interrupted !== undefined) this.#jobs.cancel(interrupted, "interrupted by a newer message of the conversation");
    if (endedJobId !== undefined) this.#endedByStore([endedJobId]);
  }

  #endedByStore(jobIds: readonly string[]): void {
    this.#jobs.endedByStore(jobIds);
    for (const jobId of jobIds) this.#wakeups.wake(jobId);
  }

  #attach(newcomer: Connection): void {
    if (newcomer.session === undefined) return;
    const { sessionId } = newcomer.session;
    const other = this.#attached.get(sessionId);
    if (other?.session !== undefined && other.session.connectionEpoch > newcomer.session.connectionEpoch) {
      // The store gave the session to `other` after us; its answer came first.
      newcomer.supersede();
      return;
    }
    this.#attached.set(sessionId, newcomer);
    other?.supersede();
  }

  #forget(connection: Connection, sessionId: string | undefined): void {
    this.#connections.delete(connection);
    if (sessionId !== undefined && this.#attached.get(sessionId) === connection) this.#attached.delete(sessionId);
  }

  /** Asks the store, once in an interval, for all that a wake-up should have told and may not have. */
  #scheduleSweep(): void {
    this.#sweep = this.#settings.clock.after(this.#settings.sweepIntervalMs, () => {
      this.#sweepOnce()
        .catch((error: unknown) => this.#settings.logger.warn({ err: error }, "sweep failed"))
        .finally(() => {
          if (this.#sweeps) this.#scheduleSweep();
        });
    });
  }

  async #sweepOnce(): Promise<void> {
    const jobIds = [...new Set([...this.#jobs.jobIds(), ...this.#wakeups.jobIds()])];
    const { turns } = this.#jobs;
    const agents = this.#claim()?.agents ?? [];
    const channels = turns?.channels() ?? [];
    await this.#look({
      ...{ sessionIds: [...this.#attached.keys()], jobIds, complete: true },
      takes: agents.length + channels.length === 0 ? undefined : { agents, channels, now: this.#settings.clock.wall() },
    });
  }

  /** Another process has changed something: what we have of it is looked at, all hints of a turn at once. */
  #hinted(hint: Hint): void {
    if (this.#hints === undefined) {
      const hints = { sessionIds: new Set<string>(), jobIds: new Set<string>() };
      this.#hints = hints;
      setImmediate(() => {
        this.#hints = undefined;
        const sessionIds = [...hints.sessionIds];
        const jobIds = [...hints.jobIds];
        if (sessionIds.length + jobIds.length === 0 || this.#phase !== "running") return;
        this.#look({ sessionIds, jobIds, complete: false }).catch((error: unknown) =>
          this.#settings.logger.warn({ err: error }, "hints could not be followed; the sweep will"),
        );
      });
    }
    if ("sessionId" in hint) {
      if (this.#attached.has(hint.sessionId)) this.#hints.sessionIds.add(hint.sessionId);
    } else if (this.#jobs.has(hint.jobId) || this.#wakeups.has(hint.jobId)) {
      this.#hints.jobIds.add(hint.jobId);
    }
  }

  /** Compares what we have with the store, and acts where it has moved on without us. */
  async #look(query: SweepQuery): Promise<void> {
    const answer = await this.#settings.store.sweep(query);
    for (const { sessionId, connectionEpoch } of answer.sessions) {
      const connection = this.#attached.get(sessionId);
      if (connection?.session !== undefined && connection.session.connectionEpoch < connectionEpoch) {
        connection.supersede();
      }
    }
    this.#jobs.reconcile(answer.jobs);
    this.#questions.reconcile(answer.jobs);
    const seen = query.complete ? new Map<string, number>() : this.#sweptLastN;
    for (const { jobId, lastN } of answer.jobs) {
      if (this.#sweptLastN.get(jobId) !== lastN) this.#wakeups.wake(jobId);
      seen.set(jobId, lastN);
    }
    this.#sweptLastN = seen;
    if (!query.complete) return;
    const looks = query.takes !== undefined;
    const { jobs, turns, deliveries } = (looks && answer.waiting) || { jobs: looks, turns: looks, deliveries: looks };
    if (jobs) this.#givenBack.look();
    this.#jobs.turns?.look({ turns, deliveries });
  }

  #dropAll(): void {
    this.#jobs.dropAll("This process was declared dead; its jobs are over.");
    for (const connection of this.#connections) connection.close(1012, "this node starts anew; resume");
  }
}
