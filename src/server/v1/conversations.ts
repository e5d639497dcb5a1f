/**
 * Conversations and their locks under `/v1` (SRV-17, SRV-18). Who sees which, {@link Conversations} decides: one that
 * is not for the principal is not there. To break a lock takes an operator.
 */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { z } from "zod";
import type { Clock } from "../../clock.ts";
import type { Conversations } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError } from "../../protocol/index.ts";
import { inTime } from "../../runtime/in-time.ts";
import type { ConversationRecord, LockRecord, TurnRecord } from "../../store/store.ts";
import { bodyOf, type Env, NoQuery, PAGE, parse, queryOf } from "./request.ts";

export interface ConversationRoutes {
  conversations: Conversations;
  clock: Clock;
  logger: Logger;
  authenticated: MiddlewareHandler<Env>;
  /** Answers what other methods ask of a path. */
  others(path: string, allowed: string): void;
}

const MAX_REASON_CHARS = 1024;
/** As on the wire by default. */
const STORE_TIMEOUT_MS = 5_000;

const ListQuery = z.strictObject({
  ...PAGE,
  locked: z.enum(["true", "false"], "must be true or false").optional(),
});
const LocksQuery = z.strictObject(PAGE);
const BreakBody = z.strictObject({
  reason: z
    .string("say why, as a text")
    .max(MAX_REASON_CHARS)
    .refine((reason) => reason.trim() !== "", "say why; it is empty"),
});

const whoAsks = (context: Context<Env>) => ({
  principal: context.get("principal"),
  operator: context.get("operator"),
});

export function conversationRoutes(app: Hono<Env>, parts: ConversationRoutes): void {
  const { conversations, clock, logger, authenticated, others } = parts;
  const ask = <T>(work: () => Promise<T>) => inTime(work, { clock, logger, timeoutMs: STORE_TIMEOUT_MS });

  app.get("/conversations", authenticated, async (context) => {
    const { locked, limit, cursor } = parse(ListQuery, queryOf(context.req.url), "query");
    const page = await ask(() =>
      conversations.list(whoAsks(context), { lockedOnly: locked === "true", limit, cursor }),
    );
    return context.json({
      conversations: page.conversations.map(conversationForWire),
      next_cursor: page.nextCursor ?? null,
    });
  });
  others("/conversations", "GET, HEAD");

  app.get("/conversations/:id", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const { conversation, turns } = await ask(() => conversations.get(context.req.param("id"), whoAsks(context)));
    return context.json({ ...conversationForWire(conversation), turns: turns.map(turnForWire) });
  });
  app.delete("/conversations/:id", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const id = context.req.param("id");
    await ask(() => conversations.delete(id, whoAsks(context)));
    return context.json({ conversation_id: id, outcome: "deleted" });
  });
  others("/conversations/:id", "GET, HEAD, DELETE");

  app.post("/conversations/:id/lock/break", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    const { principal, operator } = whoAsks(context);
    if (!operator) {
      throw new ArcpError("PERMISSION_DENIED", "Only an operator breaks locks; ask with an operator's token.");
    }
    const { reason } = parse(BreakBody, await bodyOf(context.req), "body");
    const id = context.req.param("id");
    const lock = await ask(() => conversations.locks.breakLock(id, { principal, reason }));
    return context.json({ conversation_id: id, outcome: "broken", lock: lockForWire(lock) });
  });
  others("/conversations/:id/lock/break", "POST");

  app.get("/locks", authenticated, async (context) => {
    const { limit, cursor } = parse(LocksQuery, queryOf(context.req.url), "query");
    const page = await ask(() => conversations.list(whoAsks(context), { lockedOnly: true, limit, cursor }));
    const locks = page.conversations.flatMap(({ conversationId, lock }) =>
      lock === undefined ? [] : [{ conversation_id: conversationId, ...lockForWire(lock) }],
    );
    return context.json({ locks, next_cursor: page.nextCursor ?? null });
  });
  others("/locks", "GET, HEAD");
}

const iso = (wallMs: number): string => new Date(wallMs).toISOString();

const conversationForWire = (record: ConversationRecord) => ({
  conversation_id: record.conversationId,
  source: record.source,
  key: record.key === undefined ? null : (JSON.parse(record.key) as unknown),
  principal: record.principal ?? null,
  user_id: record.userId,
  created_at: iso(record.createdAt),
  active_at: iso(record.activeAt),
  queued: record.queued,
  lock: record.lock === undefined ? null : lockForWire(record.lock),
});

const lockForWire = (lock: LockRecord) => ({
  holder: lock.holder,
  epoch: lock.lockEpoch,
  node_id: lock.nodeId,
  pid: lock.pid ?? null,
  host: lock.host ?? null,
  since: iso(lock.acquiredAt),
  until: iso(lock.expiresAt),
  job_id: lock.jobId ?? null,
});

const turnForWire = (turn: TurnRecord) => ({
  job_id: turn.jobId,
  agent: turn.agent,
  user_id: turn.userId,
  ...(turn.messageId === undefined ? {} : { message_id: turn.messageId }),
  state: turn.state,
  ...(turn.place === undefined ? {} : { place: turn.place }),
  status: turn.status,
  ...(turn.lockEpoch === undefined ? {} : { epoch: turn.lockEpoch }),
  submitted_at: iso(turn.submittedAt),
});
