/**
 * Answers on their way out, under `/v1` (SRV-21): what became of them, and an operator's way with those that failed.
 * Who sees which, {@link Conversations.deliveries} decides: one that is not for the principal is not there.
 */
import type { Context, Hono } from "hono";
import { z } from "zod";
import { inTime } from "../../runtime/in-time.ts";
import { DELIVERY_STATES, type DeliveryRecord } from "../../store/store.ts";
import type { ConversationRoutes } from "./conversations.ts";
import { type Env, NoQuery, PAGE, parse, queryOf } from "./request.ts";

/** As on the wire by default. */
const STORE_TIMEOUT_MS = 5_000;
const MAX_NAME_CHARS = 256;

const ListQuery = z.strictObject({
  ...PAGE,
  state: z.enum(DELIVERY_STATES, `must be one of ${DELIVERY_STATES.join(", ")}`).optional(),
  channel: z.string().min(1).max(MAX_NAME_CHARS).optional(),
  conversation_id: z.string().min(1).max(MAX_NAME_CHARS).optional(),
});

const whoAsks = (context: Context<Env>) => ({
  principal: context.get("principal"),
  operator: context.get("operator"),
});

export function deliveryRoutes(app: Hono<Env>, parts: ConversationRoutes): void {
  const { conversations, clock, logger, authenticated, others } = parts;
  const { deliveries } = conversations;
  const ask = <T>(work: () => Promise<T>) => inTime(work, { clock, logger, timeoutMs: STORE_TIMEOUT_MS });

  app.get("/deliveries", authenticated, async (context) => {
    const { conversation_id: conversationId, ...query } = parse(ListQuery, queryOf(context.req.url), "query");
    const page = await ask(() => deliveries.list(whoAsks(context), { ...query, conversationId }));
    return context.json({ deliveries: page.deliveries.map(deliveryForWire), next_cursor: page.nextCursor ?? null });
  });
  others("/deliveries", "GET, HEAD");

  app.get("/deliveries/:id", authenticated, async (context) => {
    parse(NoQuery, queryOf(context.req.url), "query");
    return context.json(deliveryForWire(await ask(() => deliveries.get(context.req.param("id"), whoAsks(context)))));
  });
  others("/deliveries/:id", "GET, HEAD");

  for (const what of ["retry", "discard"] as const) {
    app.post(`/deliveries/:id/${what}`, authenticated, async (context) => {
      parse(NoQuery, queryOf(context.req.url), "query");
      const id = context.req.param("id");
      return context.json(deliveryForWire(await ask(() => deliveries[what](id, whoAsks(context)))));
    });
    others(`/deliveries/:id/${what}`, "POST");
  }
}

const iso = (wallMs: number): string => new Date(wallMs).toISOString();

const deliveryForWire = (record: DeliveryRecord) => ({
  delivery_id: record.deliveryId,
  state: record.state,
  channel: record.channel,
  route_key: record.routeKey,
  route: JSON.parse(record.route) as unknown,
  conversation_id: record.conversationId,
  job_id: record.jobId,
  principal: record.principal,
  attempts: record.attempt,
  failures: record.failures,
  last_error: record.lastError ?? null,
  unclear: record.unclear,
  parts: record.parts.filter(({ final }) => final).length,
  next_try_at: record.state === "pending" && record.dueAt !== undefined ? iso(record.dueAt) : null,
  created_at: iso(record.createdAt),
  changed_at: iso(record.changedAt),
});
