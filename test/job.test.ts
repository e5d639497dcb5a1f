/** Jobs over the wire (SPEC.md, JOB), on a clock that stands still. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError, type Envelope, FEATURES, IN_REPLY_TO, type ListedJob } from "../src/protocol/index.ts";
import type { JobContext } from "../src/runtime/index.ts";
import type { NewRun, Store } from "../src/store/store.ts";
import { eventually, type RuntimeFixture, runtimeFixture, type TestClient, turns } from "./runtime-fixture.ts";
import { skippedOverPostgres } from "./test-store.ts";

/** Without what would fill a test's log with pings. */
const QUIET = FEATURES.filter((feature) => feature !== "heartbeat");
const SECRET = "x-secret";
const code = (envelope: Envelope) => envelope.payload["code"];
const detailsOf = (envelope: Envelope) => envelope.payload["details"] as Record<string, unknown>;
const terminals = (client: TestClient, jobId: string) =>
  client.of(jobId).filter(({ type }) => type === "job.result" || type === "job.error");

// ------------------------------------------------------------------------------------- life of a job

test("[JOB-1] a job is running, then has one of four ends, with one terminal message for each follower", async () => {
  await using fixture = await runtimeFixture();
  const owner = await fixture.connect();
  const follower = await fixture.connect();
  const ends: [status: string, end: (jobId: string) => Promise<unknown>][] = [
    ["success", async (jobId) => (await fixture.puppet(jobId)).end({ answer: 42 })],
    ["error", async (jobId) => (await fixture.puppet(jobId)).fail(new ArcpError("PERMISSION_DENIED", "No."))],
    ["timed_out", async (jobId) => (await fixture.puppet(jobId)).fail(new ArcpError("TIMEOUT", "Late."))],
    [
      "cancelled",
      async (jobId) => {
        await owner.ask("job.cancel", { job_id: jobId });
        (await fixture.puppet(jobId)).end("too late");
      },
    ],
  ];
  for (const [status, end] of ends) {
    const jobId = await owner.start("puppet");
    const subscribed = await follower.ask("job.subscribe", { job_id: jobId });
    assert.equal(subscribed.payload["current_status"], "running");
    await end(jobId);
    for (const client of [owner, follower]) {
      const terminal = await client.terminal(jobId);
      assert.equal(terminal.payload["final_status"], status);
      assert.equal(terminal.type, status === "success" ? "job.result" : "job.error");
    }
    const [listed] = (await owner.ask("session.list_jobs", { limit: 1 })).payload["jobs"] as ListedJob[];
    assert.equal(listed?.status, status);
    // Whatever happens afterwards, there is no second one.
    (await fixture.puppet(jobId)).fail(new Error("again"));
    await owner.ask("job.cancel", { job_id: jobId });
    await fixture.clock.advance(60_000);
    for (const client of [owner, follower]) assert.equal(terminals(client, jobId).length, 1);
  }
});

test("[JOB-1] what a handler returns is the result: any JSON, or nothing", async () => {
  await using fixture = await runtimeFixture();
  fixture.runtime.agent("nothing", () => undefined);
  const client = await fixture.connect();
  for (const value of [0, "", false, null, [], { a: [1, { b: null }] }, "ü\u2028\u{1f600}"]) {
    assert.deepEqual((await client.terminal(await client.start("echo", value))).payload, {
      final_status: "success",
      result: value,
    });
  }
  assert.equal((await client.terminal(await client.start("nothing"))).payload["result"], null);
});

test("[JOB-1] a job that was submitted while the runtime began to stop has an end all the same", {
  skip: skippedOverPostgres("the job may have ended before it started there"),
}, async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  client.send("job.submit", { agent: "puppet", input: 1 });
  await Promise.resolve();
  let stopped = false;
  const ended: string[] = [];
  const { append } = fixture.store.jobs;
  fixture.store.jobs.append = (batches) => {
    for (const { jobId, end } of batches) if (end !== undefined) ended.push(jobId);
    return append(batches);
  };
  const stopping = fixture.runtime.stop({ drainMs: 0 }).finally(() => {
    stopped = true;
  });
  while (!stopped) await fixture.clock.advance(1_000);
  await stopping;
  const accepted = client.received.filter(({ envelope }) => envelope.type === "job.accepted");
  assert.equal(ended.length, fixture.puppets, `${fixture.puppets} started, ${ended.length} ended`);
  assert.equal(accepted.length, fixture.puppets);
});

test("[JOB-1] a job that another process ended has that end here, once", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job } = await fixture.puppet(jobId);
  await job.log("one");
  await client.until(() => client.seqs().length === 1, "the event");
  const node = (await fixture.store.nodes.list()).find(({ nodeId }) => nodeId === fixture.runtime.nodeId);
  const payload = { final_status: "error", code: "INTERNAL_ERROR", message: "Gone.", retryable: true };
  await fixture.store.nodes.bury({
    nodeId: fixture.runtime.nodeId,
    heartbeat: node?.heartbeat ?? 0,
    jobErrorPayload: JSON.stringify(payload),
    now: fixture.clock.wall(),
  });
  await fixture.clock.advance(5_000);
  await client.whenClosed();
  assert.equal(job.signal.aborted, true);
  const again = await fixture.connect({ resume: client.resume(1) });
  await fixture.clock.advance(2_000);
  assert.deepEqual((await again.terminal(jobId)).payload, payload);
  assert.deepEqual(again.seqs(), [2]);
});

// ---------------------------------------------------------------------------------- order of replies

test("[JOB-2] replies leave in the order of their requests, however long each one takes", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const ids: string[] = [];
  for (let round = 0; round < 20; round += 1) {
    ids.push(
      client.send("job.submit", { agent: "echo", input: round }),
      client.send("session.list_jobs", {}),
      client.send("job.submit", { agent: "nobody", input: round }),
      client.send("job.cancel", { job_id: "job_none" }),
      client.send("job.submit", { agent: "echo", max_runtime_sec: "x" }),
      client.send("job.subscribe", { job_id: jobId }),
      client.send("session.unheard_of", {}),
    );
  }
  const answered = () =>
    client.received.flatMap(({ envelope }) => {
      const id = envelope.extensions?.[IN_REPLY_TO] ?? envelope.payload["request_id"];
      return typeof id === "string" && ids.includes(id) ? [id] : [];
    });
  await client.until(() => answered().length >= ids.length, "all answers");
  assert.deepEqual(answered(), ids);
});

test("[JOB-2] no event of a job leaves before its accepted or subscribed", async () => {
  await using fixture = await runtimeFixture();
  fixture.runtime.agent("quick", async (_input, job) => {
    await job.log("at once");
    return 1;
  });
  const client = await fixture.connect();
  const other = await fixture.connect();
  for (let round = 0; round < 30; round += 1) {
    client.send("session.list_jobs", {});
    client.send("job.submit", { agent: "quick", input: round, idempotency_key: `k${round}` });
    client.send("job.submit", { agent: "quick", input: round, idempotency_key: `k${round}` });
    client.send("session.list_jobs", {});
  }
  await client.until(() => client.seqs().length === 60, "all jobs");
  const { jobs } = (await other.ask("session.list_jobs", {})).payload as unknown as { jobs: ListedJob[] };
  for (const { job_id } of jobs) other.send("job.subscribe", { job_id, history: true });
  await other.until(() => other.seqs().length === 60, "all jobs again");
  for (const [party, opener] of [
    [client, "job.accepted"],
    [other, "job.subscribed"],
  ] as const) {
    const opened = new Set<string | undefined>();
    for (const { envelope } of party.received) {
      if (envelope.type === opener) opened.add(envelope.job_id);
      if (envelope.event_seq !== undefined) assert(opened.has(envelope.job_id), `an event went before ${opener}`);
    }
    assert.equal(opened.size, 30);
  }
});

// --------------------------------------------------------------------------------- submits, rejected

const REJECTIONS: [name: string, code: string, payload: object][] = [
  ["an unknown agent", "AGENT_NOT_AVAILABLE", { agent: "nobody", input: 1 }],
  ["an unknown version", "AGENT_VERSION_NOT_AVAILABLE", { agent: "echo@7", input: 1 }],
  ["a wrong field", "INVALID_REQUEST", { agent: "echo", input: 1, max_runtime_sec: 0 }],
  ["no agent", "INVALID_REQUEST", { input: 1 }],
  ["a used key", "DUPLICATE_KEY", { agent: "echo", input: "other", idempotency_key: "used" }],
  [
    "a lease that is not granted",
    "PERMISSION_DENIED",
    { agent: "echo", input: 1, lease_request: { "fs.read": ["/**"] } },
  ],
  ["a capability of no form", "INVALID_REQUEST", { agent: "echo", input: 1, lease_request: { "dance.tango": [] } }],
  [
    "a lease of the past",
    "INVALID_REQUEST",
    { agent: "echo", input: 1, lease_constraints: { expires_at: "2025-12-31T23:59:59Z" } },
  ],
  ["one job too many", "INTERNAL_ERROR", { agent: "puppet", input: 1 }],
];

async function fullHouse(options: Parameters<typeof runtimeFixture>[0] = {}): Promise<RuntimeFixture> {
  const fixture = await runtimeFixture({ maxRunningJobsPerPrincipal: 1, ...options });
  const client = await fixture.connect({ features: QUIET });
  await client.terminal(await client.start("echo", "first", { idempotency_key: "used" }));
  await client.start("puppet");
  return fixture;
}

test("[JOB-3] a rejected submit is job.error with a fresh job_id and no number, for every code", async () => {
  await using fixture = await fullHouse();
  const client = await fixture.connect();
  const seen = new Set<string>();
  for (const [name, expected, payload] of REJECTIONS) {
    const answer = await client.ask("job.submit", payload);
    assert.equal(answer.type, "job.error", name);
    assert.equal(code(answer), expected, name);
    assert.equal(answer.payload["final_status"], "error", name);
    assert.equal(answer.event_seq, undefined, name);
    assert.match(answer.job_id ?? "", /^job_/, name);
    seen.add(answer.job_id as string);
  }
  assert.equal(seen.size, REJECTIONS.length, "a job_id was used twice");
  assert.deepEqual(client.seqs(), []);
  const { jobs } = (await client.ask("session.list_jobs", {})).payload as unknown as { jobs: ListedJob[] };
  assert.equal(jobs.length, 2, "a rejected submit left a job");
});

test("[JOB-3] clients that are listed in compat get session.error with request_id", async () => {
  await using fixture = await fullHouse({ compat: { sessionErrorClients: ["go-sdk"] } });
  const client = await fixture.connect({ name: "go-sdk" });
  for (const [name, expected, payload] of REJECTIONS) {
    const id = client.send("job.submit", payload);
    const answer = await client.reply(id);
    assert.equal(answer.type, "session.error", name);
    assert.equal(answer.payload["request_id"], id, name);
    assert.equal(code(answer), expected, name);
  }
  const other = await fixture.connect({ name: "go-sdk-2" });
  assert.equal((await other.submit("nobody")).type, "job.error");
});

test("[JOB-4] agents resolve by name and version", async () => {
  await using fixture = await runtimeFixture();
  const { runtime } = fixture;
  runtime.agent("v", () => "one", { version: "1" }).agent("v", () => "two", { version: "2", default: true });
  runtime.agent("v", () => "three", { version: "3" });
  const client = await fixture.connect();
  for (const [wanted, label, result] of [
    ["v", "v@2", "two"],
    ["v@1", "v@1", "one"],
    ["v@3", "v@3", "three"],
    ["echo", "echo@1.0.0", null],
  ] as const) {
    const accepted = await client.submit(wanted);
    assert.equal(accepted.payload["agent"], label);
    assert.equal((await client.terminal(accepted.job_id as string)).payload["result"], result);
  }
  for (const [wanted, expected] of [
    ["w", "AGENT_NOT_AVAILABLE"],
    ["@1", "AGENT_NOT_AVAILABLE"],
    ["V", "AGENT_NOT_AVAILABLE"],
    ["constructor", "AGENT_NOT_AVAILABLE"],
    ["v@4", "AGENT_VERSION_NOT_AVAILABLE"],
    ["v@", "AGENT_VERSION_NOT_AVAILABLE"],
    ["v@1@2", "AGENT_VERSION_NOT_AVAILABLE"],
  ] as const) {
    assert.equal(code(await client.submit(wanted)), expected, wanted);
  }
});

// -------------------------------------------------------------------------------------- idempotency

test("[JOB-5] the same key and parameters give the same payload, and the job runs once", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const other = await fixture.connect();
  const first = await client.submit("puppet", { a: 1, b: [2] }, { idempotency_key: "k" });
  const again = await client.submit("puppet", { b: [2], a: 1 }, { idempotency_key: "k" });
  const elsewhere = await other.submit("puppet", { a: 1, b: [2] }, { idempotency_key: "k" });
  for (const accepted of [again, elsewhere]) {
    assert.equal(accepted.type, "job.accepted");
    assert.deepEqual(accepted.payload, first.payload);
    assert.equal(accepted.job_id, first.job_id);
    assert.notEqual(accepted.id, first.id);
  }
  assert.equal(fixture.puppets, 1);
  // The other session follows from the first event and may cancel.
  const jobId = first.job_id as string;
  const { job } = await fixture.puppet(jobId);
  await job.log("one");
  await other.until(() => other.logged(jobId).length === 1, "the event");
  assert.equal((await other.ask("job.cancel", { job_id: jobId })).type, "job.cancelled");
  assert.equal(job.signal.aborted, true);
});

test("[JOB-5] a repeat after the end replays the job to its terminal message", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const other = await fixture.connect();
  const jobId = await client.start("puppet", 1, { idempotency_key: "k" });
  const { job, end } = await fixture.puppet(jobId);
  await job.log("one");
  end("done");
  await client.terminal(jobId);
  for (const party of [client, other]) {
    const before = party.of(jobId).length;
    assert.equal(await party.start("puppet", 1, { idempotency_key: "k" }), jobId);
    await party.until(() => party.of(jobId).length === before + 2, "the replay");
    assert.equal(party.of(jobId).at(-1)?.payload["result"], "done");
  }
  assert.equal(fixture.puppets, 1);
});

test("[JOB-5] a repeat that meets the job's end in one commit replays it", async () => {
  let onEnd: (() => void) | undefined;
  await using fixture = await runtimeFixture({
    wrap: (store) => {
      const { storeRuns } = store.sessions;
      store.sessions.storeRuns = (ref, runs: readonly NewRun[], frameChild) => {
        const stored = storeRuns(ref, runs, frameChild);
        if (runs.some(({ endsFollow }) => endsFollow)) onEnd?.();
        return stored;
      };
      return store;
    },
  });
  for (const request of ["submit", "subscribe"] as const) {
    const client = await fixture.connect();
    const key = `key-${request}`;
    const jobId = await client.start("puppet", 1, { idempotency_key: key });
    const { job, end } = await fixture.puppet(jobId);
    await job.log("one");
    await client.until(() => client.of(jobId).length === 1, "the event");
    let asked = false;
    onEnd = () => {
      if (asked) return;
      asked = true;
      if (request === "submit") client.send("job.submit", { agent: "puppet", input: 1, idempotency_key: key });
      else client.send("job.subscribe", { job_id: jobId, history: true });
    };
    end();
    await client.until(() => terminals(client, jobId).length === 2, `the replay after the ${request}`);
    assert.deepEqual(client.seqs(), [1, 2, 3, 4]);
  }
});

test("[JOB-5] concurrent submits of one key run one job, whichever session wins", async () => {
  await using fixture = await runtimeFixture();
  const clients = await Promise.all(Array.from({ length: 5 }, () => fixture.connect()));
  const answers = await Promise.all(
    clients.flatMap((client) => [1, 2, 3].map(() => client.submit("puppet", "x", { idempotency_key: "k" }))),
  );
  assert.deepEqual(new Set(answers.map(({ type }) => type)), new Set(["job.accepted"]));
  assert.equal(new Set(answers.map(({ payload }) => JSON.stringify(payload))).size, 1);
  assert.equal(fixture.puppets, 1);
  const jobId = answers[0]?.job_id as string;
  (await fixture.puppet(jobId)).end();
  for (const client of clients) {
    await client.terminal(jobId);
    await turns();
    assert.equal(terminals(client, jobId).length, 1, "one follow, one terminal message");
  }
});

test("[JOB-5] other parameters under a used key are DUPLICATE_KEY", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const first = { agent: "echo", input: { a: 1 }, idempotency_key: "k" };
  await client.ask("job.submit", first);
  const others = [
    { ...first, input: { a: 2 } },
    { ...first, input: { a: "1" } },
    { ...first, input: [1] },
    { ...first, agent: "puppet" },
    { ...first, max_runtime_sec: 5 },
    { ...first, lease_constraints: { expires_at: "2026-06-01T00:00:00Z" } },
  ];
  for (const other of others) assert.equal(code(await client.ask("job.submit", other)), "DUPLICATE_KEY");
  assert.equal((await client.ask("job.submit", first)).type, "job.accepted");
});

test("[JOB-5] another principal's key is another key", async () => {
  await using fixture = await runtimeFixture();
  const alice = await fixture.connect();
  const bob = await fixture.connect({ token: "bob" });
  const hers = await alice.start("puppet", "same", { idempotency_key: "k" });
  const his = await bob.start("puppet", "different", { idempotency_key: "k" });
  assert.notEqual(hers, his);
});

test("[JOB-5] a key holds for 24 h", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect({ features: QUIET });
  const first = await client.start("echo", 1, { idempotency_key: "k" });
  await fixture.clock.advance(1);
  fixture.clock.stepWall(86_400_000 - 2);
  assert.equal(await client.start("echo", 1, { idempotency_key: "k" }), first);
  fixture.clock.stepWall(1);
  const second = await client.start("echo", 2, { idempotency_key: "k" });
  assert.notEqual(second, first);
  assert.equal(await client.start("echo", 2, { idempotency_key: "k" }), second);
});

// ------------------------------------------------------------------------------- cancel and deadlines

test("[JOB-6] a cancel is answered at once, the signal aborts, and CANCELLED follows when the agent unwinds", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  const answer = await client.ask("job.cancel", { reason: "changed my mind" }, { job_id: jobId });
  assert.equal(answer.type, "job.cancelled");
  assert.equal(answer.job_id, jobId);
  assert.equal(answer.event_seq, undefined);
  assert.equal(job.signal.aborted, true);
  assert.equal((job.signal.reason as ArcpError).code, "CANCELLED");
  await turns();
  assert.deepEqual(client.of(jobId), [], "the job ended before its agent did");
  await job.log("cleaning up");
  end("never mind");
  const terminal = await client.terminal(jobId);
  assert.equal(terminal.type, "job.error");
  assert.equal(code(terminal), "CANCELLED");
  assert.equal(terminal.payload["final_status"], "cancelled");
  assert.match(terminal.payload["message"] as string, /changed my mind/);
  assert.deepEqual(client.logged(jobId), ["cleaning up"]);
});

test("[JOB-6] an agent that does not unwind is ended after the grace of 30 s", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect({ features: QUIET });
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  await client.ask("job.cancel", { job_id: jobId });
  await fixture.clock.advance(20_000);
  // A second cancel is answered, and does not begin the grace anew.
  assert.equal((await client.ask("job.cancel", { job_id: jobId, reason: "hurry" })).type, "job.cancelled");
  await fixture.clock.advance(9_999);
  assert.equal(terminals(client, jobId).length, 0);
  await fixture.clock.advance(1);
  assert.equal(code(await client.terminal(jobId)), "CANCELLED");
  await assert.rejects(job.log("too late"), /has ended/);
  end();
  await turns();
  assert.equal(terminals(client, jobId).length, 1);
  assert.equal(fixture.runtime.runningJobs, 0);
});

test("[JOB-6] the right to cancel survives a resume and the end of the follow", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("sleeper");
  client.send("job.unsubscribe", { job_id: jobId });
  client.pair.cut();
  const again = await fixture.connect({ resume: client.resume(0) });
  assert.equal((await again.ask("job.cancel", { job_id: jobId })).type, "job.cancelled");
  await eventually(() => fixture.runtime.runningJobs === 0, "the cancel to work");
});

test("[JOB-7] only the submitting session may cancel", async () => {
  await using fixture = await runtimeFixture();
  const owner = await fixture.connect();
  const follower = await fixture.connect();
  const stranger = await fixture.connect({ token: "bob" });
  const jobId = await owner.start("puppet");
  const { job } = await fixture.puppet(jobId);
  await follower.ask("job.subscribe", { job_id: jobId, history: true });
  const cases: [client: TestClient, jobId: string, expected: string][] = [
    [follower, jobId, "PERMISSION_DENIED"],
    [stranger, jobId, "JOB_NOT_FOUND"],
    [owner, "job_none", "JOB_NOT_FOUND"],
    [owner, `${jobId}%`, "JOB_NOT_FOUND"],
  ];
  for (const [client, named, expected] of cases) {
    const answers = [
      await client.ask("job.cancel", { job_id: named }),
      await client.ask("job.cancel", {}, { job_id: named }),
    ];
    for (const answer of answers) {
      assert.equal(answer.type, "job.error");
      assert.equal(answer.event_seq, undefined);
      assert.equal(answer.job_id, named);
      assert.equal(code(answer), expected);
    }
  }
  assert.equal(job.signal.aborted, false);
  await job.log("goes on");
  await follower.until(() => follower.logged(jobId).length === 1, "the event");
  // The answer to a stranger tells nothing that the answer about no job does not.
  const [about, none] = [
    await stranger.ask("job.cancel", { job_id: jobId }),
    await stranger.ask("job.cancel", { job_id: "job_none" }),
  ];
  assert.equal(
    JSON.stringify(about.payload).replaceAll(jobId, "ID"),
    JSON.stringify(none.payload).replaceAll("job_none", "ID"),
  );
});

test("[JOB-8] a job that runs longer than max_runtime_sec ends with TIMEOUT", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect({ features: QUIET });
  const jobId = await client.start("sleeper", null, { max_runtime_sec: 2.5 });
  const stubborn = await client.start("puppet", null, { max_runtime_sec: 2.5 });
  const quick = await client.start("echo", 1, { max_runtime_sec: 0.001 });
  assert.equal((await client.terminal(quick)).type, "job.result");
  await fixture.clock.advance(2_499);
  assert.equal(terminals(client, jobId).length, 0);
  await fixture.clock.advance(1);
  const terminal = await client.terminal(jobId);
  assert.equal(code(terminal), "TIMEOUT");
  assert.equal(terminal.payload["final_status"], "timed_out");
  assert.equal(terminal.payload["retryable"], true);
  assert.equal((await fixture.puppet(stubborn)).job.signal.aborted, true);
  await fixture.clock.advance(30_000);
  assert.equal(code(await client.terminal(stubborn)), "TIMEOUT");
});

test("[JOB-9] a lease ends its job when it expires", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect({ features: QUIET });
  const expires_at = "2026-01-01T00:01:00.000Z";
  const accepted = await client.submit("sleeper", null, { lease_constraints: { expires_at } });
  assert.deepEqual(accepted.payload["lease_constraints"], { expires_at });
  const jobId = accepted.job_id as string;
  const subscribed = await (await fixture.connect()).ask("job.subscribe", { job_id: jobId });
  assert.deepEqual(subscribed.payload["lease_constraints"], { expires_at });
  await fixture.clock.advance(59_999);
  assert.equal(terminals(client, jobId).length, 0);
  await fixture.clock.advance(1);
  const terminal = await client.terminal(jobId);
  assert.equal(code(terminal), "LEASE_EXPIRED");
  assert.equal(terminal.payload["final_status"], "error");
  assert.equal(terminal.payload["retryable"], false);
});

test("[JOB-9] a lease must expire in the future, and hold only what the policy grants", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  for (const expires_at of ["2026-01-01T00:00:00Z", "2025-12-31T23:59:59.999Z", "2026-01-01", "2026-13-01T00:00:00Z"]) {
    assert.equal(
      code(await client.submit("echo", 1, { lease_constraints: { expires_at } })),
      "INVALID_REQUEST",
      expires_at,
    );
  }
  assert.equal(
    (await client.submit("echo", 1, { lease_constraints: { expires_at: "2026-01-01T00:00:00.001Z" } })).type,
    "job.accepted",
  );
  for (const capability of ["fs.read", "fs.write", "net.fetch", "x-vendor.acme.fly"]) {
    const answer = await client.submit("echo", 1, { lease_request: { [capability]: ["**"] } });
    assert.equal(code(answer), "PERMISSION_DENIED");
    assert.match(answer.payload["message"] as string, new RegExp(capability));
    assert.equal(detailsOf(answer)["capability"], capability);
  }
  for (const capability of ["fs", "fs.delete", "x-vendor.", "x-vendor.acme", "", "__proto__"]) {
    const lease_request = JSON.parse(`{${JSON.stringify(capability)}: []}`) as object;
    const answer = await client.submit("echo", 1, { lease_request });
    if (capability !== "__proto__") assert.equal(code(answer), "INVALID_REQUEST", capability);
    else assert.deepEqual(answer.payload["lease"] ?? {}, {}, "a capability was granted by its name");
  }
});

// ------------------------------------------------------------------------------------------- listing

test("[JOB-10] a list holds the principal's jobs, newest first, by filter", async () => {
  await using fixture = await runtimeFixture();
  fixture.runtime.agent("echo", (input) => input, { version: "2.0.0" });
  const client = await fixture.connect({ features: QUIET });
  const other = await fixture.connect({ features: QUIET });
  const stranger = await fixture.connect({ token: "bob", features: QUIET });
  await stranger.start("puppet");
  const done = await client.start("echo");
  await client.terminal(done);
  await fixture.clock.advance(1_000);
  const newer = await other.start("echo@2.0.0");
  await other.terminal(newer);
  await fixture.clock.advance(1_000);
  const running = await client.start("puppet");
  const { job } = await fixture.puppet(running);
  await job.log("1");
  await job.progress({ current: 1 });
  await client.until(() => client.seqs().length === 3, "the events");

  const list = async (filter: object, rest: object = {}) => {
    const { payload } = await client.ask("session.list_jobs", { filter, ...rest });
    return (payload["jobs"] as ListedJob[]).map(({ job_id }) => job_id);
  };
  const reply = await client.ask("session.list_jobs", {});
  assert.equal(reply.payload["next_cursor"], null);
  const [first, second, third] = reply.payload["jobs"] as ListedJob[];
  assert.deepEqual(first, {
    job_id: running,
    agent: "puppet@1.0.0",
    status: "running",
    lease: {},
    parent_job_id: null,
    created_at: "2026-01-01T00:00:02.000Z",
    trace_id: job.traceId,
    last_event_seq: 3,
  });
  assert.equal(second?.job_id, newer);
  assert.equal(second?.last_event_seq, 1, "counts in the submitting session, not in the asking one");
  assert.equal(third?.job_id, done);
  assert.equal(third?.last_event_seq, 1);
  assert.deepEqual(await list({}), [running, newer, done]);
  assert.deepEqual(await list({ status: ["running"] }), [running]);
  assert.deepEqual(await list({ status: ["success", "running"] }), [running, newer, done]);
  assert.deepEqual(await list({ status: ["success"] }), [newer, done]);
  assert.deepEqual(await list({ status: ["pending", "cancelled", "error", "timed_out"] }), []);
  assert.deepEqual(await list({ status: [] }), []);
  assert.deepEqual(await list({ agent: "echo" }), [newer, done]);
  assert.deepEqual(await list({ agent: "echo@2.0.0" }), [newer]);
  assert.deepEqual(await list({ agent: "ech" }), []);
  assert.deepEqual(await list({ agent: "%" }), []);
  assert.deepEqual(await list({ created_after: "2026-01-01T00:00:00Z" }), [running, newer]);
  assert.deepEqual(await list({ created_before: "2026-01-01T00:00:02Z" }), [newer, done]);
  assert.deepEqual(await list({ created_after: "2026-01-01T00:00:00.5Z", created_before: "2026-01-01T00:00:01.5Z" }), [
    newer,
  ]);
  assert.deepEqual(await list({ agent: "echo", status: ["success"] }, { limit: 1 }), [newer]);
});

test("[JOB-10] a job of which its submitter saw nothing has last_event_seq 0", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect({ features: ["list_jobs"] });
  const jobId = await client.start("puppet");
  await (await fixture.puppet(jobId)).job.progress({ current: 1 });
  await turns();
  const { jobs } = (await client.ask("session.list_jobs", {})).payload as unknown as { jobs: ListedJob[] };
  assert.equal(jobs[0]?.last_event_seq, 0);
});

test("[JOB-10] pages with a cursor hold every job once", async () => {
  await using fixture = await runtimeFixture({ maxRunningJobsPerPrincipal: 1_000 });
  const client = await fixture.connect();
  const ids: string[] = [];
  for (let index = 0; index < 25; index += 1) ids.push(await client.start(index % 5 === 0 ? "puppet" : "echo", index));
  await client.until(() => client.seqs().length === 20, "the echoes");
  for (const [filter, expected] of [
    [undefined, ids],
    [{ status: ["running"] }, ids.filter((_, index) => index % 5 === 0)],
    [{ agent: "echo" }, ids.filter((_, index) => index % 5 !== 0)],
  ] as const) {
    const listed: string[] = [];
    let cursor: string | null = null;
    do {
      const page: Envelope = await client.ask("session.list_jobs", { limit: 4, cursor, ...(filter && { filter }) });
      const { jobs, next_cursor } = page.payload as unknown as { jobs: ListedJob[]; next_cursor: string | null };
      assert(jobs.length > 0 && jobs.length <= 4);
      listed.push(...jobs.map(({ job_id }) => job_id));
      cursor = next_cursor;
      // A newer job does not move the pages.
      await client.start("puppet");
    } while (cursor !== null);
    if (filter === undefined) assert.deepEqual(listed, [...expected].reverse());
    else
      assert.deepEqual(
        listed.filter((id) => ids.includes(id)),
        [...expected].reverse(),
      );
  }
  const unknown = await client.ask("session.list_jobs", { cursor: "job_none" });
  assert.equal(code(unknown), "INVALID_REQUEST");
  assert.match(String(unknown.payload["message"]), /payload\.cursor/);
});

test("[JOB-10] a cursor stays good when the jobs around it have gone", async () => {
  await using fixture = await runtimeFixture({ jobRetentionMs: 1_000 });
  const client = await fixture.connect();
  const ids: string[] = [];
  for (let index = 0; index < 4; index += 1) ids.push(await client.start("puppet"));
  const first = await client.ask("session.list_jobs", { limit: 2 });
  // The job that the page ended with ends, and is removed; the two older ones live on.
  const gone = ids[2] as string;
  (await fixture.puppet(gone)).end();
  await client.terminal(gone);
  client.send("session.ack", { last_processed_seq: client.seqs().at(-1) });
  await client.alive();
  for (let kept = true; kept; kept = (await fixture.store.jobs.get(gone)) !== undefined)
    await fixture.clock.advance(5_000);
  const second = await client.ask("session.list_jobs", { limit: 2, cursor: first.payload["next_cursor"] });
  assert.deepEqual(
    (second.payload["jobs"] as { job_id: string }[]).map((job) => job.job_id),
    [ids[1], ids[0]],
  );
});

test("[JOB-22] what a principal sees of others' jobs is for the host's policy to say", async () => {
  await using fixture = await runtimeFixture({
    visibility: (viewer, job) =>
      viewer === "bob" ? "observable" : viewer === "carol" && job.agent.startsWith("puppet") ? "listed" : "none",
  });
  const alice = await fixture.connect();
  const bob = await fixture.connect({ token: "bob" });
  const carol = await fixture.connect({ token: "carol" });
  const jobId = await alice.start("puppet");
  const echo = await alice.start("echo", "secret");
  await alice.terminal(echo);
  const listed = async (client: TestClient, rest: object = {}) =>
    ((await client.ask("session.list_jobs", rest)).payload["jobs"] as { job_id: string }[]).map((job) => job.job_id);
  assert.deepEqual(await listed(bob), [echo, jobId]);
  assert.deepEqual(await listed(carol), [jobId]);
  const page = await bob.ask("session.list_jobs", { limit: 1 });
  assert.deepEqual(await listed(bob, { limit: 1, cursor: page.payload["next_cursor"] }), [jobId]);

  assert.equal((await bob.ask("job.subscribe", { job_id: jobId })).type, "job.subscribed");
  assert.equal(code(await carol.ask("job.subscribe", { job_id: jobId })), "PERMISSION_DENIED");
  assert.equal(code(await carol.ask("job.subscribe", { job_id: echo })), "JOB_NOT_FOUND");
  for (const client of [bob, carol]) {
    assert.equal(code(await client.ask("job.cancel", { job_id: jobId })), "PERMISSION_DENIED");
  }
  assert.equal(code(await carol.ask("job.cancel", { job_id: echo })), "JOB_NOT_FOUND");
  const audit = fixture.log.filter(({ fields }) => (fields as { audit?: string }).audit === "job.subscribe");
  assert.deepEqual(
    audit.map(({ fields }) => fields),
    [{ audit: "job.subscribe", principal: "bob", session_id: bob.sessionId, job_id: jobId, owner: "alice" }],
  );
  (await fixture.puppet(jobId)).end("seen by both");
  assert.equal((await bob.terminal(jobId)).payload["result"], "seen by both");
});

// ---------------------------------------------------------------------------------------- subscribing

/** A job with `count` events `0…`, seen by its submitter under the numbers 1… */
async function withEvents(fixture: RuntimeFixture, count: number) {
  const owner = await fixture.connect();
  const jobId = await owner.start("puppet");
  const puppet = await fixture.puppet(jobId);
  for (let index = 0; index < count; index += 1) await puppet.job.log(`${index}`);
  await owner.until(() => owner.of(jobId).length === count, "the events");
  return { owner, jobId, ...puppet };
}

test("[JOB-11] with history a subscription starts at the first event or at from_event_seq", async () => {
  await using fixture = await runtimeFixture();
  const { jobId, job, end } = await withEvents(fixture, 5);
  const cases: [request: object, first: number, from: number, replayed: boolean][] = [
    [{ history: true }, 0, 1, true],
    [{ history: true, from_event_seq: 0 }, 0, 1, true],
    [{ history: true, from_event_seq: 1 }, 0, 1, true],
    [{ history: true, from_event_seq: 3 }, 2, 3, true],
    [{ history: true, from_event_seq: 5 }, 4, 5, true],
    [{ history: true, from_event_seq: 6 }, 5, 6, true],
    [{ history: true, from_event_seq: 99 }, 5, 6, true],
    [{}, 5, 6, false],
    [{ history: false }, 5, 6, false],
    [{ from_event_seq: 2 }, 5, 6, false],
  ];
  const parties: [TestClient, number][] = [];
  for (const [request, first, from, replayed] of cases) {
    const client = await fixture.connect({ token: "alice" });
    const { payload } = await client.ask("job.subscribe", { job_id: jobId, ...request });
    assert.equal(payload["subscribed_from"], from, JSON.stringify(request));
    assert.equal(payload["replayed"], replayed, JSON.stringify(request));
    assert.equal(payload["current_status"], "running");
    assert.equal(payload["agent"], "puppet@1.0.0");
    assert.equal(payload["parent_job_id"], null);
    parties.push([client, first]);
  }
  await job.log("5");
  end("done");
  for (const [client, first] of parties) {
    await client.terminal(jobId);
    assert.deepEqual(client.logged(jobId), ["0", "1", "2", "3", "4", "5"].slice(first));
    assert.deepEqual(
      client.seqs(),
      Array.from({ length: 7 - first }, (_, index) => index + 1),
      "its own numbers",
    );
  }
});

test("[JOB-11] from_event_seq counts in the submitter's sequence, other jobs and hidden events included", async () => {
  await using fixture = await runtimeFixture();
  const owner = await fixture.connect({ features: ["subscribe"] });
  const a = await owner.start("puppet", "a");
  const b = await owner.start("puppet", "b");
  const [jobA, jobB] = [(await fixture.puppet(a)).job, (await fixture.puppet(b)).job];
  // The owner sees: 1 a0, 2 b0, 3 a1, 4 b1, 5 a2 …; progress it does not see.
  for (let index = 0; index < 4; index += 1) {
    await jobA.progress({ current: index });
    await jobA.log(`a${index}`);
    await owner.until(() => owner.logged(a).length === index + 1, "a");
    await jobB.progress({ current: index });
    await jobB.log(`b${index}`);
    await owner.until(() => owner.logged(b).length === index + 1, "b");
  }
  const numberOf = (message: string) =>
    owner.numbered().find(({ payload }) => (payload["body"] as { message: string }).message === message)?.event_seq;
  for (const message of ["a0", "a1", "a2", "a3"]) {
    for (const seq of [numberOf(message) as number, (numberOf(message) as number) - 1]) {
      const client = await fixture.connect();
      const { payload } = await client.ask("job.subscribe", { job_id: a, history: true, from_event_seq: seq });
      assert.equal(payload["subscribed_from"], numberOf(message));
      const expected = ["a0", "a1", "a2", "a3"].slice(Number(message[1]));
      await client.until(() => client.logged(a).length === expected.length, "the replay");
      assert.deepEqual(client.logged(a), expected);
    }
  }
});

test("[JOB-11] a job that has ended is replayed to its terminal message", async () => {
  await using fixture = await runtimeFixture();
  const { owner, jobId, end } = await withEvents(fixture, 3);
  end("done");
  await owner.terminal(jobId);
  for (const [request, logged] of [
    [{ history: true }, ["0", "1", "2"]],
    [{ history: true, from_event_seq: 3 }, ["2"]],
    [{ history: true, from_event_seq: 50 }, []],
    [{}, []],
  ] as const) {
    const client = await fixture.connect();
    const { payload } = await client.ask("job.subscribe", { job_id: jobId, ...request });
    assert.equal(payload["current_status"], "success");
    assert.equal((await client.terminal(jobId)).payload["result"], "done");
    assert.deepEqual(client.logged(jobId), logged);
    await turns();
    assert.equal(terminals(client, jobId).length, 1);
  }
});

test("[JOB-11] a subscription survives a drop and a resume", async () => {
  await using fixture = await runtimeFixture();
  const { jobId, job, end } = await withEvents(fixture, 2);
  const client = await fixture.connect();
  await client.ask("job.subscribe", { job_id: jobId, history: true, from_event_seq: 2 });
  await client.until(() => client.seqs().length === 1, "the replay");
  client.pair.cut();
  await job.log("away");
  const again = await fixture.connect({ resume: client.resume(1) });
  end();
  await again.terminal(jobId);
  assert.deepEqual(again.logged(jobId), ["away"]);
  assert.deepEqual(again.seqs(), [2, 3]);
});

test("[JOB-11] a history that is longer than a page is replayed in order while the job goes on", async () => {
  await using fixture = await runtimeFixture();
  const { jobId, job, end } = await withEvents(fixture, 1_500);
  const client = await fixture.connect();
  client.send("job.subscribe", { job_id: jobId, history: true });
  for (let index = 1_500; index < 2_000; index += 1) await job.log(`${index}`);
  end();
  await client.terminal(jobId);
  assert.deepEqual(
    client.logged(jobId),
    Array.from({ length: 2_000 }, (_, index) => `${index}`),
  );
});

test("[JOB-12] another follow changes nothing while one lives", async () => {
  await using fixture = await runtimeFixture();
  const { owner, jobId, job, end } = await withEvents(fixture, 2);
  const client = await fixture.connect();
  for (const request of [{}, { history: true }, {}]) {
    for (const party of [owner, client]) {
      const answer = await party.ask("job.subscribe", { job_id: jobId, ...request });
      assert.equal(answer.type, "job.subscribed");
      assert.equal(answer.payload["replayed"], false);
    }
  }
  await job.log("2");
  end();
  await Promise.all([owner.terminal(jobId), client.terminal(jobId)]);
  await turns();
  assert.deepEqual(owner.logged(jobId), ["0", "1", "2"]);
  assert.deepEqual(client.logged(jobId), ["2"]);
  assert.equal(terminals(owner, jobId).length, 1);
  // After its end a new one replays.
  await client.ask("job.subscribe", { job_id: jobId, history: true });
  await client.until(() => terminals(client, jobId).length === 2, "the second terminal message");
  assert.deepEqual(client.logged(jobId), ["2", "0", "1", "2"]);
  assert.deepEqual(client.seqs(), [1, 2, 3, 4, 5, 6]);
});

test("[JOB-12] unsubscribe ends a follow in mid-stream, and a later one goes on without a hole", async () => {
  await using fixture = await runtimeFixture();
  const { owner, jobId, job, end } = await withEvents(fixture, 0);
  const other = await owner.start("puppet");
  let stop = false;
  const burst = (async () => {
    for (let index = 0; !stop; index += 1) await job.log(`${index}`);
  })();
  for (let round = 0; round < 10; round += 1) {
    const before = owner.of(jobId).length;
    await owner.until(() => owner.of(jobId).length > before, "some events");
    owner.send("job.unsubscribe", { job_id: jobId });
    await owner.ask("session.list_jobs", {});
    const left = owner.of(jobId).length;
    await turns();
    assert.equal(owner.of(jobId).length, left, "an event came after the unsubscribe was done");
    await owner.ask("job.subscribe", { job_id: jobId });
  }
  stop = true;
  await burst;
  end();
  await owner.terminal(jobId);
  (await fixture.puppet(other)).end();
  await owner.terminal(other);
  assert.deepEqual(
    owner.seqs(),
    owner.seqs().map((_, index) => index + 1),
  );
  assert.equal(owner.closed, undefined);
});

test("[JOB-12] unsubscribe has no answer, and none of an unknown job does harm", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const ids = [client.send("job.unsubscribe", { job_id: "job_none" })];
  const jobId = await client.start("puppet");
  ids.push(client.send("job.unsubscribe", { job_id: jobId }), client.send("job.unsubscribe", { job_id: jobId }));
  await client.ask("session.list_jobs", {});
  (await fixture.puppet(jobId)).end();
  await turns();
  for (const id of ids) assert(!client.received.some(({ envelope }) => envelope.extensions?.[IN_REPLY_TO] === id));
  assert.deepEqual(client.seqs(), []);
});

test("[JOB-12] subscribes and unsubscribes that are sent in one go have the effect of their order", async () => {
  await using fixture = await runtimeFixture();
  const { jobId, job, end } = await withEvents(fixture, 1);
  const joined = await fixture.connect();
  const left = await fixture.connect();
  for (let round = 0; round < 5; round += 1) {
    // Something slow in front, so that the answers wait.
    joined.send("session.list_jobs", {});
    left.send("session.list_jobs", {});
    left.send("job.subscribe", { job_id: jobId, history: true });
    left.send("job.unsubscribe", { job_id: jobId });
    joined.send("job.subscribe", { job_id: jobId });
    joined.send("job.unsubscribe", { job_id: jobId });
    joined.send("job.subscribe", { job_id: jobId });
  }
  await Promise.all([joined.ask("session.list_jobs", {}), left.ask("session.list_jobs", {})]);
  await left.ask("session.list_jobs", {});
  await turns();
  const before = left.seqs().length;
  await job.log("last");
  end();
  await joined.terminal(jobId);
  assert.equal(joined.logged(jobId).at(-1), "last");
  await turns();
  assert.equal(left.seqs().length, before, "the session that left was served");
  for (const client of [joined, left]) {
    await client.alive();
    assert.equal(client.closed, undefined);
  }
});

test("[JOB-12] an unsubscribe that is sent again does not end a later subscription", async () => {
  await using fixture = await runtimeFixture();
  const { owner, jobId, end } = await withEvents(fixture, 1);
  owner.send("job.unsubscribe", { job_id: jobId }, { id: "leave" });
  await owner.ask("job.subscribe", { job_id: jobId });
  owner.send("job.unsubscribe", { job_id: jobId }, { id: "leave" });
  await owner.ask("session.list_jobs", {});
  await turns();
  end("seen");
  assert.equal((await owner.terminal(jobId)).payload["result"], "seen");
});

test("[JOB-13] another principal's job does not exist", async () => {
  await using fixture = await runtimeFixture();
  const { owner, jobId, end } = await withEvents(fixture, 1);
  const stranger = await fixture.connect({ token: "bob" });
  const answers = [
    await stranger.ask("job.subscribe", { job_id: jobId, history: true }),
    await stranger.ask("job.subscribe", { job_id: "job_none", history: true }),
  ];
  for (const answer of answers) {
    assert.equal(answer.type, "session.error");
    assert.equal(code(answer), "JOB_NOT_FOUND");
    assert.equal(answer.payload["retryable"], false);
  }
  assert.deepEqual((await stranger.ask("session.list_jobs", {})).payload["jobs"], []);
  stranger.send("job.unsubscribe", { job_id: jobId });
  await stranger.alive();
  end();
  await owner.terminal(jobId);
  assert.deepEqual(stranger.seqs(), []);
});

test("[JOB-13] another principal's cursor lists nothing of its jobs", async () => {
  await using fixture = await runtimeFixture();
  const stranger = await fixture.connect({ token: "bob" });
  const own = await stranger.start("puppet");
  const owner = await fixture.connect();
  for (let index = 0; index < 3; index += 1) await owner.start("puppet");
  const { next_cursor: cursor } = (await owner.ask("session.list_jobs", { limit: 1 })).payload;
  const jobs = (await stranger.ask("session.list_jobs", { cursor })).payload["jobs"] as { job_id: string }[];
  assert.deepEqual(
    jobs.map((job) => job.job_id),
    [own],
  );
});

// -------------------------------------------------------------------------------------------- agents

test("[JOB-14] bodies are checked against their kind, and only good ones are logged", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("puppet", null, { lease_request: { "agent.delegate": ["echo"] } });
  const { job, end } = await fixture.puppet(jobId);
  const emit = (kind: string, body: unknown) =>
    (job.emit as (kind: string, body: unknown) => Promise<void>).call(job, kind, body);
  const good: [kind: string, body: unknown][] = [
    ["log", { level: "warn", message: "m", attributes: { a: 1 } }],
    ["thought", { text: "t" }],
    ["tool_call", { tool: "t", args: { a: 1 }, call_id: "1" }],
    ["tool_result", { call_id: "1", result: null }],
    ["tool_result", { call_id: "1", error: { code: "X" } }],
    ["status", { phase: "p", message: "m", more: 1 }],
    ["metric", { name: "n", value: -1.5, unit: "u", dimensions: {} }],
    ["artifact_ref", { uri: "u", content_type: "c", byte_size: 0, sha256: "s" }],
    ["delegate", { delegate_id: "d", agent: "echo", input: null }],
    ["progress", { current: 0, total: 10, units: "u", message: "m" }],
    ["x-vendor.acme.any", null],
    ["x-vendor.acme.any", [1, { deep: ["x"] }]],
    ["x-vendor.acme.any", "text"],
  ];
  const bad: [kind: string, body: unknown, field: RegExp][] = [
    ["log", { level: "loud", message: "m" }, /level/],
    ["log", { level: "info" }, /message/],
    ["thought", {}, /text/],
    ["tool_call", { tool: "t" }, /call_id/],
    ["tool_result", { call_id: "1", result: 1, error: 2 }, /not both/],
    ["status", {}, /phase/],
    ["metric", { name: "n", value: Number.NaN }, /value/],
    ["metric", { name: "n", value: Number.POSITIVE_INFINITY }, /value/],
    ["artifact_ref", { uri: "u", content_type: "c", byte_size: -1 }, /byte_size/],
    ["delegate", { delegate_id: "d", input: 1 }, /agent/],
    ["progress", { current: -1 }, /current/],
    ["progress", null, /progress/],
    ["result_chunk", { result_id: "r", chunk_seq: 0, data: "d", encoding: "hex", more: false }, /encoding/],
    ["made_up", {}, /made_up/],
    ["job.result", { final_status: "success" }, /job\.result/],
    ["toString", {}, /toString/],
  ];
  for (const [kind, body] of good) await emit(kind, body);
  for (const [kind, body, field] of bad) {
    await assert.rejects(
      emit(kind, body),
      (error) => error instanceof ArcpError && error.code === "INVALID_REQUEST" && field.test(error.message),
      kind,
    );
  }
  end();
  await client.terminal(jobId);
  const events = client.of(jobId).filter(({ type }) => type === "job.event");
  assert.deepEqual(
    events.map(({ payload }) => [payload["kind"], payload["body"]]),
    good,
  );
  for (const { payload } of events) assert.equal(payload["ts"], "2026-01-01T00:00:00.000Z");
});

test("[JOB-14] an event that no frame can hold is refused, counted in bytes", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  await assert.rejects(job.log("x".repeat(2 * 1024 * 1024)), /over the limit/);
  await assert.rejects(job.log("€".repeat(600_000)), /over the limit/);
  await job.log("x".repeat(1_000_000));
  end("€".repeat(600_000));
  assert.equal(code(await client.terminal(jobId)), "INTERNAL_ERROR");
  for (const { frame } of client.received) assert(Buffer.byteLength(frame) <= 1024 * 1024 + 64 * 1024);
});

test("[JOB-14] result chunks come in order, and their whole has a cap", async () => {
  await using fixture = await runtimeFixture({ maxResultBytes: 10 });
  const client = await fixture.connect();
  const chunk = (seq: number, more: boolean, data = "abc", result_id = "r") =>
    ({ result_id, chunk_seq: seq, data, encoding: "utf8", more }) as const;
  const cases: [name: string, chunks: ReturnType<typeof chunk>[]][] = [
    ["not from 0", [chunk(1, false)]],
    ["out of order", [chunk(0, true), chunk(2, false)]],
    ["after the last", [chunk(0, false), chunk(1, false)]],
    ["another id", [chunk(0, true), chunk(1, false, "abc", "s")]],
    ["no last", [chunk(0, true)]],
    ["too long", [chunk(0, true, "12345678"), chunk(1, false, "901")]],
    ["too large", [chunk(0, false, "x".repeat(1024 * 1024 + 1))]],
  ];
  for (const [name, chunks] of cases) {
    fixture.runtime.agent(name.replaceAll(" ", "-"), async (_input, job) => {
      for (const body of chunks) await job.emit("result_chunk", body);
    });
    const terminal = await client.terminal(await client.start(name.replaceAll(" ", "-")));
    assert.equal(terminal.type, "job.error", name);
    assert.equal(code(terminal), "INTERNAL_ERROR", name);
  }
});

test("[JOB-15] an agent's own error goes out as it is, anything else neutrally", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const own = new ArcpError("BUDGET_EXHAUSTED", "The money is gone.", { details: { spent: 5 } });
  const jobId = await client.start("puppet");
  (await fixture.puppet(jobId)).fail(own);
  assert.deepEqual((await client.terminal(jobId)).payload, {
    final_status: "error",
    code: "BUDGET_EXHAUSTED",
    message: "The money is gone.",
    retryable: false,
    details: { spent: 5 },
  });

  const circular: Record<string, unknown> = {};
  circular["self"] = circular;
  const failures: [name: string, fail: () => unknown][] = [
    ["error", () => Promise.reject(new Error(`${SECRET} at /srv/agent.ts`))],
    [
      "sync",
      () => {
        throw new TypeError(SECRET);
      },
    ],
    ["text", () => Promise.reject(SECRET)],
    ["nothing", () => Promise.reject(undefined)],
    ["lookalike", () => Promise.reject({ code: "TIMEOUT", message: SECRET, name: "ArcpError" })],
    ["circular-result", () => circular],
    ["bigint-result", () => ({ big: 10n })],
    [
      "hostile-result",
      () => ({
        toJSON() {
          throw new Error(SECRET);
        },
      }),
    ],
    ["circular-details", () => Promise.reject(new ArcpError("TIMEOUT", SECRET, { details: circular }))],
    ["huge-result", () => "x".repeat(2_000_000)],
    [
      "huge-details",
      () => Promise.reject(new ArcpError("TIMEOUT", SECRET, { details: { text: "x".repeat(2_000_000) } })),
    ],
  ];
  for (const [name, fail] of failures) {
    fixture.runtime.agent(name, fail);
    const { payload } = await client.terminal(await client.start(name));
    assert.equal(payload["final_status"], "error", name);
    assert.equal(payload["code"], "INTERNAL_ERROR", name);
    assert.equal(payload["retryable"], true, name);
    assert.doesNotMatch(JSON.stringify(payload), /x-secret|\/srv|TypeError|circular structure|BigInt/, name);
    assert(JSON.stringify(payload).length < 10_000, name);
  }
  assert.equal(fixture.runtime.runningJobs, 0);
  // The log says what clients are not told.
  assert(
    fixture.log.some(
      ({ level, fields }) => level === "error" && String((fields as { err: unknown }).err).includes(SECRET),
    ),
  );
});

/** A store whose appends wait until they are let through. */
function gated() {
  let open = true;
  let waiting: (() => void)[] = [];
  return {
    wrap: (store: Store): Store => {
      const { append } = store.jobs;
      store.jobs.append = async (batches) => {
        if (!open) await new Promise<void>((resolve) => waiting.push(resolve));
        return append(batches);
      };
      return store;
    },
    close: () => {
      open = false;
    },
    open: () => {
      open = true;
      for (const resolve of waiting) resolve();
      waiting = [];
    },
  };
}

/** How many of these promises have resolved, and how many were rejected. */
async function settled(promises: readonly Promise<unknown>[]): Promise<{ resolved: number; rejected: number }> {
  const count = { resolved: 0, rejected: 0 };
  for (const promise of promises) {
    promise.then(
      () => {
        count.resolved += 1;
      },
      () => {
        count.rejected += 1;
      },
    );
  }
  await turns();
  return count;
}

test("[JOB-16] emit resolves while fewer than 256 events are not stored, and goes on when there is room", async () => {
  const gate = gated();
  await using fixture = await runtimeFixture({ wrap: gate.wrap });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  gate.close();
  const emits = Array.from({ length: 300 }, (_, index) => job.log(`${index}`));
  let flushed = false;
  const flush = job.flush().then(() => {
    flushed = true;
  });
  assert.deepEqual(await settled(emits), { resolved: 255, rejected: 0 });
  assert.equal(flushed, false);
  gate.open();
  await Promise.all([...emits, flush]);
  await eventually(() => flushed, "the flush");
  assert.equal((await fixture.store.jobs.get(jobId))?.lastN, 300, "flush resolved before all was stored");
  await job.flush();
  end();
  await client.terminal(jobId);
  assert.equal(client.logged(jobId).length, 300);
});

test("[JOB-16] at 1,024 events that are not stored emit rejects and the job is aborted", async () => {
  const gate = gated();
  await using fixture = await runtimeFixture({ wrap: gate.wrap });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, fail } = await fixture.puppet(jobId);
  gate.close();
  const emits = Array.from({ length: 1_024 }, (_, index) => job.log(`${index}`));
  assert.deepEqual(await settled(emits), { resolved: 255, rejected: 0 });
  assert.equal(job.signal.aborted, false);
  await assert.rejects(job.log("one too many"), /await/);
  assert.equal(job.signal.aborted, true);
  gate.open();
  await Promise.all(emits);
  fail(job.signal.reason);
  const terminal = await client.terminal(jobId);
  assert.equal(code(terminal), "INTERNAL_ERROR");
  assert.equal(client.logged(jobId).length, 1_024);
});

test("[JOB-16] at 4 MiB that are not stored emit rejects and the job is aborted", async () => {
  const gate = gated();
  await using fixture = await runtimeFixture({ wrap: gate.wrap });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  gate.close();
  const text = "x".repeat(500_000);
  const emits = Array.from({ length: 8 }, () => job.log(text));
  assert((await settled(emits)).resolved < 4, "a window of megabytes");
  assert.equal(job.signal.aborted, false);
  await assert.rejects(job.log(text), ArcpError);
  assert.equal(job.signal.aborted, true);
  gate.open();
  end();
  assert.equal(code(await client.terminal(jobId)), "INTERNAL_ERROR");
});

test("[JOB-16] an agent that awaits nothing is aborted, and takes nobody with it", async () => {
  await using fixture = await runtimeFixture();
  const started = Promise.withResolvers<JobContext>();
  fixture.runtime.agent("careless", (_input, job) => {
    started.resolve(job);
    for (let index = 0; index < 5_000; index += 1) void job.log(`${index}`);
    return "done?";
  });
  const client = await fixture.connect();
  const jobId = await client.start("careless");
  const terminal = await client.terminal(jobId);
  assert.equal(code(terminal), "INTERNAL_ERROR");
  assert.equal(client.logged(jobId).length, 1_024);
  // Nor does one that goes on after its end, or that emits nonsense: an unhandled rejection would end the process.
  const job = await started.promise;
  void job.log("after the end");
  void job.thought(5 as unknown as string);
  await turns();
  await client.alive();
});

test("[JOB-16] the job's end waits for all its events, and is the last", async () => {
  const gate = gated();
  await using fixture = await runtimeFixture({ wrap: gate.wrap });
  const client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  gate.close();
  const emits = Array.from({ length: 700 }, (_, index) => job.log(`${index}`));
  end("done");
  await turns();
  assert.deepEqual(client.seqs(), []);
  gate.open();
  await client.terminal(jobId);
  await Promise.all(emits);
  assert.deepEqual(
    client.logged(jobId),
    Array.from({ length: 700 }, (_, index) => `${index}`),
  );
  assert.equal(client.of(jobId).at(-1)?.type, "job.result");
});

// -------------------------------------------------------------------------------------------- limits

test("[JOB-17] one more running job than a principal may have is refused; an ended one leaves room", async () => {
  await using fixture = await runtimeFixture();
  const client = await fixture.connect();
  const second = await fixture.connect();
  const ids = await Promise.all(Array.from({ length: 100 }, () => client.start("puppet")));
  for (const party of [client, second]) {
    const answer = await party.submit("puppet");
    assert.equal(code(answer), "INTERNAL_ERROR");
    assert.equal(answer.payload["retryable"], true);
    assert.equal(detailsOf(answer)["code"], "LIMIT_EXCEEDED");
    assert((detailsOf(answer)["retry_after_ms"] as number) > 0);
  }
  await (await fixture.connect({ token: "bob" })).start("puppet");
  assert.equal(fixture.puppets, 101);
  const [first] = ids as [string, ...string[]];
  (await fixture.puppet(first)).end();
  await client.terminal(first);
  await second.start("puppet");
});

test("[JOB-17] a refused submit does not use its idempotency key up", async () => {
  await using fixture = await runtimeFixture({ maxRunningJobsPerPrincipal: 1 });
  const client = await fixture.connect();
  const first = await client.start("puppet");
  assert.equal(detailsOf(await client.submit("echo", 1, { idempotency_key: "k" }))["code"], "LIMIT_EXCEEDED");
  (await fixture.puppet(first)).end();
  await client.terminal(first);
  await client.start("echo", 1, { idempotency_key: "k" });
});

test("[JOB-18] a connection that breaks never reaches an agent", async () => {
  await using fixture = await runtimeFixture();
  let client = await fixture.connect();
  const jobId = await client.start("puppet");
  const { job, end } = await fixture.puppet(jobId);
  for (let index = 0; index < 300; index += 1) {
    await job.log(`${index}`);
    if (index % 100 === 50) {
      client.pair.cut();
      await job.log("cut");
      await turns();
      client = await fixture.connect({ resume: client.resume(0) });
    }
  }
  assert.equal(job.signal.aborted, false);
  client.pair.cut();
  await job.flush();
  end("unharmed");
  await eventually(() => fixture.runtime.runningJobs === 0, "the job to end");
  const again = await fixture.connect({ resume: client.resume(0) });
  assert.equal((await again.terminal(jobId)).payload["result"], "unharmed");
  assert.equal(again.logged(jobId).length, 303);
});
