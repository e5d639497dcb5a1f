/** Leases over the wire: what may be asked for, what a job may then do, and what it costs (SPEC.md, LEA). */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError } from "../src/protocol/index.ts";
import { runtimeFixture } from "./runtime-fixture.ts";

const GRANTS = {
  "fs.read": ["/srv/docs/**"],
  "tool.call": "any",
  "agent.delegate": "any",
  "cost.budget": ["USD:10"],
} as const;

const isCode = (code: string) => (error: unknown) => error instanceof ArcpError && error.code === code;

test("[JOB-9] by default nothing of files and the network is granted; tools, agents and budgets are", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  for (const capability of ["fs.read", "fs.write", "net.fetch", "x-vendor.acme.door", "model.use"]) {
    const pattern = capability === "net.fetch" ? "https://example.com/" : capability.startsWith("fs") ? "/a" : "a";
    const answer = await client.submit("echo", 1, { lease_request: { [capability]: [pattern] } });
    assert.equal(answer.type, "job.error", capability);
    const { code, details } = answer.payload as { code: string; details: { capability?: string; feature?: string } };
    if (capability === "model.use") assert.deepEqual([code, details.feature], ["INVALID_REQUEST", "model.use"]);
    else assert.deepEqual([code, details.capability], ["PERMISSION_DENIED", capability]);
  }
  const lease = { "tool.call": ["search"], "agent.delegate": ["echo"], "cost.budget": ["EUR:1.50"] };
  const accepted = await client.submit("echo", 1, { lease_request: lease });
  assert.deepEqual(accepted.payload["lease"], lease);
  assert.deepEqual(accepted.payload["budget"], { EUR: 1.5 });
});

test("[LEA-17] a lease lies within what the policy grants that principal for that agent", async () => {
  await using fixture = await runtimeFixture({
    policy: (principal, agent) => (principal === "alice" && agent === "puppet" ? GRANTS : {}),
  });
  const alice = await fixture.connect();
  const bob = await fixture.connect({ token: "bob" });
  const ask = async (client: typeof alice, agent: string, lease: object) => {
    const answer = await client.submit(agent, 1, { lease_request: lease });
    return answer.type === "job.accepted" ? "accepted" : answer.payload["code"];
  };
  const within = { "fs.read": ["/srv/docs/a/*.md"], "cost.budget": ["USD:10"] };
  assert.equal(await ask(alice, "puppet", within), "accepted");
  assert.equal(await ask(alice, "echo", within), "PERMISSION_DENIED");
  assert.equal(await ask(bob, "puppet", within), "PERMISSION_DENIED");
  assert.equal(await ask(alice, "puppet", { "fs.read": ["/srv/**"] }), "PERMISSION_DENIED");
  assert.equal(await ask(alice, "puppet", { "cost.budget": ["USD:10.01"] }), "PERMISSION_DENIED");
  assert.equal(await ask(alice, "puppet", { "cost.budget": ["EUR:1"] }), "PERMISSION_DENIED");
  const capped = await alice.submit("puppet", 1, { lease_request: {} });
  assert.deepEqual(capped.payload["lease"], { "cost.budget": ["USD:10"] });
  assert.deepEqual(capped.payload["budget"], { USD: 10 });
});

test("[LEA-17] a submit that asks for nothing has the agent's own lease, as far as the policy grants it", async () => {
  await using fixture = await runtimeFixture({ policy: (principal) => (principal === "alice" ? GRANTS : {}) });
  fixture.runtime.agent("reader", (_input, job) => job.lease, { lease: { "fs.read": ["/srv/docs/a/**"] } });
  const alice = await fixture.connect();
  const own = await alice.terminal(await alice.start("reader"));
  assert.deepEqual(own.payload["result"], { "fs.read": ["/srv/docs/a/**"], "cost.budget": ["USD:10"] });
  const none = await alice.submit("reader", null, { lease_request: { "tool.call": ["x"] } });
  assert.deepEqual(none.payload["lease"], { "tool.call": ["x"], "cost.budget": ["USD:10"] });
  const bob = await fixture.connect({ token: "bob" });
  assert.equal((await bob.submit("reader")).payload["code"], "PERMISSION_DENIED");
  assert.throws(() => fixture.runtime.agent("bad", () => null, { lease: { "fs.read": ["docs"] } }), /fs\.read/);
});

test("[LEA-1] a malformed lease is INVALID_REQUEST naming the field and the value", async () => {
  await using fixture = await runtimeFixture({ policy: () => GRANTS });
  const client = await fixture.connect();
  for (const [lease, named] of [
    [{ "fs.read": ["/srv/do?s"] }, /lease_request\["fs\.read"\]\[0\].*\/srv\/do\?s/],
    [{ "fs.read": ["srv"] }, /lease_request\["fs\.read"\]\[0\]/],
    [{ "cost.budget": ["USD:-1"] }, /lease_request\["cost\.budget"\]\[0\].*USD:-1/],
    [{ "cost.budget": ["USD"] }, /lease_request\["cost\.budget"\]\[0\]/],
    [{ fly: ["**"] }, /lease_request.*"fly"/],
  ] as const) {
    const answer = await client.submit("echo", 1, { lease_request: lease });
    assert.equal(answer.payload["code"], "INVALID_REQUEST");
    assert.match(String(answer.payload["message"]), named);
  }
});

test("[LEA-9] job.authorize holds an operation against the lease, and answers the target to use", async () => {
  await using fixture = await runtimeFixture({ policy: () => GRANTS });
  const client = await fixture.connect();
  const jobId = await client.start("puppet", null, { lease_request: { "fs.read": ["/srv/docs/**"] } });
  const { job, end } = await fixture.puppet(jobId);
  assert.equal(job.authorize("fs.read", "/srv/docs/./a/../b.md"), "/srv/docs/b.md");
  for (const target of [
    "/srv/docs/../secret",
    "/srv/docs/..%2f..%2fsecret",
    "/etc/passwd",
    "docs/a",
    "/srv/docs/a\0",
  ]) {
    assert.throws(() => job.authorize("fs.read", target), isCode("PERMISSION_DENIED"), target);
  }
  assert.throws(() => job.authorize("fs.write", "/srv/docs/a"), isCode("PERMISSION_DENIED"));
  end();
  await client.terminal(jobId);
});

test("[LEA-15] what cost.* metrics report is taken from the budget; what remains is told, and then nothing may be done", async () => {
  await using fixture = await runtimeFixture({ policy: () => GRANTS });
  const client = await fixture.connect();
  const lease = { "cost.budget": ["USD:1"], "tool.call": ["search"] };
  const jobId = await client.start("puppet", null, { lease_request: lease });
  const { job, end } = await fixture.puppet(jobId);
  const charge = (value: number) => job.metric({ name: "cost.tokens", value, unit: "USD" });
  await charge(0.1);
  await charge(0.2);
  await assert.rejects(charge(-1), isCode("INVALID_REQUEST"));
  await assert.rejects(job.metric({ name: "cost.budget.remaining", value: 9, unit: "USD" }), isCode("INVALID_REQUEST"));
  await job.metric({ name: "latency", value: 5, unit: "USD" });
  await job.metric({ name: "cost.tokens", value: 5, unit: "EUR" });
  assert.equal(job.authorize("tool.call", "search"), "search");
  await charge(0.7);
  assert.throws(() => job.authorize("tool.call", "search"), isCode("BUDGET_EXHAUSTED"));
  end("a metric ends no job");
  assert.equal((await client.terminal(jobId)).type, "job.result");
  const remaining = client
    .of(jobId)
    .map(({ payload }) => payload["body"] as { name?: string; value?: number } | undefined)
    .filter((body) => body?.name === "cost.budget.remaining")
    .map((body) => body?.value);
  // Exact decimals: 1 - 0.1 - 0.2 - 0.7 is 0.
  assert.deepEqual(remaining, [0.9, 0.7, 0]);
});

test("[LEA-15] a charge of less than a hundredth of the budget is told with the next ones", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("puppet", null, { lease_request: { "cost.budget": ["USD:100"] } });
  const { job, end } = await fixture.puppet(jobId);
  for (let charged = 0; charged < 25; charged += 1) await job.metric({ name: "cost.tokens", value: 0.1, unit: "USD" });
  end();
  await client.terminal(jobId);
  const told = client.of(jobId).filter(({ payload }) => JSON.stringify(payload).includes("cost.budget.remaining"));
  assert.equal(told.length, 2);
});

test("[SES-4] what a lease needs a feature for is refused in a session without it", async () => {
  await using fixture = await runtimeFixture({ models: ["acme/*"] });
  const plain = await fixture.connect({ features: ["subscribe"] });
  for (const [capability, pattern] of [
    ["cost.budget", "USD:1"],
    ["model.use", "acme/one"],
  ] as const) {
    const answer = await plain.submit("echo", 1, { lease_request: { [capability]: [pattern] } });
    assert.equal(answer.payload["code"], "INVALID_REQUEST");
    assert.deepEqual((answer.payload["details"] as { feature: string }).feature, capability);
  }
});

test("[LEA-16] model.use is offered only where models are configured, and names those", async () => {
  await using without = await runtimeFixture();
  assert(!(await without.greet()).answer.payload["capabilities"]?.toString().includes("model.use"));
  await using fixture = await runtimeFixture({ models: ["acme/*"] });
  const client = await fixture.connect();
  const jobId = await client.start("puppet", null, { lease_request: { "model.use": ["acme/one"] } });
  const { job, end } = await fixture.puppet(jobId);
  assert.equal(job.authorize("model.use", "acme/one"), "acme/one");
  assert.throws(() => job.authorize("model.use", "acme/two"), isCode("PERMISSION_DENIED"));
  end();
  const denied = await client.submit("echo", 1, { lease_request: { "model.use": ["other/one"] } });
  assert.equal(denied.payload["code"], "PERMISSION_DENIED");
});
