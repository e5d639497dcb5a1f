/** What the compiler makes of `holdfast/client` in a project without Node's types (`npm run check:consumer`, CLT-8). */
import {
  type ConnectOptions,
  connect,
  type FinalStatus,
  type JobEvent,
  type JobHandle,
  type JobQuestion,
  type JobsPage,
  questionOf,
  type ResultPiece,
  type ResultReader,
  type ResumeState,
  type Session,
  type SessionStatus,
} from "holdfast/client";
import { expectType } from "./expect-type.ts";

await using session = await connect("ws://127.0.0.1/arcp", { token: async () => "t", WebSocket: globalThis.WebSocket });
expectType<Session>()(session);
// @ts-expect-error a token is needed
await connect("ws://127.0.0.1/arcp", {});
// @ts-expect-error a feature that the protocol does not have
await connect("ws://127.0.0.1/arcp", { token: "t", features: ["telepathy"] });
({ token: "t", signal: undefined }) satisfies ConnectOptions;

const job = await session.submit("report", { week: 19 }, { idempotencyKey: "k", signal: AbortSignal.abort() });
expectType<JobHandle>()(job);
expectType<Promise<unknown>>()(job.result);
// @ts-expect-error a runtime's JSON has no type until somebody looks at it
const _pages: number = (await job.result).pages;
for await (const event of job) {
  expectType<JobEvent>()(event);
  expectType<number>()(event.seq);
  expectType<unknown>()(event.body);
}
const question = questionOf({ seq: 1, kind: "status", body: {}, ts: "" });
expectType<JobQuestion | undefined>()(question);
expectType<Promise<void>>()(job.answer("q_1", { approve: true }));
expectType<Promise<void>>()(session.answer("job_1", "q_1", null, { signal: AbortSignal.abort() }));
// @ts-expect-error an answer says something
await job.answer("q_1");
expectType<FinalStatus>()((await job.terminal).final_status);
expectType<ResultReader>()(job.stream());
expectType<ReadableStream<ResultPiece>>()(job.stream().readable);
for await (const piece of job.stream()) expectType<string | Uint8Array<ArrayBuffer>>()(piece);
// @ts-expect-error a handle is only read
job.id = "other";

expectType<JobHandle>()(await session.subscribe("job_1", { history: true }));
expectType<JobsPage>()(await session.listJobs({ status: ["running"], createdAfter: new Date("2026-01-01") }));
// @ts-expect-error no such state of a job
await session.listJobs({ status: ["sleeping"] });
expectType<ResumeState>()(session.resumeState);

const { status } = session;
expectType<SessionStatus>()(status);
if (status.state === "closed") expectType<string>()(status.reason);
// @ts-expect-error only a closed session has a reason
else status.reason;
