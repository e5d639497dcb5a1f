/** Questions of jobs over `/v1`. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { approve } from "../../agents/approve.ts";
import { connect, type JobHandle, type JobQuestion, questionOf } from "../../client/index.ts";
import { systemClock } from "../../clock.ts";
import { Runtime, type RuntimeOptions } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";

const DEADLINE = { timeout: 20_000 };

interface Answer {
  status: number;
  type: string | null;
  json: Record<string, unknown>;
}

/** A server, a session of alice on it, and what asks its API. */
async function newServer(stack: AsyncDisposableStack, options: Partial<RuntimeOptions> = {}) {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-v1-"));
  stack.defer(() => rm(root, { recursive: true, force: true }));
  const auth = bearerTokens({ alices: "alice", bobs: "bob" });
  const runtime = new Runtime({ store: sqlite(path.join(root, "test.db")), auth, ...options });
  runtime.agent("approve", approve);
  const server = await serve(runtime, { port: 0 });
  stack.defer(() => server.stop({ drainMs: 0 }));
  const session = stack.use(await connect(server.url, { token: "alices" }));
  const ask = async (
    target: string,
    asking: { token?: string; method?: string; body?: string } = {},
  ): Promise<Answer> => {
    const { token = "alices", method = "GET", body } = asking;
    const response = await fetch(`http://127.0.0.1:${server.port}/v1/jobs/${target}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: body ?? null,
    });
    const json = (await response.json()) as Record<string, unknown>;
    return { status: response.status, type: response.headers.get("content-type"), json };
  };
  const answer = (jobId: string, questionId: string, value: unknown, token = "alices") =>
    ask(`${jobId}/questions/${questionId}/answer`, { method: "POST", token, body: JSON.stringify({ answer: value }) });
  return { session, ask, answer };
}

async function questionIn(job: JobHandle): Promise<JobQuestion> {
  for await (const event of job) {
    const question = questionOf(event);
    if (question !== undefined) return question;
  }
  throw new Error("the job asked nothing");
}

test("[SRV-16] what a job asks is listed and answered, with a line for the audit", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const audit: object[] = [];
  const ignore = () => undefined;
  const info = (fields: object) => void ("audit" in fields && audit.push(fields));
  const { session, ask, answer } = await newServer(stack, {
    logger: { debug: ignore, info, warn: ignore, error: ignore },
  });
  const job = await session.submit("approve", { action: "deploy" });
  const { questionId, schema } = await questionIn(job);
  const listed = await ask(`${job.id}/questions`);
  const [question] = listed.json["questions"] as Record<string, unknown>[];
  assert.ok(question !== undefined);
  const { asked_at, ...open } = question;
  assert.equal(listed.json["job_id"], job.id);
  assert.ok(Math.abs(Date.parse(String(asked_at)) - systemClock.wall()) < 60_000);
  assert.deepEqual(open, { question_id: questionId, state: "open", message: "May I deploy?", schema });

  const wrong = await answer(job.id, questionId, { approve: "yes" });
  assert.deepEqual(
    [wrong.status, wrong.type, wrong.json["code"]],
    [400, "application/problem+json", "INVALID_REQUEST"],
  );
  assert.match(String(wrong.json["detail"]), /^body\.answer\.approve: must be boolean\.$/);

  const answered = await answer(job.id, questionId, { approve: true, note: "go" });
  assert.deepEqual(
    [answered.status, answered.json],
    [200, { job_id: job.id, question_id: questionId, outcome: "accepted" }],
  );
  assert.deepEqual(await job.result, { action: "deploy", approve: true, note: "go" });

  const again = await answer(job.id, questionId, { approve: false });
  assert.deepEqual([again.status, again.json["code"]], [409, "INVALID_REQUEST"]);
  assert.equal((again.json["details"] as Record<string, unknown>)["code"], "ALREADY_ANSWERED");
  const [after] = (await ask(`${job.id}/questions`)).json["questions"] as Record<string, unknown>[];
  assert.deepEqual(
    [after?.["state"], after?.["answer"], after?.["answered_by"]],
    ["answered", { approve: true, note: "go" }, "alice"],
  );
  assert.ok(Date.parse(String(after?.["answered_at"])) >= Date.parse(String(asked_at)));
  const line = { audit: "job.answer", principal: "alice", job_id: job.id, question_id: questionId };
  assert.deepEqual(audit, [
    { ...line, outcome: "accepted" },
    { ...line, outcome: "already_answered" },
  ]);
});

test(
  "[SRV-16] a question that is closed or never was, and a job that is another's, are told apart",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { session, ask, answer } = await newServer(stack);
    const job = await session.submit("approve", { action: "wait" });
    const { questionId } = await questionIn(job);
    const foreign = await answer(job.id, questionId, { approve: true }, "bobs");
    assert.deepEqual([foreign.status, foreign.json["code"]], [404, "JOB_NOT_FOUND"]);
    assert.equal((await ask(`${job.id}/questions`, { token: "bobs" })).status, 404);
    assert.equal((await ask("job_none/questions")).json["code"], "JOB_NOT_FOUND");
    assert.equal((await ask(`${job.id}/questions`, { token: "wrong" })).status, 401);
    const none = await answer(job.id, "q_none", 1);
    assert.deepEqual(
      [none.status, (none.json["details"] as Record<string, unknown>)["code"]],
      [404, "QUESTION_NOT_FOUND"],
    );
    for (const body of ["{}", '{"answer":1,"more":2}', "[1]", "no json"]) {
      const refused = await ask(`${job.id}/questions/${questionId}/answer`, { method: "POST", body });
      assert.deepEqual([refused.status, refused.json["code"]], [400, "INVALID_REQUEST"]);
      assert.match(String(refused.json["detail"]), /^body/);
    }
    assert.equal((await ask(`${job.id}/questions/${questionId}/answer`)).status, 405);
    assert.equal((await ask(`${job.id}/questions`, { method: "POST" })).status, 405);
    await job.cancel();
    await job.terminal;
    const late = await answer(job.id, questionId, { approve: true });
    assert.deepEqual(
      [late.status, (late.json["details"] as Record<string, unknown>)["code"]],
      [409, "QUESTION_CLOSED"],
    );
    assert.deepEqual((await ask(`${job.id}/questions`)).json["questions"], []);
  },
);

test("[SRV-16] whom the policy names sees and answers what it may, and nothing else", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { session, ask, answer } = await newServer(stack, {
    mayAnswer: (principal, job) => principal === "bob" && job.agent.startsWith("approve"),
  });
  const job = await session.submit("approve", { action: "pay" });
  const { questionId } = await questionIn(job);
  const listed = await ask(`${job.id}/questions`, { token: "bobs" });
  assert.equal((listed.json["questions"] as unknown[]).length, 1);
  assert.equal((await ask(job.id, { token: "bobs" })).status, 404);
  assert.equal((await answer(job.id, questionId, { approve: false }, "bobs")).status, 200);
  assert.deepEqual(await job.result, { action: "pay", approve: false });
});
