/**
 * Conversations and their locks under `/v1` (SRV-17, SRV-18). Who sees which, {@link Conversations} decides: one that
 * is not for the principal is not there. To break a lock takes an operator.
 */
import { z } from "zod";
import type { Clock } from "../../clock.ts";
import type { Conversations } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { inTime } from "../../runtime/in-time.ts";
import type { BindingRecord, ConversationRecord, LockRecord, TurnRecord } from "../../store/store.ts";
import type { Api } from "./api.ts";
import { askerOf, PAGE } from "./request.ts";

export interface ConversationRoutes {
  conversations: Conversations;
  clock: Clock;
  logger: Logger;
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

const Lock = z.object({
  holder: z.string(),
  epoch: z.int(),
  node_id: z.string(),
  pid: z.int().nullable(),
  host: z.string().nullable(),
  since: z.iso.datetime(),
  until: z.iso.datetime(),
  job_id: z.string().nullable(),
});
const Conversation = z.object({
  conversation_id: z.string(),
  source: z.string(),
  key: z.unknown(),
  principal: z.string().nullable(),
  user_id: z.string(),
  created_at: z.iso.datetime(),
  active_at: z.iso.datetime(),
  queued: z.int(),
  lock: Lock.nullable(),
});
const Turn = z.object({
  job_id: z.string(),
  agent: z.string(),
  user_id: z.string(),
  message_id: z.string().optional(),
  state: z.enum(["queued", "running", "ended"]),
  place: z.int().optional(),
  status: z.string(),
  epoch: z.int().optional(),
  submitted_at: z.iso.datetime(),
});
const Binding = z.object({
  backend: z.string(),
  state: z.string(),
  generation: z.int(),
  upstream_id: z.string().nullable(),
  changed_at: z.iso.datetime(),
});
const Detail = Conversation.extend({ turns: z.array(Turn), bindings: z.array(Binding) });
const Deleted = z.object({ conversation_id: z.string(), outcome: z.literal("deleted") });
const Broken = z.object({ conversation_id: z.string(), outcome: z.literal("broken"), lock: Lock });

export function conversationRoutes(api: Api, parts: ConversationRoutes): void {
  const { conversations, clock, logger } = parts;
  const tag = "conversations";
  const ask = <T>(work: () => Promise<T>) => inTime(work, { clock, logger, timeoutMs: STORE_TIMEOUT_MS });

  api.route(
    {
      method: "get",
      path: "/conversations",
      access: "look",
      tag,
      summary: "Conversations, newest activity first.",
      query: ListQuery,
      answers: {
        200: {
          description: "A page.",
          schema: z.object({ conversations: z.array(Conversation), next_cursor: z.string().nullable() }),
        },
      },
    },
    async ({ query, context }) => {
      const { locked, limit, cursor } = query;
      const page = await ask(() =>
        conversations.list(askerOf(context), { lockedOnly: locked === "true", limit, cursor }),
      );
      return context.json({
        conversations: page.conversations.map(conversationForWire),
        next_cursor: page.nextCursor ?? null,
      });
    },
  );

  api.route(
    {
      method: "get",
      path: "/conversations/{id}",
      access: "look",
      tag,
      summary: "One conversation with its lock, its turns, and the sessions that it has with agent backends.",
      answers: { 200: { description: "As it stands.", schema: Detail } },
    },
    async ({ param, context }) => {
      const asker = askerOf(context);
      const { conversation, turns } = await ask(() => conversations.get(param("id"), asker));
      const bindings = await ask(() => conversations.bindings(param("id"), asker));
      return context.json({
        ...conversationForWire(conversation),
        turns: turns.map(turnForWire),
        bindings: bindings.map(bindingForWire),
      });
    },
  );

  api.route(
    {
      method: "delete",
      path: "/conversations/{id}",
      access: "change",
      tag,
      summary: "Remove a conversation that nobody works on.",
      answers: { 200: { description: "It is gone.", schema: Deleted } },
    },
    async ({ param, context }) => {
      const id = param("id");
      await ask(() => conversations.delete(id, askerOf(context)));
      return context.json({ conversation_id: id, outcome: "deleted" });
    },
  );

  api.route(
    {
      method: "post",
      path: "/conversations/{id}/lock/break",
      access: "operator",
      tag,
      summary: "Free a lock, and end the job that holds it.",
      body: BreakBody,
      answers: { 200: { description: "The lock as it was.", schema: Broken } },
    },
    async ({ body, param, context }) => {
      const id = param("id");
      const { principal } = askerOf(context);
      const lock = await ask(() => conversations.locks.breakLock(id, { principal, reason: body.reason }));
      return context.json({ conversation_id: id, outcome: "broken", lock: lockForWire(lock) });
    },
  );

  api.route(
    {
      method: "get",
      path: "/locks",
      access: "look",
      tag,
      summary: "Locks that are held.",
      query: LocksQuery,
      answers: {
        200: {
          description: "A page.",
          schema: z.object({
            locks: z.array(Lock.extend({ conversation_id: z.string() })),
            next_cursor: z.string().nullable(),
          }),
        },
      },
    },
    async ({ query, context }) => {
      const { limit, cursor } = query;
      const page = await ask(() => conversations.list(askerOf(context), { lockedOnly: true, limit, cursor }));
      const locks = page.conversations.flatMap(({ conversationId, lock }) =>
        lock === undefined ? [] : [{ conversation_id: conversationId, ...lockForWire(lock) }],
      );
      return context.json({ locks, next_cursor: page.nextCursor ?? null });
    },
  );
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

const bindingForWire = (binding: BindingRecord) => ({
  backend: binding.backend,
  state: binding.state,
  generation: binding.generation,
  upstream_id: binding.upstreamId ?? null,
  changed_at: iso(binding.changedAt),
});
