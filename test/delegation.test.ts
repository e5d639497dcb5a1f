/** Jobs that start jobs: what their submitter sees, what they may, and how they end together (SPEC.md, DEL). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, type JobHandle } from "../src/client/index.ts";
import type { Envelope } from "../src/protocol/index.ts";
import { ArcpError } from "../src/protocol/index.ts";
import type { Delegated } from "../src/runtime/index.ts";
import { memoryPair } from "../src/transport/memory.ts";
import { eventually, type RuntimeFixture, runtimeFixture, type TestClient, turns } from "./runtime-fixture.ts";

const MAY_DELEGATE = { lease_request: { "agent.delegate": ["**"] } };

/** A parent that does as it is told, and the child that it starts under the agent `puppet`. */
async function family(fixture: RuntimeFixture, client: TestClient, lease: object = MAY_DELEGATE.lease_request) {
  const parentId = await client.start("puppet", null, { lease_request: lease });
  const parent = await fixture.puppet(parentId);
  const child: Delegated = await parent.job.delegate("puppet", { part: 1 });
  const puppet = await fixture.puppet(child.jobId);
  return { parentId, parent, child, puppet };
}

const ofType = (client: TestClient, type: string, jobId: string): Envelope | undefined =>
  client.received
    .map(({ envelope }) => envelope)
    .find((envelope) => envelope.type === type && envelope.job_id === jobId);

const position = (client: TestClient, found: (envelope: Envelope) => boolean): number =>
  client.received.findIndex(({ envelope }) => found(envelope));

const bodyOf = (envelope: Envelope | undefined) => envelope?.payload["body"] as Record<string, unknown>;

const isDelegate = ({ payload }: Envelope): boolean => payload["kind"] === "delegate";

test("[DEL-1] a child's accepted follows its parent's delegate event, and its events and its end follow that", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const { parentId, parent, child, puppet } = await family(fixture, client);
  await puppet.job.log("from the child");
  puppet.end({ found: 3 });
  assert.deepEqual(await child.result, { found: 3 });
  parent.end("done");
  await client.terminal(parentId);
  const end = await client.terminal(child.jobId);
  assert.deepEqual(end.payload["result"], { found: 3 });
  const accepted = ofType(client, "job.accepted", child.jobId);
  assert.equal(accepted?.payload["parent_job_id"], parentId);
  assert.equal(accepted?.payload["delegate_id"], child.delegateId);
  assert.equal(accepted?.trace_id, ofType(client, "job.accepted", parentId)?.trace_id);
  const told = position(client, isDelegate);
  const at = position(client, (envelope) => envelope === accepted);
  const first = position(client, (envelope) => envelope.job_id === child.jobId && envelope.event_seq !== undefined);
  assert(told >= 0 && told < at && at < first, `delegate at ${told}, accepted at ${at}, first event at ${first}`);
  assert.deepEqual(client.logged(child.jobId), ["from the child"]);
});

test("[DEL-1] a child's accepted waits for the answers to what was asked before", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const parentId = await client.start("puppet", null, MAY_DELEGATE);
  const parent = await fixture.puppet(parentId);
  // The submit is on its way to the store when the child is told of.
  const delegated = parent.job.delegate("puppet");
  const submit = client.send("job.submit", { agent: "puppet", input: null });
  const child = await delegated;
  await client.waitFor(({ type, job_id }) => type === "job.accepted" && job_id === child.jobId, "the child");
  const answered = position(client, ({ extensions }) => extensions?.["x-vendor.holdfast.in_reply_to"] === submit);
  const told = position(client, ({ type, job_id }) => type === "job.accepted" && job_id === child.jobId);
  assert(answered >= 0 && answered < told, `the submit was answered at ${answered}, the child told of at ${told}`);
});

test("[DEL-2] a session that was away is told of the child when it comes back, in the same order, and once", async () => {
  await using fixture = await runtimeFixture();
  const before = await fixture.connect();
  const parentId = await before.start("puppet", null, MAY_DELEGATE);
  const parent = await fixture.puppet(parentId);
  before.pair.cut();
  await turns();
  const child = await parent.job.delegate("puppet");
  const puppet = await fixture.puppet(child.jobId);
  await puppet.job.log("alone");
  puppet.end(1);
  await child.result;
  parent.end(2);
  const after = await fixture.connect({ resume: before.resume(0) });
  await after.terminal(parentId);
  await after.terminal(child.jobId);
  const accepted = after.received
    .map(({ envelope }) => envelope)
    .filter(({ type, job_id }) => type === "job.accepted" && job_id === child.jobId);
  assert.equal(accepted.length, 1);
  assert(position(after, isDelegate) < position(after, (envelope) => envelope === accepted[0]));
  assert.deepEqual(after.logged(child.jobId), ["alone"]);
  assert.deepEqual(after.seqs(), [1, 2, 3, 4]);
});

test("[DEL-2] an accepted that was lost on the wire is given again, after the delegate event where that was lost too", async () => {
  for (const lostToo of [true, false]) {
    await using fixture = await runtimeFixture();
    const first = await fixture.connect();
    const { parent, child } = await family(fixture, first);
    await first.waitFor(({ type, job_id }) => type === "job.accepted" && job_id === child.jobId, "the child");
    first.pair.cut();
    const again = await fixture.connect({ resume: first.resume(lostToo ? 0 : 1) });
    const accepted = await again.waitFor(({ type, job_id }) => type === "job.accepted" && job_id === child.jobId, "it");
    if (lostToo) {
      assert(position(again, isDelegate) >= 0);
      assert(position(again, isDelegate) < position(again, (envelope) => envelope === accepted));
    }
    // Known to have arrived by an event that came after it, it is not given a third time.
    await parent.job.log("more");
    await again.until(() => again.seqs().length === (lostToo ? 2 : 1), "the event");
    again.pair.cut();
    const third = await fixture.connect({ resume: again.resume(2) });
    await third.alive();
    assert.equal(ofType(third, "job.accepted", child.jobId), undefined);
    parent.end();
  }
});

test("[DEL-1] whoever merely follows the parent is not given the child", async () => {
  await using fixture = await runtimeFixture();
  const owner = await fixture.connect();
  const parentId = await owner.start("puppet", null, MAY_DELEGATE);
  const watcher = await fixture.connect();
  await watcher.ask("job.subscribe", { job_id: parentId });
  const parent = await fixture.puppet(parentId);
  const child = await parent.job.delegate("puppet");
  await parent.job.log("after");
  await watcher.until(() => watcher.logged(parentId).length === 1, "the parent's event");
  assert.equal(ofType(watcher, "job.accepted", child.jobId), undefined);
  // It may ask for it, as for any job of its principal.
  assert.equal((await watcher.ask("job.subscribe", { job_id: child.jobId })).type, "job.subscribed");
});

test("[DEL-3] what refuses a delegation is an error to the agent and a tool_result in the parent's log", async () => {
  await using fixture = await runtimeFixture({ maxChildrenPerJob: 1 });
  const client = await fixture.connect();
  const lease = { "agent.delegate": ["puppet"], "tool.call": ["search"], "cost.budget": ["USD:5"] };
  const parentId = await client.start("puppet", null, { lease_request: lease });
  const { job, end } = await fixture.puppet(parentId);
  const cases = [
    { code: "AGENT_NOT_AVAILABLE", start: () => job.delegate("nobody") },
    { code: "PERMISSION_DENIED", start: () => job.delegate("echo") },
    {
      code: "LEASE_SUBSET_VIOLATION",
      start: () => job.delegate("puppet", null, { lease: { "tool.call": ["**"] } }),
    },
    {
      code: "LEASE_SUBSET_VIOLATION",
      start: () => job.delegate("puppet", null, { lease: { "cost.budget": ["USD:5.01"] } }),
    },
    { code: "INVALID_REQUEST", start: () => job.delegate("puppet", null, { lease: { "fs.read": ["../x"] } }) },
    { code: "INVALID_REQUEST", start: () => job.delegate("puppet", null, { expiresAt: "tomorrow" }) },
    { code: "INVALID_REQUEST", start: () => job.delegate("puppet", null, { maxRuntimeMs: -1 }) },
  ];
  for (const { code, start } of cases) {
    await assert.rejects(start(), (error) => error instanceof ArcpError && error.code === code, code);
  }
  const child = await job.delegate("puppet");
  await assert.rejects(job.delegate("puppet"), (error) => error instanceof ArcpError && error.details?.["limit"] === 1);
  await job.flush();
  const refusals = () => client.of(parentId).filter(({ payload }) => payload["kind"] === "tool_result");
  await client.until(() => refusals().length === cases.length + 1, "the refusals");
  const results = refusals();
  assert.deepEqual(
    results.slice(0, cases.length).map((envelope) => (bodyOf(envelope)["error"] as { code: string }).code),
    cases.map(({ code }) => code),
  );
  // What is no delegation at all cannot be shown as one.
  const asked = client
    .of(parentId)
    .filter(isDelegate)
    .map((envelope) => bodyOf(envelope)["delegate_id"]);
  const unasked = results.filter((result) => !asked.includes(bodyOf(result)["call_id"]));
  assert.deepEqual(
    unasked.map((result) => (bodyOf(result)["error"] as { code: string }).code),
    ["INVALID_REQUEST"],
  );
  child.cancel();
  end();
});

test("[DEL-3] jobs delegate only so deep", async () => {
  await using fixture = await runtimeFixture({ maxDelegationDepth: 2 });
  fixture.runtime.agent("deep", async (input, job) => {
    const depth = input as number;
    const child = await job.delegate("deep", depth + 1, { lease: { "agent.delegate": ["deep"] } });
    return await child.result;
  });
  const client = await fixture.connect();
  const jobId = await client.start("deep", 0, MAY_DELEGATE);
  const end = await client.terminal(jobId);
  assert.equal(end.type, "job.error");
  assert.match(String(end.payload["message"]), /2 levels deep/);
});

test("[DEL-4] a child does not outlive its parent, however that ends", async () => {
  for (const way of ["success", "failure", "cancel"] as const) {
    await using fixture = await runtimeFixture();
    const client = await fixture.connect();
    const { parentId, parent, child, puppet } = await family(fixture, client);
    const rejected = assert.rejects(child.result, (error) => error instanceof ArcpError && error.code === "CANCELLED");
    if (way === "success") parent.end();
    else if (way === "failure") parent.fail(new Error("no"));
    else await client.ask("job.cancel", { job_id: parentId });
    await eventually(() => puppet.job.signal.aborted, "the child to be told to stop");
    if (way === "cancel") parent.end();
    puppet.end();
    assert.equal((await client.terminal(child.jobId)).payload["code"], "CANCELLED");
    await rejected;
    await client.terminal(parentId);
  }
});

test("[DEL-4] a child's failure is its parent's to handle", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const { parentId, parent, child, puppet } = await family(fixture, client);
  puppet.fail(new ArcpError("TIMEOUT", "too slow"));
  await assert.rejects(child.result, (error) => error instanceof ArcpError && error.code === "TIMEOUT");
  parent.end("went on");
  assert.equal((await client.terminal(parentId)).payload["result"], "went on");
});

test("[DEL-5] a child's end by the submitting session, and its place in the list", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const { parentId, parent, child, puppet } = await family(fixture, client);
  await client.waitFor(({ type, job_id }) => type === "job.accepted" && job_id === child.jobId, "the child");
  const list = await client.ask("session.list_jobs", {});
  const jobs = list.payload["jobs"] as { job_id: string; parent_job_id: string | null }[];
  assert.deepEqual(
    jobs.map(({ job_id, parent_job_id }) => [job_id, parent_job_id]),
    [
      [child.jobId, parentId],
      [parentId, null],
    ],
  );
  assert.equal((await client.ask("job.cancel", { job_id: child.jobId })).type, "job.cancelled");
  await eventually(() => puppet.job.signal.aborted, "the cancel");
  puppet.end();
  assert.equal((await client.terminal(child.jobId)).payload["code"], "CANCELLED");
  parent.end();
  await client.terminal(parentId);
});

test("[DEL-6] a delegate event that an agent emits does the same", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const parentId = await client.start("puppet", null, MAY_DELEGATE);
  const { job, end } = await fixture.puppet(parentId);
  await job.emit("delegate", { delegate_id: "mine", agent: "echo", input: "hello" });
  const accepted = await client.waitFor(({ payload }) => payload["delegate_id"] === "mine", "the child");
  assert.equal((await client.terminal(accepted.job_id as string)).payload["result"], "hello");
  await assert.rejects(
    job.emit("delegate", { delegate_id: "mine", agent: "echo", input: "again" }),
    (error) => error instanceof ArcpError && error.code === "INVALID_REQUEST",
  );
  end();
});

test("[DEL-7] a child's budget is taken out of its parent's, and what is left of it comes back", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const lease = { "agent.delegate": ["**"], "cost.budget": ["USD:5"] };
  const parentId = await client.start("puppet", null, { lease_request: lease });
  const { job, end } = await fixture.puppet(parentId);
  const child = await job.delegate("puppet", null, { lease: { "cost.budget": ["USD:4"] } });
  const accepted = await client.waitFor(({ payload }) => payload["parent_job_id"] === parentId, "the child");
  assert.deepEqual(accepted.payload["budget"], { USD: 4 });
  await assert.rejects(job.delegate("puppet", null, { lease: { "cost.budget": ["USD:2"] } }));
  const puppet = await fixture.puppet(child.jobId);
  await puppet.job.metric({ name: "cost.tokens", value: 1.5, unit: "USD" });
  puppet.end();
  await child.result;
  // 5 - 1.5: what the child has left is its parent's again.
  const second = await job.delegate("puppet", null, { lease: { "cost.budget": ["USD:3.5"] } });
  second.cancel();
  (await fixture.puppet(second.jobId)).end();
  end();
  await client.terminal(parentId);
});

test("[CLT-15] our client hands out a job's children, also those of which it hears after the job's end", async () => {
  await using fixture = await runtimeFixture();
  fixture.runtime.agent("boss", async (_input, job) => {
    const first = await job.delegate("echo", "one");
    await assert.rejects(job.delegate("nobody"));
    const second = await job.delegate("echo", "two");
    return [await first.result, await second.result];
  });
  const transport = () => {
    const pair = memoryPair({ auto: true });
    fixture.runtime.accept(pair.b);
    return pair.a;
  };
  await using session = await connect(async () => transport(), { token: "alice", clock: fixture.clock });
  const job = await session.submit("boss", null, { leaseRequest: { "agent.delegate": ["**"] } });
  const children: JobHandle[] = [];
  for await (const child of job.children()) children.push(child);
  assert.deepEqual(await job.result, ["one", "two"]);
  assert.deepEqual(await Promise.all(children.map((child) => child.result)), ["one", "two"]);
  const again = [];
  for await (const child of job.children()) again.push(child.id);
  assert.deepEqual(
    again,
    children.map((child) => child.id),
  );

  const watched = await (await session.submit("boss", null, { leaseRequest: { "agent.delegate": ["**"] } })).terminal;
  assert.equal(watched.final_status, "success");
  await using other = await connect(async () => transport(), { token: "alice", clock: fixture.clock });
  const followed = await other.subscribe(job.id, { history: true });
  for await (const child of followed.children()) assert.fail(`a watcher was told of ${child.id}`);
});

test("[DEL-1] a delegation under a name that was refused before, or is taken, stops nobody's delivery", async () => {
  await using fixture = await runtimeFixture();
  const before = await fixture.connect();
  const parentId = await before.start("puppet", null, { lease_request: { "agent.delegate": ["puppet"] } });
  const parent = await fixture.puppet(parentId);
  before.pair.cut();
  await turns();
  await assert.rejects(parent.job.delegate("echo", null, { delegateId: "x" }));
  const child = await parent.job.delegate("puppet", null, { delegateId: "x" });
  await assert.rejects(parent.job.delegate("puppet", null, { delegateId: "x" }), /earlier delegation/);
  (await fixture.puppet(child.jobId)).end("once");
  await child.result;
  parent.end();
  const after = await fixture.connect({ resume: before.resume(0) });
  await after.terminal(parentId);
  assert.equal((await after.terminal(child.jobId)).payload["result"], "once");
  const accepted = after.received.filter(
    ({ envelope }) => envelope.type === "job.accepted" && envelope.job_id === child.jobId,
  );
  assert.equal(accepted.length, 1);
});

test("[DEL-2] in a replay nothing of a child overtakes its acceptance, though answers are under way", async () => {
  const held = Promise.withResolvers<void>();
  let hold = false;
  await using fixture = await runtimeFixture({
    wrap: (store) => {
      const { submit } = store.requests;
      store.requests.submit = async (request) => {
        const answer = await submit(request);
        if (hold) await held.promise;
        return answer;
      };
      return store;
    },
  });
  const before = await fixture.connect();
  const { puppet, child } = await family(fixture, before);
  await puppet.job.log("one");
  await before.until(() => before.logged(child.jobId).length === 1, "the child's event");
  before.pair.cut();
  hold = true;
  const after = await fixture.connect({ resume: before.resume(0) });
  after.send("job.submit", { agent: "puppet", input: null });
  await turns(50);
  const told = position(after, ({ type, job_id }) => type === "job.accepted" && job_id === child.jobId);
  const event = position(after, ({ job_id, event_seq }) => job_id === child.jobId && event_seq !== undefined);
  assert(event === -1 || (told !== -1 && told < event), "an event of the child came before what tells of it");
  held.resolve();
  await after.until(() => after.logged(child.jobId).length === 1, "the child's event again");
  assert(position(after, ({ type, job_id }) => type === "job.accepted" && job_id === child.jobId) >= 0);
});

test("[DEL-3] the cap on live children holds for delegations at the same time", async () => {
  await using fixture = await runtimeFixture({ maxChildrenPerJob: 2 });
  const client = await fixture.connect();
  const parentId = await client.start("puppet", null, MAY_DELEGATE);
  const { job, end } = await fixture.puppet(parentId);
  const all = await Promise.allSettled(Array.from({ length: 20 }, () => job.delegate("puppet")));
  assert.equal(all.filter(({ status }) => status === "fulfilled").length, 2);
  end();
  await client.terminal(parentId);
});

test("[DEL-7] a child is capped as the policy says, whatever its parent has", async () => {
  await using fixture = await runtimeFixture({
    policy: (_principal, agent) => ({ "agent.delegate": "any", "cost.budget": agent === "echo" ? ["USD:5"] : "any" }),
  });
  const client = await fixture.connect();
  const budgetOf = async (lease: object) => {
    const parentId = await client.start("puppet", null, { lease_request: { "agent.delegate": ["**"], ...lease } });
    const { job, end } = await fixture.puppet(parentId);
    const child = await job.delegate("echo");
    await child.result;
    const accepted = await client.waitFor(({ payload }) => payload["parent_job_id"] === parentId, "the child");
    end();
    return accepted.payload["budget"];
  };
  assert.deepEqual(await budgetOf({}), { USD: 5 });
  assert.deepEqual(await budgetOf({ "cost.budget": ["USD:50"] }), { USD: 5 });
  assert.deepEqual(await budgetOf({ "cost.budget": ["USD:3"] }), { USD: 3 });
});

test("[DEL-5] the right to cancel a parent, once had, brings its children, whichever way it is followed", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const parentId = await client.start("puppet", null, MAY_DELEGATE);
  client.send("job.unsubscribe", { job_id: parentId });
  await client.alive();
  await client.ask("job.subscribe", { job_id: parentId, history: true });
  const { job, end } = await fixture.puppet(parentId);
  const child = await job.delegate("puppet");
  await client.waitFor(({ type, job_id }) => type === "job.accepted" && job_id === child.jobId, "the child");
  end();
});

test("[DEL-4] a job that has ended may do nothing more", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const lease = { "agent.delegate": ["**"], "tool.call": ["x"] };
  const jobId = await client.start("puppet", null, { lease_request: lease });
  const { job, end } = await fixture.puppet(jobId);
  end();
  await client.terminal(jobId);
  assert.throws(() => job.authorize("tool.call", "x"), ArcpError);
  await assert.rejects(job.delegate("puppet"), ArcpError);
});
