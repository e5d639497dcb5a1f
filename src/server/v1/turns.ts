/** Turns under `/v1` (SRV-31): what somebody says in a conversation, without a session. Its job is followed as any. */
import { z } from "zod";
import type { Clock } from "../../clock.ts";
import { type Conversations, parseKey, readKey } from "../../conversation/index.ts";
import type { Logger } from "../../logger.ts";
import { ArcpError, REQUESTS } from "../../protocol/index.ts";
import { inTime } from "../../runtime/in-time.ts";
import type { Api } from "./api.ts";
import { askerOf } from "./request.ts";

/** As on the wire by default. */
const STORE_TIMEOUT_MS = 5_000;

const submit = REQUESTS["job.submit"].shape;
const TurnBody = z.strictObject({
  key: z.union([z.string().min(1).max(4096), z.looseObject({ source: z.string() })]).optional(),
  conversation_id: z.string().min(1).max(256).optional(),
  agent: submit.agent,
  input: submit.input.optional(),
  on_busy: z.enum(["reject", "enqueue", "interrupt"]).optional(),
  message_id: z.string().min(1).max(256).optional(),
  user_id: z.string().min(1).max(256).optional(),
});
const StartedTurn = z.object({
  job_id: z.string(),
  conversation_id: z.string(),
  created: z.boolean(),
  state: z.enum(["running", "queued", "repeated"]),
  place: z.int().optional(),
});

/** How the wire's extension is called in messages; here the same fields stand in the body. */
const EXTENSION = 'extensions["x-vendor.holdfast.turn"]';

export function turnRoutes(
  api: Api,
  { conversations, clock, logger }: { conversations: Conversations; clock: Clock; logger: Logger },
): void {
  api.route(
    {
      method: "post",
      path: "/turns",
      access: "change",
      tag: "conversations",
      summary: "Say something in a conversation.",
      body: TurnBody,
      answers: {
        200: { description: "The message had its turn before.", schema: StartedTurn },
        201: { description: "It runs.", schema: StartedTurn },
        202: { description: "It waits for its place.", schema: StartedTurn },
      },
    },
    async ({ body, context }) => {
      const asker = askerOf(context);
      const { key, conversation_id: conversationId, on_busy: onBusy, message_id: messageId, user_id: userId } = body;
      const { agent, input } = body;
      const given = {
        principal: asker.principal,
        key: key === undefined ? undefined : typeof key === "string" ? readKey(key) : parseKey(key, "body.key"),
        ...{ conversationId, onBusy, messageId, userId, agent, input },
      };
      const turn = await inTime(() => conversations.startTurn(given, asker), {
        clock,
        logger,
        timeoutMs: STORE_TIMEOUT_MS,
      }).catch((error: unknown) => {
        throw error instanceof ArcpError ? namingBody(error) : error;
      });
      const { principal } = asker;
      const line = { audit: "turn", principal, job_id: turn.jobId, conversation_id: turn.conversationId };
      logger.info(line, "a turn was taken");
      const answer = {
        job_id: turn.jobId,
        conversation_id: turn.conversationId,
        created: turn.created,
        state: turn.state,
        ...(turn.place === undefined ? {} : { place: turn.place }),
      };
      const headers = { location: `/v1/jobs/${turn.jobId}` };
      return context.json(answer, STATUS[turn.state], headers);
    },
  );
}

const STATUS = { running: 201, queued: 202, repeated: 200 } as const;

function namingBody(error: ArcpError): ArcpError {
  if (!error.message.startsWith(EXTENSION)) return error;
  const message = `body${error.message.slice(EXTENSION.length)}`.replace("body.onBusy", "body.on_busy");
  return new ArcpError(error.code, message, { details: error.details, retryable: error.retryable, cause: error });
}
