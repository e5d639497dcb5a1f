/**
 * Provisioned credentials over whole runtimes on one SQLite file: what is issued when, who sees values, where
 * none may ever be, and that each is revoked whatever happens (SPEC.md, CRD).
 */
import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";
import { Conversations } from "../src/conversation/index.ts";
import type { Logger } from "../src/logger.ts";
import { ArcpError, type Credential, type Envelope, FEATURES, TURN } from "../src/protocol/index.ts";
import type {
  CredentialProvisioner,
  CredentialRequest,
  CredentialRevocation,
  IssuedCredential,
} from "../src/runtime/credentials/provisioner.ts";
import { type AgentHandler, type JobContext, Runtime, type RuntimeOptions } from "../src/runtime/index.ts";
import { Database } from "../src/store/sqlite/database.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import type { Store } from "../src/store/store.ts";
import { ManualClock } from "../src/testing/manual-clock.ts";
import { memoryPair } from "../src/transport/memory.ts";
import { CrashableStore } from "./crashable-store.ts";
import { eventually, TestClient, turns } from "./runtime-fixture.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const WITHOUT = FEATURES.filter((feature) => feature !== "provisioned_credentials");
const ENDPOINT = "https://gateway.example/v1";

/** A gateway that does as the test says; by default as it should. */
class Gateway implements CredentialProvisioner {
  readonly asked: CredentialRequest[] = [];
  /** Values that are good, by credential. */
  readonly good = new Map<string, string[]>();
  readonly revocations: CredentialRevocation[] = [];
  /** Ids that are revoked for good. */
  readonly gone = new Set<string>();
  answer: (request: CredentialRequest, count: number) => Promise<IssuedCredential | IssuedCredential[]> = async (
    { jobId },
    count,
  ) => ({ scheme: "bearer", value: `sk-secret-${jobId}-${count}`, endpoint: ENDPOINT });
  onRevoke: (revocation: CredentialRevocation) => Promise<void> = async () => undefined;

  async issue(request: CredentialRequest): Promise<IssuedCredential | IssuedCredential[]> {
    this.asked.push(request);
    const answer = await this.answer(request, this.asked.length);
    if (!this.gone.has(request.credentialId)) {
      this.good.set(
        request.credentialId,
        [answer].flat().map(({ value }) => value),
      );
    }
    return answer;
  }

  async revoke(revocation: CredentialRevocation): Promise<void> {
    this.revocations.push(revocation);
    await this.onRevoke(revocation);
    this.gone.add(revocation.credentialId);
    this.good.delete(revocation.credentialId);
  }

  /** Everything that is good now. */
  get values(): string[] {
    return [...this.good.values()].flat();
  }
}

interface Running {
  job: JobContext;
  end(result?: unknown): void;
  fail(error: unknown): void;
}

interface NodeParts {
  /** @default false */
  conversations?: boolean;
}

/** One process on the place's file. */
class Node {
  readonly runtime: Runtime;
  readonly store: CrashableStore;
  readonly clients: TestClient[] = [];
  readonly conversations: Conversations | undefined;
  readonly #puppets = new Map<string, Running>();

  constructor(place: Place, options: Partial<RuntimeOptions>, parts: NodeParts) {
    this.store = new CrashableStore(place.open());
    this.runtime = new Runtime({
      backPressureThreshold: 1_000_000,
      auth: { authenticate: async (token) => ({ principal: token }) },
      provisioner: place.gateway,
      ...options,
      store: this.store,
      clock: place.clock,
      logger: place.logger,
    });
    if (parts.conversations === true) this.conversations = new Conversations(this.runtime);
    this.agent("echo", (input) => input);
    this.agent("puppet", (_, job) => new Promise((end, fail) => this.#puppets.set(job.id, { job, end, fail })));
  }

  agent(name: string, handler: AgentHandler): void {
    this.runtime.agent(name, handler);
  }

  async puppet(jobId: string): Promise<Running> {
    await eventually(() => this.#puppets.has(jobId), `${jobId} to start`);
    return this.#puppets.get(jobId) as Running;
  }

  async connect(token = "alice", options: { features?: readonly string[]; resume?: object } = {}): Promise<TestClient> {
    const pair = memoryPair({ auto: true });
    const client = new TestClient(pair);
    this.clients.push(client);
    this.runtime.accept(pair.b);
    const { features = FEATURES, resume } = options;
    client.hello({ token, features, rest: resume === undefined ? {} : { resume } });
    await client.message("session.welcome");
    return client;
  }
}

class Place {
  readonly clock = new ManualClock();
  readonly gateway = new Gateway();
  /** All that any runtime has logged, as text. */
  readonly lines: string[] = [];
  readonly nodes: Node[] = [];
  readonly folder: Awaited<ReturnType<typeof temporaryFolder>>;

  constructor(folder: Awaited<ReturnType<typeof temporaryFolder>>) {
    this.folder = folder;
  }

  get logger(): Logger {
    const take = (fields: object, message: string) => {
      this.lines.push(message, inspect(fields, { depth: 20, showHidden: true }), JSON.stringify(fields));
    };
    return { debug: take, info: take, warn: take, error: take };
  }

  open(): Store {
    return sqlite(join(this.folder.path, "test.db"), { clock: this.clock, logger: this.logger });
  }

  async start(options: Partial<RuntimeOptions> = {}, parts: NodeParts = {}): Promise<Node> {
    const node = new Node(this, options, parts);
    this.nodes.push(node);
    await node.runtime.start();
    return node;
  }

  /** Lets time pass until something holds. */
  async until(done: () => boolean, what: string): Promise<void> {
    for (let left = 600; left > 0 && !done(); left -= 1) await this.clock.advance(1_000);
    await eventually(done, what);
  }

  /** All that every client has received. */
  get frames(): string[] {
    return this.nodes.flatMap(({ clients }) => clients.flatMap(({ received }) => received.map(({ frame }) => frame)));
  }

  /** The ledger as it is stored. */
  async ledger(): Promise<{ credential_id: string; job_id: string; state: string }[]> {
    const db = new Database(join(this.folder.path, "test.db"), { readOnly: true });
    try {
      const rows = db.all<{ credential_id: string; job_id: string; state: string }>(
        "SELECT credential_id, job_id, state FROM credentials ORDER BY noted_at, credential_id",
      );
      return rows.map((row) => ({ ...row }));
    } finally {
      db.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    let stopped = false;
    const stopping = Promise.all(this.nodes.map(({ runtime }) => runtime.stop({ drainMs: 0 }))).finally(() => {
      stopped = true;
    });
    while (!stopped) await this.clock.advance(1_000);
    await stopping;
    await this.folder[Symbol.asyncDispose]();
  }
}

const newPlace = async (): Promise<Place> => new Place(await temporaryFolder());

const credentialsOf = ({ payload }: Envelope): Credential[] | undefined =>
  payload["credentials"] as Credential[] | undefined;

// ------------------------------------------------------------------------------------------ issuing

test("[CRD-1] the feature is offered only with a provisioner, and a session without it has nothing issued", async () => {
  await using place = await newPlace();
  const bare = await place.start({ provisioner: undefined } as unknown as Partial<RuntimeOptions>);
  const features = ({ payload }: Envelope) => (payload["capabilities"] as { features: string[] }).features;
  const plain = await bare.connect();
  assert.equal(features(await plain.message("session.welcome")).includes("provisioned_credentials"), false);
  assert.equal(credentialsOf(await plain.submit("echo")), undefined);

  const node = await place.start();
  const client = await node.connect();
  assert.equal(features(await client.message("session.welcome")).includes("provisioned_credentials"), true);
  const other = await node.connect("alice", { features: WITHOUT });
  const jobId = await other.start("puppet");
  assert.deepEqual([...(await node.puppet(jobId)).job.credentials], []);
  assert.equal(place.gateway.asked.length, 0);
});

test("[CRD-2] credentials come with job.accepted and are the agent's, made for that job", async () => {
  await using place = await newPlace();
  place.gateway.answer = async ({ jobId }) => [
    { scheme: "bearer", value: `sk-model-${jobId}`, endpoint: ENDPOINT, profile: "model", constraints: { rpm: 5 } },
    { scheme: "bearer", value: `sk-search-${jobId}`, endpoint: "https://search.example" },
  ];
  const node = await place.start();
  const client = await node.connect();
  const answer = await client.submit("puppet");
  assert.equal(answer.type, "job.accepted");
  const jobId = answer.job_id as string;
  const expected = [
    {
      id: `${jobId}.credential.1`,
      scheme: "bearer",
      value: `sk-model-${jobId}`,
      endpoint: ENDPOINT,
      profile: "model",
      constraints: { rpm: 5 },
    },
    { id: `${jobId}.credential.2`, scheme: "bearer", value: `sk-search-${jobId}`, endpoint: "https://search.example" },
  ];
  assert.deepEqual(credentialsOf(answer), expected);
  const { job } = await node.puppet(jobId);
  assert.deepEqual(job.credentials.all, expected);
  assert.equal(job.credentials.get(`${jobId}.credential.2`).value, `sk-search-${jobId}`);
  assert.throws(() => job.credentials.get("other"), /no credential of this job; it has job_/);
  const [asked] = place.gateway.asked;
  assert(asked !== undefined);
  const { signal, ...request } = asked;
  assert.equal(signal.aborted, false);
  assert.deepEqual(request, {
    credentialId: (await place.ledger())[0]?.credential_id,
    jobId,
    principal: "alice",
    agent: "puppet@1.0.0",
    lease: {},
    leaseExpiresAt: undefined,
    traceId: answer.trace_id,
  });
});

test("[CRD-3] the ledger has the credential's id before its provisioner is asked", async () => {
  await using place = await newPlace();
  const ledgers: unknown[] = [];
  const { answer } = place.gateway;
  place.gateway.answer = async (request, count) => {
    ledgers.push(await place.ledger());
    return answer(request, count);
  };
  const node = await place.start();
  const client = await node.connect();
  const jobId = await client.start("puppet");
  const [asked] = place.gateway.asked;
  assert.deepEqual(ledgers, [[{ credential_id: asked?.credentialId, job_id: jobId, state: "issuing" }]]);
  assert.deepEqual((await place.ledger())[0]?.state, "live");
});

test("[CRD-3] a process that dies while it issues leaves something to revoke, and another one revokes it", async () => {
  await using place = await newPlace();
  const first = await place.start();
  const client = await first.connect();
  place.gateway.answer = () => new Promise(() => undefined);
  client.send("job.submit", { agent: "puppet", input: null });
  await eventually(() => place.gateway.asked.length === 1, "the provisioner to be asked");
  await first.store.crash();
  await place.start();
  const [asked] = place.gateway.asked;
  await place.until(() => place.gateway.gone.has(asked?.credentialId ?? ""), "the revocation");
  assert.deepEqual(await place.ledger(), [], "nothing is kept of a job that never was");
});

test("[CRD-4] a provisioner that fails, is late or answers nonsense: the submit is rejected, retryable, and says nothing", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const secret = "sk-quoted-by-the-provisioner-0123";
  const { answer } = place.gateway;
  const wrong: (() => Promise<IssuedCredential>)[] = [
    async () => {
      throw Object.assign(new Error(`gateway said ${secret}`), { code: secret, name: secret });
    },
    () => {
      throw new Error(`not even a promise: ${secret}`);
    },
    async () => ({ scheme: "bearer", value: "sk-short", endpoint: ENDPOINT }),
    async () => ({ scheme: "bearer", value: secret, endpoint: `${ENDPOINT}?key=${secret}` }),
    () => new Promise(() => undefined),
  ];
  for (const [index, wrongly] of wrong.entries()) {
    place.gateway.answer = wrongly;
    const request = client.send("job.submit", { agent: "echo", input: null });
    await eventually(() => place.gateway.asked.length === index + 1, "the provisioner to be asked");
    await place.until(
      () => client.received.some(({ envelope }) => envelope.extensions?.["x-vendor.holdfast.in_reply_to"] === request),
      "the rejection",
    );
    const rejection = await client.reply(request);
    assert.equal(rejection.type, "job.error");
    assert.equal(rejection.payload["code"], "INTERNAL_ERROR");
    assert.equal(rejection.payload["retryable"], true);
    assert.match(rejection.payload["message"] as string, /No credentials could be had/);
    assert.deepEqual(rejection.payload["details"], { reason: "credentials_unavailable" });
    const asked = place.gateway.asked.at(-1);
    await place.until(() => place.gateway.gone.has(asked?.credentialId ?? ""), "its revocation");
  }
  assert.equal(place.gateway.asked.at(-1)?.signal.aborted, true, "it was told that it takes too long");
  const told = [...place.frames, ...place.lines].join("\n");
  assert.equal(told.includes(secret), false);
  assert.equal(told.includes("sk-short"), false);
  place.gateway.answer = answer;
  await client.terminal(await client.start("echo"));
});

test("[CRD-4] what is issued after its time is revoked again", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const issue = Promise.withResolvers<IssuedCredential>();
  place.gateway.answer = () => issue.promise;
  const request = client.send("job.submit", { agent: "echo", input: null });
  await eventually(() => place.gateway.asked.length === 1, "the provisioner to be asked");
  await place.until(() => place.gateway.revocations.length === 1, "the revocation");
  await client.reply(request);
  issue.resolve({ scheme: "bearer", value: "sk-much-too-late-0123", endpoint: ENDPOINT });
  await place.until(() => place.gateway.revocations.length === 2, "another revocation");
  assert.deepEqual(place.gateway.values, []);
});

test("[CRD-5] what was issued for a submit that was not taken, or was a repeat, is revoked", async () => {
  await using place = await newPlace();
  const node = await place.start({ maxRunningJobsPerPrincipal: 2 });
  const client = await node.connect();
  const first = await client.submit("puppet", null, { idempotency_key: "k" }, { id: "first" });
  const [value] = place.gateway.values;
  const again = await client.submit("puppet", null, { idempotency_key: "k" });
  assert.deepEqual(again.payload, first.payload, "the same payload, value included");
  assert.equal((await client.submit("puppet", 1, { idempotency_key: "k" })).payload["code"], "DUPLICATE_KEY");
  const before = client.received.length;
  client.send("job.submit", { agent: "puppet", input: null, idempotency_key: "k" }, { id: "first" });
  await client.until(() => client.received.length > before, "the stored reply");
  assert.deepEqual(client.received.at(-1)?.envelope, first, "the stored reply, value included");
  await client.start("puppet");
  assert.equal((await client.submit("puppet")).type, "job.error");
  await place.until(() => place.gateway.gone.size === 4, "the revocations");
  assert.equal(place.gateway.values.length, 2);
  assert(value !== undefined && place.gateway.values.includes(value), "the first job's is untouched");
});

// ------------------------------------------------------------------------------------------ revoking

test("[CRD-6] credentials are revoked however their job ends", async () => {
  await using place = await newPlace();
  const node = await place.start({ cancelGraceMs: 1_000 });
  const client = await node.connect();
  const ends: ((jobId: string, run: Running) => void)[] = [
    (_, run) => run.end("done"),
    (_, run) => run.fail(new Error("broken")),
    (_, run) => run.fail(new ArcpError("PERMISSION_DENIED", "no")),
    (jobId) => client.send("job.cancel", { job_id: jobId }),
  ];
  for (const [index, end] of ends.entries()) {
    const jobId = await client.start("puppet");
    assert.equal(place.gateway.values.length, 1);
    const run = await node.puppet(jobId);
    end(jobId, run);
    if (index === 3) await place.until(() => run.job.signal.aborted, "the signal");
    await place.until(() => place.gateway.values.length === 0, `the revocation after end ${index}`);
    assert.equal((await client.terminal(jobId)).job_id, jobId);
    assert.deepEqual(run.job.credentials.all, [], "nothing is left in memory");
  }
  const timed = await client.submit("puppet", null, { max_runtime_sec: 5 });
  await place.until(() => place.gateway.values.length === 0, "the revocation after a timeout");
  assert.equal((await client.terminal(timed.job_id as string)).payload["code"], "TIMEOUT");
  assert.deepEqual(new Set((await place.ledger()).map(({ state }) => state)), new Set(["revoked"]));
});

test("[CRD-6] a revocation that fails is tried again, later and later, also by the next process", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const tries: number[] = [];
  place.gateway.onRevoke = async () => {
    tries.push(place.clock.monotonic());
    throw new Error("the gateway is down");
  };
  const jobId = await client.start("puppet");
  (await node.puppet(jobId)).end();
  await client.terminal(jobId);
  await place.until(() => tries.length === 6, "six tries");
  const gaps = tries.slice(1).map((at, index) => at - (tries[index] ?? 0));
  assert.equal((gaps.at(-1) ?? 0) > 2 * (gaps[0] ?? 0), true, `${gaps}`);
  await node.store.crash();
  place.gateway.onRevoke = async () => undefined;
  await place.start();
  await place.until(() => place.gateway.values.length === 0, "the revocation by the next process");
});

test("[CRD-6] a revocation that is never answered is given up in time and tried again", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  place.gateway.onRevoke = () => new Promise(() => undefined);
  const jobId = await client.start("puppet");
  (await node.puppet(jobId)).end();
  await place.until(() => place.gateway.revocations.length === 2, "a second try");
  assert.equal(place.gateway.revocations[0]?.signal.aborted, true);
  place.gateway.onRevoke = async () => undefined;
  await place.until(() => place.gateway.values.length === 0, "the revocation");
});

test("[CRD-6] the credentials of a dead process's jobs are revoked by another, once", async () => {
  await using place = await newPlace();
  const first = await place.start();
  const second = await place.start();
  const third = await place.start();
  const client = await first.connect();
  await client.start("puppet");
  await client.start("puppet");
  await first.store.crash();
  await place.until(() => place.gateway.values.length === 0, "the revocations");
  await place.clock.advance(120_000);
  assert.equal(place.gateway.revocations.length, 2);
  assert.equal(second.runtime.runningJobs + third.runtime.runningJobs, 0);
});

test("[CRD-6] a runtime that stops revokes what its jobs had", async () => {
  const place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  await client.start("puppet");
  await place[Symbol.asyncDispose]();
  assert.deepEqual(place.gateway.values, []);
});

// ------------------------------------------------------------------------------------------- sending

test("[CRD-8] values are put into replies that are sent again after a resume", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const accepted = await client.submit("puppet");
  const frame = client.received.find(({ envelope }) => envelope === accepted)?.frame;
  const resumed = await node.connect("alice", { resume: client.resume(0) });
  const again = await resumed.message("job.accepted");
  assert.equal(resumed.received.find(({ envelope }) => envelope === again)?.frame, frame);
  assert.equal(credentialsOf(again)?.[0]?.value, place.gateway.values[0]);
});

test("[CRD-8] a subscriber gets them with the submitter's principal and the feature, nobody else", async () => {
  await using place = await newPlace();
  const node = await place.start({ visibility: () => "observable" });
  const client = await node.connect();
  const accepted = await client.submit("puppet");
  const jobId = accepted.job_id as string;
  const same = await (await node.connect()).ask("job.subscribe", { job_id: jobId, history: true });
  assert.equal(same.type, "job.subscribed");
  assert.deepEqual(credentialsOf(same), credentialsOf(accepted));
  const plain = await node.connect("alice", { features: WITHOUT });
  assert.equal(credentialsOf(await plain.ask("job.subscribe", { job_id: jobId })), undefined);
  const bob = await (await node.connect("bob")).ask("job.subscribe", { job_id: jobId, history: true });
  assert.equal(bob.type, "job.subscribed");
  assert.equal(credentialsOf(bob), undefined);
  // Nor does a look by another principal make anybody issue them.
  const second = await place.start({ visibility: () => "observable" });
  const stranger = await (await second.connect("bob")).ask("job.subscribe", { job_id: jobId, history: true });
  assert.equal(credentialsOf(stranger), undefined);
  assert.equal(place.gateway.asked.length, 1);
});

test("[CRD-8] a repeated key in a session without the feature, or after the job's end, gets none", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const first = await client.submit("puppet", null, { idempotency_key: "k" });
  const jobId = first.job_id as string;
  const plain = await node.connect("alice", { features: WITHOUT });
  const { credentials: _, ...rest } = first.payload;
  assert.deepEqual((await plain.submit("puppet", null, { idempotency_key: "k" })).payload, rest);
  (await node.puppet(jobId)).end();
  await client.terminal(jobId);
  assert.deepEqual((await client.submit("puppet", null, { idempotency_key: "k" })).payload, rest);
});

test("[CRD-9] a process without the values issues anew, and leaves the agent's alone; one that dies is replaced", async () => {
  await using place = await newPlace();
  const home = await place.start();
  const client = await home.connect();
  const accepted = await client.submit("puppet");
  const jobId = accepted.job_id as string;
  const [original] = place.gateway.values;
  const second = await place.start();
  const there = await second.connect("alice", { resume: client.resume(0) });
  const again = await there.message("job.accepted");
  const [renewed] = credentialsOf(again) ?? [];
  assert.equal(renewed?.id, `${jobId}.credential.1`);
  assert.notEqual(renewed?.value, original);
  assert.deepEqual(new Set(place.gateway.values), new Set([original, renewed?.value]));
  const subscribed = await (await second.connect()).ask("job.subscribe", { job_id: jobId });
  assert.deepEqual(credentialsOf(subscribed), [renewed], "issued once for that process");

  await second.store.crash();
  const third = await place.start();
  await place.clock.advance(60_000);
  const back = await (await third.connect()).ask("job.subscribe", { job_id: jobId });
  const [newest] = credentialsOf(back) ?? [];
  await place.until(() => place.gateway.values.length === 2, "the dead process's to be revoked");
  assert.deepEqual(new Set(place.gateway.values), new Set([original, newest?.value]));
  const run = await home.puppet(jobId);
  assert.equal(run.job.credentials.all[0]?.value, original);
  run.end();
  await place.until(() => place.gateway.values.length === 0, "all to be revoked");
});

test("[CRD-9] an answer that waits for values keeps its place: no other answer and no event overtakes it", async () => {
  await using place = await newPlace();
  const home = await place.start();
  const client = await home.connect();
  const jobId = await client.start("puppet");
  await (await home.puppet(jobId)).job.log("before");
  await client.until(() => client.logged(jobId).length === 1, "the event");
  const second = await place.start();
  const issue = Promise.withResolvers<IssuedCredential>();
  place.gateway.answer = () => issue.promise;
  const resumed = await second.connect("alice", { resume: client.resume(0) });
  await eventually(() => place.gateway.asked.length === 2, "the provisioner to be asked");
  const listing = resumed.ask("session.list_jobs", {});
  await resumed.alive();
  await turns(200);
  assert.deepEqual(
    resumed.received.map(({ envelope }) => envelope.type),
    ["session.welcome", "session.pong"],
  );
  issue.resolve({ scheme: "bearer", value: "sk-issued-anew-0123456789", endpoint: ENDPOINT });
  await listing;
  await resumed.until(() => resumed.logged(jobId).length === 1, "the replay");
  const order = resumed.received.slice(2).map(({ envelope }) => envelope.type);
  assert.deepEqual(order.slice(0, 1), ["job.accepted"]);
  assert.deepEqual(order.slice(1).sort(), ["job.event", "session.jobs"]);
});

test("[CRD-9] where none can be had anew, the answer goes without", async () => {
  await using place = await newPlace();
  const home = await place.start();
  const client = await home.connect();
  const accepted = await client.submit("puppet");
  place.gateway.answer = async () => {
    throw new Error("the gateway is down");
  };
  const second = await place.start();
  const subscribed = await (await second.connect()).ask("job.subscribe", { job_id: accepted.job_id });
  assert.equal(subscribed.type, "job.subscribed");
  assert.equal(credentialsOf(subscribed), undefined);
});

test("[CRD-10] a rotation keeps the ids, tells the submitter the new value live and in replay, and revokes the old one", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const accepted = await client.submit("puppet");
  const jobId = accepted.job_id as string;
  const plain = await node.connect("alice", { features: WITHOUT });
  await plain.ask("job.subscribe", { job_id: jobId });
  const run = await node.puppet(jobId);
  const [before] = place.gateway.values;
  const [rotated] = await run.job.credentials.rotate();
  assert.deepEqual(run.job.credentials.all, [rotated]);
  const isRotation = ({ payload }: Envelope) => (payload["body"] as { phase?: string })?.phase === "credential_rotated";
  const body = async (of: TestClient) => (await of.waitFor(isRotation, "the rotation")).payload["body"];
  const told = { phase: "credential_rotated", credential_id: `${jobId}.credential.1` };
  assert.deepEqual(await body(client), { ...told, value: rotated?.value });
  assert.deepEqual(await body(plain), told);
  await place.until(() => place.gateway.values.length === 1, "the old value to be revoked");
  assert.deepEqual(place.gateway.values, [rotated?.value]);
  assert.notEqual(rotated?.value, before);

  const [newest] = await run.job.credentials.rotate();
  await eventually(() => client.numbered().filter(isRotation).length === 2, "the second rotation");
  const resumed = await node.connect("alice", { resume: client.resume(0) });
  await eventually(() => resumed.received.filter(({ envelope }) => isRotation(envelope)).length === 2, "the replay");
  const replayed = resumed.received.map(({ envelope }) => envelope).filter(isRotation);
  assert.deepEqual(
    replayed.map(({ id, payload }) => [id, (payload["body"] as { value: string }).value]),
    client
      .numbered()
      .filter(isRotation)
      .map(({ id }) => [id, newest?.value]),
    "the same numbers, the newest value",
  );
  run.end();
  await place.until(() => place.gateway.values.length === 0, "the revocation");
});

test("[CRD-10] a rotation that fails leaves the credentials as they are; a job without any has nothing to rotate", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const run = await node.puppet(await client.start("puppet"));
  const before = run.job.credentials.all;
  const { answer } = place.gateway;
  place.gateway.answer = async (request, count) => [
    { ...(await answer(request, count)), scheme: "bearer" } as IssuedCredential,
    { scheme: "bearer", value: `sk-one-too-many-${count}`, endpoint: ENDPOINT },
  ];
  await assert.rejects(run.job.credentials.rotate(), { code: "INTERNAL_ERROR" });
  assert.equal(run.job.credentials.all, before);
  await place.until(() => place.gateway.values.length === 1, "the revocation of what was issued in vain");
  const plain = await node.connect("alice", { features: WITHOUT });
  const other = await node.puppet(await plain.start("puppet"));
  await assert.rejects(other.job.credentials.rotate(), { code: "INVALID_REQUEST" });
});

test("[CRD-10] rotations at the same time come one after the other; one that its job's end overtakes is revoked", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const jobId = await client.start("puppet");
  const run = await node.puppet(jobId);
  const [first, second] = await Promise.all([run.job.credentials.rotate(), run.job.credentials.rotate()]);
  assert.notEqual(first[0]?.value, second[0]?.value);
  assert.deepEqual(run.job.credentials.all, second);
  await place.until(() => place.gateway.values.length === 1, "the revocation of those before");
  assert.deepEqual(place.gateway.values, [second[0]?.value]);

  const issue = Promise.withResolvers<IssuedCredential>();
  place.gateway.answer = () => issue.promise;
  const rotation = run.job.credentials.rotate();
  rotation.catch(() => undefined);
  await eventually(() => place.gateway.asked.length === 4, "the provisioner to be asked");
  run.end();
  await client.terminal(jobId);
  issue.resolve({ scheme: "bearer", value: "sk-overtaken-by-the-end", endpoint: ENDPOINT });
  await assert.rejects(rotation, (error: unknown) => error instanceof ArcpError);
  assert.deepEqual(run.job.credentials.all, []);
  await place.until(() => place.gateway.values.length === 0, "all to be revoked");
});

// ----------------------------------------------------------------------------------------- redaction

/** The forms in which a value could lie about. */
const formsOf = (value: string): string[] => {
  const once = JSON.stringify(value).slice(1, -1);
  return [value, once, JSON.stringify(once).slice(1, -1), encodeURIComponent(value)];
};

const SECRETS: Record<string, string> = {
  plain: "sk-grep-me-0123456789abcdef",
  quotes: 'sk"grep\\me"0123456789',
  unicode: "ключ-grep-🔑-0123456789-é",
  lines: "sk\ngrep\tme\u00010123456789",
};

for (const [name, secret] of Object.entries(SECRETS)) {
  test(`[CRD-7] a value (${name}) is in no file, log line, span or frame but the submitter's own`, async () => {
    await using place = await newPlace();
    let count = 0;
    const secrets: string[] = [];
    place.gateway.answer = async () => {
      count += 1;
      secrets.push(`${secret}-${count}`);
      return { scheme: "bearer", value: `${secret}-${count}`, endpoint: ENDPOINT };
    };
    const spans: string[] = [];
    const note = (...told: unknown[]) => void spans.push(inspect(told, { depth: 20 }));
    const node = await place.start({
      visibility: () => "observable",
      tracing: {
        sessionStarted: () => ({ ended: () => undefined }),
        jobStarted: (job) => ({
          traceparent: `00-${job.parent.traceId}-0000000000000001-01`,
          run: (work) => work(),
          async operation(name, attributes, work) {
            note(name, attributes);
            try {
              return await work();
            } catch (error) {
              note(error);
              throw error;
            }
          },
          ended: note,
        }),
      },
    });
    node.agent("leaky", async (input, job) => {
      const value = job.credentials.all[0]?.value ?? "";
      await job.log(`using ${value}`, { attributes: { [value]: value } });
      await job.thought(`the key is ${JSON.stringify(value)}`);
      await job.toolCall({ tool: "curl", args: ["-H", `Authorization: Bearer ${value}`], call_id: "1" });
      await job.toolResult({ call_id: "1", result: JSON.stringify({ echoed: JSON.stringify({ value }) }) });
      await job.status({ phase: "working", message: encodeURIComponent(value), value });
      await job.emit("x-vendor.acme.trace", { deep: [[{ value }]] });
      const [rotated] = await job.credentials.rotate();
      await job.log(`now ${rotated?.value}, before ${value}`);
      void job.emit("status", { phase: "", message: value }).catch(() => undefined);
      await job.fetch(`https://gateway.example/?key=${encodeURIComponent(value)}`).catch(() => undefined);
      const chunk = (seq: number, data: string, more: boolean) =>
        job.emit("result_chunk", { result_id: "r", chunk_seq: seq, data, encoding: "utf8", more });
      switch (input) {
        case "chunks":
          await chunk(0, value, true);
          await chunk(1, "end", false);
          return undefined;
        case "error":
          throw new Error(`could not reach the gateway with ${value} or ${rotated?.value}`, { cause: { value } });
        case "refusal":
          throw new ArcpError("PERMISSION_DENIED", `denied for ${value}`, { details: { key: value, [value]: 1 } });
        default:
          return { key: value, text: `(${rotated?.value})` };
      }
    });
    const client = await node.connect();
    const same = await node.connect();
    const bob = await node.connect("bob");
    const jobIds: string[] = [];
    for (const input of ["result", "error", "refusal", "chunks"]) {
      const jobId = await client.start("leaky", input, { idempotency_key: input });
      jobIds.push(jobId);
      await same.ask("job.subscribe", { job_id: jobId, history: true });
      const observed = await bob.ask("job.subscribe", { job_id: jobId, history: true });
      assert.equal(observed.type, "job.subscribed");
      await client.terminal(jobId);
      await bob.terminal(jobId);
      await client.submit("leaky", input, { idempotency_key: input });
    }
    await same.ask("session.list_jobs", {});
    await bob.ask("session.list_jobs", {});
    const resumed = await node.connect("alice", { resume: client.resume(0) });
    await eventually(() => jobIds.every((id) => resumed.of(id).length === client.of(id).length), "the replay");
    const told = JSON.stringify([
      await node.runtime.jobs.list("alice"),
      ...(await Promise.all(jobIds.map((id) => node.runtime.jobs.result(id, "alice")))),
      ...(await Promise.all(jobIds.map((id) => node.runtime.jobs.get(id, "alice")))),
    ]);
    assert.match(told, /\[credential job_/, "what was masked has a name");
    assert.match(spans.join(), /\[credential job_/, "spans told of it, too");
    await place.until(() => place.gateway.values.length === 0, "the revocations");

    const backup = new Database(join(place.folder.path, "test.db"));
    backup.script(`VACUUM INTO '${join(place.folder.path, "backup.db")}'`);
    backup.close();
    const files = await Promise.all(
      (await readdir(place.folder.path)).map(async (file) => readFile(join(place.folder.path, file), "latin1")),
    );
    assert.equal(files.length >= 3, true, "database, log and backup were searched");
    const mine = (frame: string) => {
      // What the submitter is meant to see: its credentials, in accepted, subscribed and rotations.
      const { payload, ...rest } = JSON.parse(frame) as Envelope;
      const { credentials: _, body, ...left } = payload as { credentials?: unknown; body?: object };
      const { value: __, ...shown } = (body ?? {}) as { phase?: string; value?: unknown };
      return JSON.stringify({ ...rest, left, body: shown.phase === "credential_rotated" ? shown : body });
    };
    const frames = [
      ...[client, same, resumed].flatMap(({ received }) => received.map(({ frame }) => mine(frame))),
      ...bob.received.map(({ frame }) => frame),
    ];
    const accepted = await client.message("job.accepted");
    assert.equal(credentialsOf(accepted)?.[0]?.value, secrets[0], "the submitter was told");
    const found: string[] = [];
    for (const value of secrets) {
      for (const form of formsOf(value)) {
        const bytes = Buffer.from(form).toString("latin1");
        if (files.some((file) => file.includes(bytes))) found.push(`a file has ${form}`);
        for (const line of place.lines) if (line.includes(form)) found.push(`a log line has ${form}: ${line}`);
        for (const frame of frames) if (frame.includes(form)) found.push(`a frame has ${form}: ${frame}`);
        if (told.includes(form)) found.push(`/v1 tells ${form}`);
        for (const span of spans) if (span.includes(form)) found.push(`a span has ${form}: ${span}`);
      }
    }
    assert.deepEqual(found, []);
  });
}

test("[CRD-2] a child of a job with credentials has its own, and what its parent hands it is kept without the value", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const client = await node.connect();
  const jobId = await client.start("puppet", null, { lease_request: { "agent.delegate": ["**"] } });
  const { job, end } = await node.puppet(jobId);
  const [own] = job.credentials.all;
  assert(own !== undefined);
  const child = await job.delegate("puppet", { key: own.value });
  const accepted = await client.waitFor(({ payload }) => payload["parent_job_id"] === jobId, "the child");
  const puppet = await node.puppet(child.jobId);
  assert.deepEqual(credentialsOf(accepted), puppet.job.credentials.all);
  assert.notEqual(puppet.job.credentials.all[0]?.value, own.value);
  const db = new Database(join(place.folder.path, "test.db"), { readOnly: true });
  try {
    const kept = JSON.stringify(db.all("SELECT input, accepted_payload FROM jobs"));
    assert.equal(kept.includes("sk-secret-"), false, kept);
  } finally {
    db.close();
  }
  // A child that the store refuses leaves nothing behind.
  await assert.rejects(job.delegate("puppet", null, { delegateId: child.delegateId }));
  puppet.end();
  end();
  await client.terminal(jobId);
  await place.until(() => place.gateway.values.length === 0, "every credential to be revoked");
});

test("[CRD-7] what a client hands in is kept without the value: an input, a reason, a refused name, a vendor's answer", async () => {
  await using place = await newPlace();
  const node = await place.start();
  const inputs: unknown[] = [];
  node.agent("takes", (input) => {
    inputs.push(input);
    return "taken";
  });
  node.runtime.extension("x-vendor.acme.ask", { handle: (payload) => payload, reply: "x-vendor.acme.told" });
  const client = await node.connect();
  const jobId = await client.start("puppet");
  const { job } = await node.puppet(jobId);
  const value = job.credentials.all[0]?.value ?? assert.fail("no credential");
  const input = { key: value, deep: JSON.stringify({ value }) };
  await client.terminal(await client.start("takes", input));
  assert.deepEqual(inputs, [input], "the agent gets its input as it was given");
  const refused = await client.submit(value);
  assert.equal(refused.payload["code"], "AGENT_NOT_AVAILABLE");
  const told = await client.ask("x-vendor.acme.ask", { echo: value });
  assert.match(String(told.payload["echo"]), /^\[credential job_/);
  const other = await client.start("puppet");
  await node.puppet(other);
  await node.runtime.jobs.cancel(other, "alice", `not with ${value}`);
  const cancelled = await client.ask("job.cancel", { job_id: jobId, reason: `nor with ${value}` });
  assert.match(String(cancelled.payload["reason"]), /^nor with \[credential job_/);

  const db = new Database(join(place.folder.path, "test.db"), { readOnly: true });
  try {
    for (const { name } of db.all<{ name: string }>("SELECT name FROM sqlite_schema WHERE type = 'table'")) {
      const kept = inspect(db.all(`SELECT * FROM "${name}"`), { depth: null, maxArrayLength: null });
      assert.equal(kept.includes("sk-secret-"), false, `${name}: ${kept}`);
    }
    assert.match(JSON.stringify(db.all("SELECT input FROM jobs")), /\[credential job_/);
    const reasons = JSON.stringify(db.all("SELECT cancel_reason FROM job_heads"));
    for (const text of ["not with [credential", "nor with [credential"]) assert(reasons.includes(text), reasons);
  } finally {
    db.close();
  }
});

const KEY = { source: "cli", name: "notes" } as const;

/** Submits a turn that must be accepted, and answers its job's id. */
async function speak(client: TestClient): Promise<string> {
  const answer = await client.submit("puppet", null, {}, { extensions: { [TURN]: { key: KEY } } });
  assert.equal(answer.type, "job.accepted", JSON.stringify(answer));
  return answer.job_id as string;
}

test("[CRD-11] a turn that was cancelled while it waited has its credentials revoked, and they are sent no more", async () => {
  await using place = await newPlace();
  const node = await place.start({}, { conversations: true });
  const client = await node.connect();
  const first = await speak(client);
  const second = await speak(client);
  assert.equal(place.gateway.values.length, 2);
  await client.ask("job.cancel", { job_id: second });
  await client.terminal(second);
  await place.until(() => place.gateway.values.length === 1, "the waiting turn's credentials to be revoked");
  const other = await node.connect();
  const answer = await other.ask("job.subscribe", { job_id: second, history: true });
  assert.equal(answer.payload["credentials"], undefined, "a value of a job that has ended");
  (await node.puppet(first)).end();
  await client.terminal(first);
});

test("[CRD-11] a turn that another process runs than took it has its credentials", async () => {
  await using place = await newPlace();
  const one = await place.start({}, { conversations: true });
  const client = await one.connect();
  const first = await speak(client);
  const second = await speak(client);
  await one.puppet(first);
  const two = await place.start({}, { conversations: true });
  let stopped = false;
  const stopping = one.runtime.stop({ drainMs: 0 }).then(() => {
    stopped = true;
  });
  await place.until(() => stopped, "the first process to stop");
  await stopping;
  const running = two.puppet(second);
  for (let second = 0; second < 5; second += 1) await place.clock.advance(1_000);
  const { job, end } = await running;
  const [credential] = job.credentials.all;
  assert(credential?.value !== undefined && place.gateway.values.includes(credential.value), "it is not good");
  end();
  await place.until(() => place.gateway.values.length === 0, "every credential to be revoked");
});

test("[CRD-7] what is kept of an adapter's turn, and of a lock that was broken, has no value in it", async () => {
  await using place = await newPlace();
  const node = await place.start({}, { conversations: true });
  const conversations = node.conversations ?? assert.fail("none");
  const client = await node.connect();
  const jobId = await speak(client);
  const { job } = await node.puppet(jobId);
  const value = job.credentials.all[0]?.value ?? assert.fail("no credential");
  const input = { said: value };
  const next = await conversations.startTurn({ key: KEY, principal: "alice", agent: "puppet", input });
  await conversations.locks.breakLock(next.conversationId, { principal: "boss", reason: `it leaks ${value}` });
  const end = await client.terminal(jobId);
  assert.match(String(end.payload["message"]), /it leaks \[credential job_/);
  const db = new Database(join(place.folder.path, "test.db"), { readOnly: true });
  try {
    const kept = inspect([db.all("SELECT input FROM jobs"), db.all("SELECT payload FROM events")], { depth: null });
    assert.equal(kept.includes(value), false, kept);
    assert.match(kept, /said.*\[credential job_/);
  } finally {
    db.close();
  }
  (await node.puppet(next.jobId)).end();
});
