/** Jobs and their questions under `/v1` (SRV-12, SRV-15, SRV-16). */
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { z } from "zod";
import { REQUESTS } from "../../protocol/index.ts";
import type { Runtime } from "../../runtime/index.ts";
import type { Api } from "./api.ts";
import { askerOf, PAGE, parse } from "./request.ts";

/** As `session.list_jobs` filters, flat. */
const ListQuery = z.strictObject({ ...REQUESTS["session.list_jobs"].shape.filter.unwrap().shape, ...PAGE });
const AnswerBody = z.strictObject({ answer: REQUESTS["x-vendor.holdfast.answer"].shape.answer });
const { idempotency_key: IdempotencyKey, ...SUBMIT } = REQUESTS["job.submit"].shape;
const SubmitBody = z.strictObject({ ...SUBMIT, input: SUBMIT.input.optional() });
const CancelBody = z.strictObject({ reason: REQUESTS["job.cancel"].shape.reason });

const JobStatus = z.enum(["pending", "running", "success", "error", "cancelled", "timed_out"]);
export const Job = z.object({
  job_id: z.string(),
  principal: z.string(),
  agent: z.string(),
  status: JobStatus,
  lease: z.record(z.string(), z.array(z.string())),
  lease_constraints: z.object({ expires_at: z.iso.datetime() }).optional(),
  parent_job_id: z.string().nullable(),
  trace_id: z.string(),
  created_at: z.iso.datetime(),
  ended_at: z.iso.datetime().optional(),
  cancel_requested: z.boolean(),
  events: z.int(),
});
const JobPage = z.object({ jobs: z.array(Job), next_cursor: z.string().nullable() });
const Outcome = z.looseObject({ job_id: z.string(), status: JobStatus, result: z.unknown() });
const CancelAnswer = z.object({
  job_id: z.string(),
  outcome: z.enum(["requested", "already_ended"]),
  status: JobStatus.optional(),
});
const Question = z.object({
  question_id: z.string(),
  state: z.enum(["open", "answered"]),
  message: z.string(),
  to: z.string().optional(),
  schema: z.unknown(),
  asked_at: z.iso.datetime(),
  answer: z.unknown(),
  answered_by: z.string().optional(),
  answered_at: z.iso.datetime().optional(),
});

/** Wall milliseconds as the store takes them. */
const wallOf = (time: string | undefined): number | undefined => (time === undefined ? undefined : Date.parse(time));

export function jobRoutes(api: Api, runtime: Runtime): void {
  const { jobs } = runtime;
  const tag = "jobs";

  api.route(
    {
      method: "get",
      path: "/jobs",
      access: "look",
      tag,
      summary: "Jobs, newest first: one's own, an operator's request everybody's.",
      query: ListQuery,
      answers: { 200: { description: "A page.", schema: JobPage } },
    },
    async ({ query, context }) => {
      const { created_after, created_before, ...rest } = query;
      const createdAfter = wallOf(created_after);
      return context.json(
        await jobs.list(askerOf(context), { ...rest, createdAfter, createdBefore: wallOf(created_before) }),
      );
    },
  );

  api.route(
    {
      method: "post",
      path: "/jobs",
      access: "change",
      tag,
      summary: "Submit a job.",
      headers: {
        "idempotency-key": { schema: IdempotencyKey, description: "A repeat with the same body finds the same job." },
      },
      body: SubmitBody,
      answers: {
        200: { description: "The key had made this job before.", schema: Job },
        201: { description: "It runs.", schema: Job },
      },
    },
    async ({ body, context }) => {
      const key = parse(IdempotencyKey, context.req.header("idempotency-key"), "Idempotency-Key");
      const principal = context.get("principal");
      const { jobId, created } = await jobs.submit(principal, body, key);
      const headers = { location: `/v1/jobs/${jobId}` };
      return context.json(await jobs.get(jobId, principal), created ? 201 : 200, headers);
    },
  );

  api.route(
    {
      method: "get",
      path: "/jobs/{id}",
      access: "look",
      tag,
      summary: "One job.",
      answers: { 200: { description: "As it stands.", schema: Job } },
    },
    async ({ param, context }) => context.json(await jobs.get(param("id"), askerOf(context))),
  );

  api.route(
    {
      method: "get",
      path: "/jobs/{id}/result",
      access: "look",
      tag,
      summary: "How a job ended, its result in one piece.",
      answers: {
        200: { description: "It has ended.", schema: Outcome },
        202: { description: "It has not.", schema: Outcome },
      },
    },
    async ({ param, context }) => {
      const jobId = param("id");
      const outcome = await jobs.result(jobId, askerOf(context));
      const status: ContentfulStatusCode = outcome.status === "pending" || outcome.status === "running" ? 202 : 200;
      return context.json({ job_id: jobId, ...outcome }, status);
    },
  );

  api.route(
    {
      method: "post",
      path: "/jobs/{id}/cancel",
      access: "change",
      tag,
      summary: "Ask for a job's end: its principal, or an operator.",
      body: CancelBody,
      answers: {
        200: { description: "It had ended.", schema: CancelAnswer },
        202: { description: "It will end.", schema: CancelAnswer },
      },
    },
    async ({ body, param, context }) => {
      const jobId = param("id");
      const answer = await jobs.cancel(jobId, askerOf(context), body.reason);
      return context.json({ job_id: jobId, ...answer }, answer.outcome === "requested" ? 202 : 200);
    },
  );

  api.route(
    {
      method: "get",
      path: "/jobs/{id}/questions",
      access: "look",
      tag,
      summary: "What a job asks and was answered.",
      answers: {
        200: { description: "Oldest first.", schema: z.object({ job_id: z.string(), questions: z.array(Question) }) },
      },
    },
    async ({ param, context }) => {
      const jobId = param("id");
      return context.json({ job_id: jobId, questions: await jobs.questions(jobId, askerOf(context)) });
    },
  );

  api.route(
    {
      method: "post",
      path: "/jobs/{id}/questions/{question}/answer",
      access: "change",
      tag,
      summary: "Answer a question.",
      body: AnswerBody,
      answers: {
        200: {
          description: "The answer counts.",
          schema: z.object({ job_id: z.string(), question_id: z.string(), outcome: z.literal("accepted") }),
        },
      },
    },
    async ({ body, param, context }) => {
      const jobId = param("id");
      const questionId = param("question");
      await jobs.answer(jobId, questionId, askerOf(context), body.answer);
      return context.json({ job_id: jobId, question_id: questionId, outcome: "accepted" });
    },
  );
}
