/**
 * Answers on their way out, under `/v1` (SRV-35): what became of them, and an operator's way with those that failed.
 * Who sees which, {@link Conversations.deliveries} decides: one that is not for the principal is not there.
 */
import { z } from "zod";
import { inTime } from "../../runtime/in-time.ts";
import { DELIVERY_STATES, type DeliveryRecord } from "../../store/store.ts";
import type { Api } from "./api.ts";
import type { ConversationRoutes } from "./conversations.ts";
import { askerOf, PAGE } from "./request.ts";

/** As on the wire by default. */
const STORE_TIMEOUT_MS = 5_000;
const MAX_NAME_CHARS = 256;

const ListQuery = z.strictObject({
  ...PAGE,
  state: z.enum(DELIVERY_STATES, `must be one of ${DELIVERY_STATES.join(", ")}`).optional(),
  channel: z.string().min(1).max(MAX_NAME_CHARS).optional(),
  conversation_id: z.string().min(1).max(MAX_NAME_CHARS).optional(),
});

const Delivery = z.object({
  delivery_id: z.string(),
  state: z.enum(DELIVERY_STATES),
  channel: z.string(),
  route_key: z.string(),
  route: z.unknown(),
  conversation_id: z.string(),
  job_id: z.string(),
  principal: z.string(),
  attempts: z.int(),
  failures: z.int(),
  last_error: z.string().nullable(),
  unclear: z.boolean(),
  parts: z.int(),
  next_try_at: z.iso.datetime().nullable(),
  created_at: z.iso.datetime(),
  changed_at: z.iso.datetime(),
});

export function deliveryRoutes(api: Api, parts: ConversationRoutes): void {
  const { conversations, clock, logger } = parts;
  const { deliveries } = conversations;
  const tag = "deliveries";
  const ask = <T>(work: () => Promise<T>) => inTime(work, { clock, logger, timeoutMs: STORE_TIMEOUT_MS });

  api.route(
    {
      method: "get",
      path: "/deliveries",
      access: "look",
      tag,
      summary: "Answers on their way, newest first.",
      query: ListQuery,
      answers: {
        200: {
          description: "A page.",
          schema: z.object({ deliveries: z.array(Delivery), next_cursor: z.string().nullable() }),
        },
      },
    },
    async ({ query: { conversation_id: conversationId, ...query }, context }) => {
      const page = await ask(() => deliveries.list(askerOf(context), { ...query, conversationId }));
      return context.json({ deliveries: page.deliveries.map(deliveryForWire), next_cursor: page.nextCursor ?? null });
    },
  );

  api.route(
    {
      method: "get",
      path: "/deliveries/{id}",
      access: "look",
      tag,
      summary: "One delivery.",
      answers: { 200: { description: "As it stands.", schema: Delivery } },
    },
    async ({ param, context }) =>
      context.json(deliveryForWire(await ask(() => deliveries.get(param("id"), askerOf(context))))),
  );

  for (const [what, summary] of [
    ["retry", "Send a failed delivery on."],
    ["discard", "Give up a delivery that failed or waits."],
  ] as const) {
    api.route(
      {
        method: "post",
        path: `/deliveries/{id}/${what}`,
        access: "change",
        tag,
        summary,
        answers: { 200: { description: "As it stands now.", schema: Delivery } },
      },
      async ({ param, context }) =>
        context.json(deliveryForWire(await ask(() => deliveries[what](param("id"), askerOf(context))))),
    );
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
