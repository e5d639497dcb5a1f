/**
 * Conversations: one for each key, however many ask at once, with a lock, a queue of turns, and rules for who may
 * use which. Holds nothing of a conversation in memory but the locks of the turns that run here; a question costs
 * one read of the store.
 */
import { ArcpError, newJobId, newMessageId, newTraceId } from "../protocol/index.ts";
import { Deliveries, type DeliveriesOptions, type ReplyTo } from "../routing/deliveries/index.ts";
import { type Runtime, type TurnHost, type TurnKeeper, type TurnSubmitter, turnRefused } from "../runtime/index.ts";
import {
  type BindingRecord,
  type ConversationRecord,
  type NewConversation,
  type NewTurn,
  type OnBusy,
  StoreRefusal,
  type TurnRecord,
} from "../store/store.ts";
import { type ConversationKey, conversationIdOf, isChannel, keyText, parseKey, readKey, writeKey } from "./key.ts";
import type { Lock } from "./lock.ts";
import { checkedTtl, known, Locks, lostPayload, unknownConversation } from "./locks.ts";
import { Turns } from "./turns.ts";
import { ConversationUpstream } from "./upstream/conversation-record.ts";
import { UpstreamJanitor, type UpstreamJanitorOptions } from "./upstream/janitor.ts";
import { JobUpstream } from "./upstream/job-record.ts";
import { type UpstreamOptions, UpstreamSession } from "./upstream/session.ts";

/** What somebody wants to do with a conversation. */
export type ConversationAction = "resolve" | "turn" | "inspect" | "list" | "delete";

/** The conversation in question: its key where it is named by one, whose it is, and where it is from. */
export interface ConversationRef {
  readonly source: string;
  readonly key: ConversationKey | undefined;
  /** `undefined`: a channel's. */
  readonly principal: string | undefined;
}

export interface ConversationsOptions {
  /**
   * Who may do what. A turn whose place is named by a key is asked for as `resolve` and as `turn`; what the host itself
   * calls ({@link Conversations.resolve} and the like) is not asked for.
   *
   * @default each its own; what is a channel's, an operator and the channel's adapter
   */
  authorize?: (who: TurnSubmitter, conversation: ConversationRef, action: ConversationAction) => boolean;
  /** How long a lock is good without a refresh. @default 180_000 */
  lockTtlMs?: number;
  /** Turns of one conversation that may wait. @default 100 */
  maxQueuedTurns?: number;
  /**
   * How long a turn whose turn it is may wait for an agent that nobody offers; then it ends as AGENT_NOT_AVAILABLE,
   * and the queue goes on. At least 10 s, for whoever offers it needs time to take it. `Infinity`: for ever.
   *
   * @default 600_000
   */
  maxUnofferedMs?: number;
  /** Agent backends whose sessions are cleaned up: what conversations, or the host's own tables, have there. */
  upstream?: Pick<UpstreamJanitorOptions, "backends" | "tables" | "intervalMs">;
  /** The channels on which answers go out from this process. @default none */
  deliveries?: DeliveriesOptions;
}

export interface StartTurn {
  /** Where; or `conversationId`. */
  key?: ConversationKey | undefined;
  conversationId?: string | undefined;
  /** Whose job it is: it sees the job, and its limits count. */
  principal: string;
  /** Who speaks. @default the principal */
  userId?: string | undefined;
  /** `name` or `name@version`. */
  agent: string;
  input?: unknown;
  /** @default "enqueue" */
  onBusy?: OnBusy | undefined;
  /** The channel's id of the message: the same one is one turn. */
  messageId?: string | undefined;
  /** Where the answer goes; it is settled now, whatever becomes of the table of routes. @default into the job's log alone */
  replyTo?: ReplyTo | undefined;
}

export interface StartedTurn {
  jobId: string;
  conversationId: string;
  /** Whether the conversation is new; false for a repeated message. */
  created: boolean;
  /** `repeated`: the message had its turn before. */
  state: "running" | "queued" | "repeated";
  /** Of a queued one, from 1. */
  place?: number;
}

const ON_BUSY: readonly OnBusy[] = ["reject", "enqueue", "interrupt"];
const MAX_MESSAGE_ID_CHARS = 256;
const MAX_USER_CHARS = 256;
/** Several looks for queues of whoever offers the agent. */
const LEAST_UNOFFERED_MS = 10_000;

export class Conversations {
  readonly locks: Locks;
  /** Answers on their way out. */
  readonly deliveries: Deliveries;
  readonly #host: TurnHost;
  readonly #turns: Turns;
  readonly #janitor: UpstreamJanitor | undefined;
  readonly #backends: readonly string[];
  readonly #authorize: NonNullable<ConversationsOptions["authorize"]>;
  readonly #ttlMs: number;
  readonly #maxQueued: number;

  /**
   * Gives a runtime its conversations, before it starts.
   *
   * @throws RangeError for options that cannot be; Error when the runtime has some, or has started
   */
  constructor(runtime: Runtime, options: ConversationsOptions = {}) {
    this.#authorize = options.authorize ?? ownOnly;
    this.#ttlMs = checkedTtl(options.lockTtlMs ?? 180_000);
    this.#maxQueued = options.maxQueuedTurns ?? 100;
    if (!Number.isSafeInteger(this.#maxQueued) || this.#maxQueued < 0) {
      throw new RangeError(`maxQueuedTurns: ${this.#maxQueued} is not a whole number of at least 0.`);
    }
    const { maxUnofferedMs = 600_000 } = options;
    if (!(maxUnofferedMs >= LEAST_UNOFFERED_MS)) {
      throw new RangeError(`maxUnofferedMs: ${maxUnofferedMs} is not at least ${LEAST_UNOFFERED_MS}.`);
    }
    let given: { host: TurnHost; turns: Turns } | undefined;
    runtime.keepTurns((host) => {
      const turns = new Turns(host, { maxUnofferedMs });
      given = { host, turns };
      return this.#keeper(turns);
    });
    if (given === undefined) throw new Error("The runtime took no turns.");
    this.#host = given.host;
    this.#turns = given.turns;
    const { store, clock, logger, nodeId, ended, masked, read, onGrown, ending } = given.host;
    this.deliveries = new Deliveries(
      {
        store: store.deliveries,
        clock,
        logger,
        nodeId,
        read,
        onGrown,
        ending,
        lockRemainingMs: (jobId) => this.#turns.lockOf(jobId)?.remainingMs ?? 0,
      },
      options.deliveries,
    );
    this.#backends = options.upstream?.backends.map(({ name }) => name) ?? [];
    this.#janitor =
      options.upstream &&
      new UpstreamJanitor({ ...options.upstream, bindings: store.bindings, jobs: store.jobs, clock, logger });
    this.locks = new Locks({
      store,
      clock,
      logger,
      ttlMs: this.#ttlMs,
      nodeId,
      ended,
      masked,
      freed: () => this.#turns.look(),
    });
  }

  /**
   * The conversation of a key, made if it is not there.
   *
   * @returns `created` for one of all who ask at once
   * @throws ArcpError INVALID_REQUEST for a key that cannot be
   */
  async resolve(
    key: ConversationKey,
    who: { principal: string; userId?: string | undefined },
  ): Promise<{ conversation: ConversationRecord; created: boolean }> {
    return await this.#host.store.conversations.resolve(this.#named(parseKey(key), who));
  }

  /** The conversation of a key, if there is one. Writes nothing. */
  async lookup(key: ConversationKey, who: { principal: string }): Promise<ConversationRecord | undefined> {
    return await this.#host.store.conversations.get(conversationIdOf(parseKey(key), who.principal));
  }

  /**
   * A conversation that no key names.
   *
   * @throws TypeError for a source whose conversations have keys: resolve that key instead
   */
  async createFresh(
    source: "web" | "cli" | `x-${string}`,
    who: { principal: string; userId?: string },
  ): Promise<ConversationRecord> {
    if (isChannel(source)) {
      throw new TypeError(`source: a conversation of ${source} is a shared place with a key; use resolve(key).`);
    }
    // As a key is checked: a source of one's own has a name.
    parseKey(
      source === "web" ? { source, chat: "x" } : source === "cli" ? { source, name: "x" } : { source, parts: ["x"] },
    );
    const { conversation } = await this.#host.store.conversations.resolve({
      conversationId: `${source}_${newMessageId().toLowerCase()}`,
      source,
      key: undefined,
      principal: who.principal,
      userId: who.userId ?? who.principal,
      now: this.#host.clock.wall(),
    });
    return conversation;
  }

  /** @throws ArcpError INVALID_REQUEST for one that is not there, or not for this one to see */
  async get(
    conversationId: string,
    who: TurnSubmitter,
  ): Promise<{ conversation: ConversationRecord; turns: TurnRecord[] }> {
    const conversation = await this.#allowed(conversationId, who, "inspect");
    return { conversation, turns: await this.#host.store.conversations.turns(conversationId, MAX_LISTED_TURNS) };
  }

  /**
   * The upstream sessions of a conversation, with each backend that was named here and has had one.
   *
   * @throws ArcpError INVALID_REQUEST for one that is not there, or not for this one to see
   */
  async bindings(conversationId: string, who: TurnSubmitter): Promise<BindingRecord[]> {
    await this.#allowed(conversationId, who, "inspect");
    const { bindings } = this.#host.store;
    const all = await Promise.all(this.#backends.map((backend) => bindings.get({ conversationId, backend })));
    return all.filter(({ state }) => state !== "unbound");
  }

  /** Newest activity first: one's own; an operator sees all. @throws ArcpError INVALID_REQUEST for a bad cursor */
  async list(
    who: TurnSubmitter,
    query: { lockedOnly?: boolean | undefined; limit?: number | undefined; cursor?: string | undefined } = {},
  ): Promise<{ conversations: ConversationRecord[]; nextCursor: string | undefined }> {
    const { lockedOnly, limit = 100 } = query;
    // By default it is one's own that one sees; a host's rule may say more, and is asked of each.
    const principal = who.operator || this.#authorize !== ownOnly ? undefined : who.principal;
    try {
      const conversations: ConversationRecord[] = [];
      let { cursor } = query;
      for (let scanned = 0; scanned < MAX_SCANNED; scanned += limit) {
        const page = await this.#host.store.conversations.list({
          principal,
          lockedOnly,
          limit: limit - conversations.length,
          cursor,
        });
        conversations.push(...page.conversations.filter((record) => this.#authorize(who, refOf(record), "list")));
        cursor = page.nextCursor;
        if (cursor === undefined || conversations.length === limit) break;
      }
      return { conversations, nextCursor: cursor };
    } catch (error) {
      if (!(error instanceof StoreRefusal) || error.reason !== "bad_cursor") throw error;
      throw new ArcpError("INVALID_REQUEST", "cursor: is not one that a list has given; start without one.");
    }
  }

  /** @throws ArcpError INVALID_REQUEST; CONVERSATION_BUSY while somebody works on it */
  async delete(conversationId: string, who: TurnSubmitter): Promise<void> {
    await this.#allowed(conversationId, who, "delete");
    await known(conversationId, this.#host.store.conversations.delete(conversationId, this.#host.clock.wall()));
    const audit = { audit: "conversation.delete", principal: who.principal, conversation_id: conversationId };
    this.#host.logger.info(audit, "a conversation was deleted");
    void this.#janitor?.sweep();
  }

  /**
   * Starts a turn for whoever has no session: a channel's adapter. Its job is seen through the runtime's job desk.
   *
   * @param who whose rights count: somebody's who asks over HTTP
   * @default the host's own, which are an operator's
   * @throws ArcpError INVALID_REQUEST naming the field, with `details.reason: "no_route"` where nobody knows where the
   *   answer is to go; PERMISSION_DENIED; AGENT_NOT_AVAILABLE, AGENT_VERSION_NOT_AVAILABLE;
   *   CONVERSATION_BUSY naming the running turn; LIMIT_EXCEEDED
   */
  async startTurn(
    given: StartTurn,
    who: TurnSubmitter = { principal: given.principal, operator: true },
  ): Promise<StartedTurn> {
    if (this.#host.claim() === undefined) {
      throw new ArcpError("INTERNAL_ERROR", "The runtime is not running; start the turn on another, or later.", {
        details: { reason: "shutdown" },
      });
    }
    const started = this.#startTurn(given, who);
    this.#host.admit(started);
    return await started;
  }

  async #startTurn(given: StartTurn, who: TurnSubmitter): Promise<StartedTurn> {
    const { store, clock, nodeId, settings } = this.#host;
    const { principal } = given;
    requireOwnVoice(given.userId, who);
    const delivery = given.replyTo === undefined ? undefined : await this.deliveries.pin(given.replyTo);
    const turn = { ...(await this.#newTurn(given, who)), delivery };
    const prepared = this.#host.prepare(given.agent, given.input ?? null, principal);
    const askedAt = { monotonic: clock.monotonic(), wall: clock.wall() };
    const job = { ...prepared, jobId: newJobId(), traceId: newTraceId() };
    const { conversationId } = turn.conversation;
    const starting = store.conversations.startTurn({
      turn,
      principal,
      nodeId: nodeId(),
      job,
      acceptedPayload: JSON.stringify({
        job_id: job.jobId,
        agent: job.agent,
        lease: job.lease,
        accepted_at: new Date(askedAt.wall).toISOString(),
        trace_id: job.traceId,
      }),
      maxRunningJobsPerPrincipal: settings.maxRunningJobsPerPrincipal,
      now: askedAt.wall,
    });
    const outcome = await known(conversationId, starting);
    switch (outcome.outcome) {
      case "repeated":
        return { jobId: outcome.jobId, conversationId, created: false, state: "repeated" };
      case "refused":
        throw turnRefused(outcome.refusal);
      case "limit_exceeded":
        throw ArcpError.detail(
          "LIMIT_EXCEEDED",
          `At most ${settings.maxRunningJobsPerPrincipal} jobs of one principal run or wait at a time; try again later.`,
          { limit: settings.maxRunningJobsPerPrincipal },
        );
      case "created": {
        const { place } = outcome;
        this.#host.placed(place);
        if (place.state === "queued") {
          return { jobId: job.jobId, conversationId, created: place.created, state: "queued", place: place.place };
        }
        const { lockEpoch } = place;
        const { ttlMs, userId } = turn;
        const first = { job, principal, runEpoch: 1, attempt: 1, lastN: 0, checkpoint: undefined };
        this.#host.run({ ...first, userId, conversationId, lockEpoch, ttlMs }, askedAt);
        return { jobId: job.jobId, conversationId, created: place.created, state: "running" };
      }
    }
  }

  /**
   * The session of a conversation with an agent backend: of one's own turn, or by whoever looks after both (UPS).
   *
   * @throws ArcpError INVALID_REQUEST for an unknown conversation
   */
  async upstream(
    conversationId: string,
    options: UpstreamOptions<ConversationUpstream>,
  ): Promise<UpstreamSession<ConversationUpstream>> {
    const { store, clock, logger } = this.#host;
    const conversation = await store.conversations.get(conversationId);
    if (conversation === undefined) throw unknownConversation(conversationId);
    const record = await ConversationUpstream.load({
      bindings: store.bindings,
      clock,
      logger,
      backend: options.backend,
      conversationId,
      title: conversation.key === undefined ? conversationId : writeKey(parseKey(JSON.parse(conversation.key))),
    });
    return new UpstreamSession(record, { clock, logger, ...options });
  }

  /**
   * The session of a running job that is no turn: its own, and deleted when its record is disposed of, or after the
   * job's end.
   */
  jobUpstream(jobId: string, options: UpstreamOptions<JobUpstream>): UpstreamSession<JobUpstream> {
    const { store, clock, logger } = this.#host;
    const record = new JobUpstream({ bindings: store.bindings, clock, logger, backend: options.backend, jobId });
    return new UpstreamSession(record, { clock, logger, ...options });
  }

  /** Conversations of which a turn runs here now. */
  get running(): number {
    return this.#turns.running;
  }

  /** The lock of a turn that runs here: what the turn does outside the store starts only if it lasts (law 3). */
  lockOf(jobId: string): Lock | undefined {
    return this.#turns.lockOf(jobId);
  }

  #keeper(turns: Turns): TurnKeeper {
    return {
      read: (value, who) => this.#read(value, who),
      began: (turn, runEpoch) => {
        turns.began(turn);
        this.deliveries.began(turn.jobId, runEpoch);
      },
      ended: (jobId) => {
        turns.ended(jobId);
        this.deliveries.ended(jobId);
      },
      within: (turn, work) => turns.within(turn, work),
      channels: () => this.deliveries.channels,
      look: (waiting) => {
        turns.look(waiting.turns);
        if (waiting.deliveries) this.deliveries.look();
      },
      start: () => {
        turns.start();
        this.deliveries.start();
        this.#janitor?.start();
      },
      stop: async () => {
        this.locks.stop();
        await Promise.all([turns.stop(), this.#janitor?.stop()]);
      },
      drained: () => this.deliveries.stop(),
    };
  }

  /** The turn extension of a `job.submit` (TRN-7). */
  async #read(value: unknown, who: TurnSubmitter): Promise<NewTurn> {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new ArcpError("INVALID_REQUEST", `${FIELD}: is not an object with a key or a conversation_id.`);
    }
    const given = value as Readonly<Record<string, unknown>>;
    const odd = Object.keys(given).find((name) => !KNOWN.includes(name));
    if (odd !== undefined) {
      throw new ArcpError("INVALID_REQUEST", `${FIELD}.${odd.slice(0, 64)}: is not known; it has ${KNOWN.join(", ")}.`);
    }
    const userId = text(given["user_id"], "user_id", MAX_USER_CHARS);
    requireOwnVoice(userId, who);
    const { key } = given;
    return await this.#newTurn(
      {
        principal: who.principal,
        userId,
        key: key === undefined ? undefined : typeof key === "string" ? readKey(key) : parseKey(key, `${FIELD}.key`),
        conversationId: text(given["conversation_id"], "conversation_id", 256),
        onBusy: given["onBusy"] as OnBusy | undefined,
        messageId: text(given["messageId"], "messageId", MAX_MESSAGE_ID_CHARS),
      },
      who,
    );
  }

  async #newTurn(given: Omit<StartTurn, "agent" | "input" | "replyTo">, who: TurnSubmitter): Promise<NewTurn> {
    const { onBusy = "enqueue", messageId } = given;
    const userId = text(given.userId, "user_id", MAX_USER_CHARS) ?? given.principal;
    if (!ON_BUSY.includes(onBusy)) {
      const shown = String(JSON.stringify(onBusy)).slice(0, 64);
      throw new ArcpError("INVALID_REQUEST", `${FIELD}.onBusy: ${shown} is none of ${ON_BUSY.join(", ")}.`);
    }
    return {
      conversation: await this.#whereTo(given, who),
      onBusy,
      messageId: text(messageId, "messageId", MAX_MESSAGE_ID_CHARS),
      userId,
      maxQueued: this.#maxQueued,
      ttlMs: this.#ttlMs,
      lostPayload: lostPayload("its conversation"),
    };
  }

  async #whereTo(given: Omit<StartTurn, "agent" | "input" | "replyTo">, who: TurnSubmitter): Promise<NewConversation> {
    if ((given.key === undefined) === (given.conversationId === undefined)) {
      throw new ArcpError("INVALID_REQUEST", `${FIELD}: give either a key or a conversation_id.`);
    }
    if (given.conversationId !== undefined) {
      const record = await this.#allowed(given.conversationId, who, "turn");
      return { ...record, now: this.#host.clock.wall() };
    }
    const key = parseKey(given.key, `${FIELD}.key`);
    const named = this.#named(key, given);
    const ref = { source: key.source, key, principal: named.principal };
    if (!this.#authorize(who, ref, "resolve") || !this.#authorize(who, ref, "turn")) {
      throw new ArcpError("PERMISSION_DENIED", `${FIELD}.key: keys of ${key.source} are its adapter's and operators'.`);
    }
    return named;
  }

  #named(key: ConversationKey, who: { principal: string; userId?: string | undefined }): NewConversation {
    return {
      conversationId: conversationIdOf(key, who.principal),
      source: key.source,
      key: keyText(key),
      principal: isChannel(key.source) ? undefined : who.principal,
      userId: who.userId ?? who.principal,
      now: this.#host.clock.wall(),
    };
  }

  /** One that is not for `who` is not there, as far as it is told. */
  async #allowed(conversationId: string, who: TurnSubmitter, action: ConversationAction): Promise<ConversationRecord> {
    const record = await this.#host.store.conversations.get(conversationId);
    if (record === undefined || !this.#authorize(who, refOf(record), action)) throw unknownConversation(conversationId);
    return record;
  }
}

const FIELD = 'extensions["x-vendor.holdfast.turn"]';
const KNOWN = ["key", "conversation_id", "onBusy", "messageId", "user_id"];
const MAX_LISTED_TURNS = 200;
/** Conversations that one list looks at where the host's rule leaves most out; the rest is for the next page. */
const MAX_SCANNED = 2_000;

const ownOnly = (who: TurnSubmitter, conversation: ConversationRef): boolean =>
  who.operator || (conversation.principal !== undefined && conversation.principal === who.principal);

/** @throws ArcpError PERMISSION_DENIED */
function requireOwnVoice(userId: string | undefined, who: TurnSubmitter): void {
  if (userId === undefined || userId === who.principal || who.operator) return;
  throw new ArcpError("PERMISSION_DENIED", `${FIELD}.user_id: only an operator speaks for others.`);
}

const refOf = (record: ConversationRecord): ConversationRef => ({
  source: record.source,
  key: record.key === undefined ? undefined : parseKey(JSON.parse(record.key)),
  principal: record.principal,
});

function text(value: unknown, name: string, maxChars: number): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "string" && value !== "" && value.length <= maxChars && value.isWellFormed()) return value;
  const shown = String(JSON.stringify(value)).slice(0, 64).toWellFormed();
  throw new ArcpError("INVALID_REQUEST", `${FIELD}.${name}: ${shown} is not a text of 1 to ${maxChars} characters.`);
}
