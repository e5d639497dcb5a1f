/**
 * Everything that locks rows, at once and over the same few of them, from several pools: nobody may wait for somebody
 * who waits for him, and what comes of it has to be right. PostgreSQL breaks a deadlock by failing one of the two and
 * says so, so a single one fails the test, though the engine would try again.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import { type PostgresDatabase, type PostgresServer, queryOnce } from "../../../test/postgres.ts";
import { Random } from "../../../test/random.ts";
import { sharedPostgres } from "../../../test/shared-postgres.ts";
import { systemClock } from "../../clock.ts";
import {
  type ConnectionRef,
  type DeliverySettlement,
  type NewTurn,
  type OnBusy,
  type Store,
  StoreRefusal,
  type SubmitRequest,
} from "../store.ts";
import { postgres } from "./index.ts";

const SEED = 20_261_121;
const STORES = 3;
const WORKERS = 18;
const OPERATIONS = 150;
const CONVERSATIONS = ["c_1", "c_2", "c_3"];
const SESSIONS = 2;
const AGENT = "report@1";
const ERROR = JSON.stringify({ final_status: "error", code: "INTERNAL_ERROR", message: "m", retryable: true });
/** So short that some run out in the middle of things. */
const TTL_MS = 60;
const DEADLINE_MS = 90_000;

const now = () => systemClock.wall();
const token = (name: string) => createHash("sha256").update(name).digest();

/** A refusal is an answer like any other here. */
async function allowed<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (error instanceof StoreRefusal) return undefined;
    throw error;
  }
}

/** What the workers have to go on: ids, as they come. */
class World {
  readonly stores: readonly Store[];
  readonly sessions: (ConnectionRef & { lastSeq: number })[] = [];
  readonly jobs: string[] = [];
  readonly nodes: string[] = [];
  readonly deliveries: string[] = [];
  /** Who was given the lock, by conversation and epoch. */
  readonly #holders = new Map<string, string>();
  #lastId = 0;

  constructor(stores: readonly Store[]) {
    this.stores = stores;
  }

  fresh(what: string): string {
    this.#lastId += 1;
    return `${what}_${this.#lastId}`;
  }

  /** A lock was given under that epoch: to nobody else was it, not even before its conversation was deleted. */
  given(conversationId: string, lockEpoch: number, holder: string): void {
    const epoch = `${conversationId} ${lockEpoch}`;
    assert.equal(this.#holders.get(epoch) ?? holder, holder, `the lock of ${epoch} was given to two`);
    this.#holders.set(epoch, holder);
  }

  async enterNode(store: Store): Promise<void> {
    const nodeId = this.fresh("node");
    await store.nodes.register({ nodeId, pid: 1, host: "host", now: now() });
    this.nodes.push(nodeId);
  }

  async enterSession(store: Store, nodeId: string): Promise<void> {
    const sessionId = this.fresh("sess");
    const session = await allowed(
      store.sessions.create({
        sessionId,
        principal: "alice",
        clientName: "client",
        clientVersion: "1",
        features: ["ack"],
        tokenHash: token(sessionId),
        nodeId,
        resumeWindowMs: 600_000,
        now: now(),
        maxSessionsPerPrincipal: 1_000,
      }),
    );
    if (session !== undefined) this.sessions.push({ sessionId, connectionEpoch: session.connectionEpoch, lastSeq: 0 });
  }
}

type Operation = (world: World, store: Store, random: Random) => Promise<unknown>;

const newJob = (jobId: string, restarts = 0) => ({
  jobId,
  agent: AGENT,
  input: "null",
  lease: {},
  traceId: jobId,
  restarts,
});

function newTurn(world: World, random: Random): NewTurn {
  const conversationId = random.pick(CONVERSATIONS);
  const deliveryId = world.fresh("dlv");
  if (random.next() < 0.5) world.deliveries.push(deliveryId);
  return {
    conversation: { conversationId, source: "slack", key: undefined, principal: undefined, userId: "ann", now: now() },
    onBusy: random.pick<OnBusy>(["reject", "enqueue", "enqueue", "interrupt"]),
    messageId: random.next() < 0.5 ? undefined : `m_${random.int(1, 200)}`,
    userId: "ann",
    maxQueued: 5,
    ttlMs: TTL_MS,
    lostPayload: ERROR,
    delivery:
      world.deliveries.at(-1) === deliveryId ? { deliveryId, channel: "slack", routeKey: "r", route: "{}" } : undefined,
  };
}

/** One of the newest, where most of what is alive is. */
const recent = (jobs: readonly string[], random: Random): string =>
  random.pick(jobs.length === 0 ? ["none"] : jobs.slice(-5));

function identity(world: World, random: Random) {
  const { sessionId, connectionEpoch } = random.pick(world.sessions);
  return { sessionId, connectionEpoch, messageId: world.fresh("msg"), now: now() };
}

async function submit(world: World, store: Store, random: Random): Promise<void> {
  const jobId = world.fresh("job");
  const request: SubmitRequest = {
    ...identity(world, random),
    principal: "alice",
    nodeId: random.pick(world.nodes),
    job: newJob(jobId, random.int(0, 2)),
    acceptedPayload: "{}",
    maxRunningJobsPerPrincipal: 40,
    reply: ({ outcome }) => ({ frame: outcome }),
    turn: random.next() < 0.6 ? newTurn(world, random) : undefined,
    // Some are given up while they are being stored.
    abandoned: () => random.next() < 0.05,
    idempotency: random.next() < 0.2 ? { key: `k_${random.int(1, 5)}`, digest: "d", ttlMs: 200 } : undefined,
  };
  const answer = await allowed(store.requests.submit(request));
  if (answer?.outcome !== "created") return;
  world.jobs.push(jobId);
  if (answer.place?.state === "running") world.given(answer.place.conversationId, answer.place.lockEpoch, jobId);
}

async function startTurn(world: World, store: Store, random: Random): Promise<void> {
  const jobId = world.fresh("job");
  const answer = await allowed(
    store.conversations.startTurn({
      turn: newTurn(world, random),
      principal: "alice",
      nodeId: random.pick(world.nodes),
      job: newJob(jobId, random.int(0, 2)),
      acceptedPayload: "{}",
      maxRunningJobsPerPrincipal: 40,
      now: now(),
    }),
  );
  if (answer?.outcome !== "created") return;
  world.jobs.push(jobId);
  if (answer.place.state === "running") world.given(answer.place.conversationId, answer.place.lockEpoch, jobId);
}

/** Appends to several logs at once, in no order, and ends some of the jobs. */
async function append(world: World, store: Store, random: Random): Promise<void> {
  const jobIds = new Set(Array.from({ length: random.int(1, 6) }, () => recent(world.jobs, random)));
  const batches = [];
  for (const jobId of jobIds) {
    const job = await store.jobs.get(jobId);
    // Nobody has an attempt of a job that waits.
    if (job === undefined || job.status === "pending") continue;
    const ends = random.next() < 0.35;
    const events = Array.from({ length: random.int(1, 3) }, (_, i) => ({
      n: job.lastN + 1 + i,
      kind: "log",
      payload: "{}",
    }));
    const last = events.at(-1);
    if (ends && last !== undefined) last.kind = "job.result";
    batches.push({
      jobId,
      runEpoch: job.runEpoch,
      events,
      now: now(),
      ...(ends ? { end: "success" as const, handOver: { nodeId: random.pick(world.nodes), agents: [AGENT] } } : {}),
    });
  }
  for (const result of await store.jobs.append(batches)) {
    if (!result.ok || result.next === undefined) continue;
    const { conversationId, lockEpoch, job } = result.next;
    world.given(conversationId, lockEpoch, job.jobId);
  }
}

/** What a tail does, over all that its session follows. */
async function storeRuns(world: World, store: Store, random: Random): Promise<void> {
  const known = random.pick(world.sessions);
  const { sessionId } = known;
  const session = await allowed(
    store.sessions.attach({
      sessionId,
      principal: "alice",
      presentedTokenHash: token(sessionId),
      nextTokenHash: token(sessionId),
      lastEventSeq: known.lastSeq,
      nodeId: random.pick(world.nodes),
      now: now(),
    }),
  );
  if (session === undefined) return;
  known.connectionEpoch = session.connectionEpoch;
  known.lastSeq = Math.max(known.lastSeq, session.lastSeq);
  const ref = { sessionId, connectionEpoch: session.connectionEpoch };
  let seq = session.lastSeq;
  const runs = [];
  for (const { jobId, positionN } of session.follows) {
    const job = await store.jobs.get(jobId);
    if (job === undefined || job.lastN <= Math.max(positionN, job.floorN)) continue;
    const firstN = Math.max(positionN, job.floorN) + 1;
    const count = job.lastN - firstN + 1;
    runs.push({ firstSeq: seq + 1, count, jobId, firstN, lastN: job.lastN, endsFollow: job.endedAt !== undefined });
    seq += count;
  }
  await allowed(store.sessions.storeRuns(ref, runs, (child) => child.acceptedPayload));
  await allowed(store.sessions.ack(ref, random.int(0, seq)));
}

async function claimTurns(world: World, store: Store, random: Random): Promise<void> {
  const claim = { nodeId: random.pick(world.nodes), agents: [AGENT], limit: 10, lostPayload: ERROR, now: now() };
  const claimed = await allowed(store.conversations.claimTurns(claim));
  for (const turn of claimed?.turns ?? []) world.given(turn.conversationId, turn.lockEpoch, turn.job.jobId);
}

/** What an attempt does besides appending: it keeps how far it is, and ends without its job. */
async function attempt(world: World, store: Store, random: Random): Promise<void> {
  const job = await store.jobs.get(recent(world.jobs, random));
  if (job === undefined || job.status !== "running") return;
  const { jobId, runEpoch } = job;
  await allowed(store.jobs.checkpoint({ jobId, runEpoch, value: "1" }));
  if (random.next() < 0.5) await allowed(store.jobs.giveBack({ jobId, runEpoch, payload: "{}" }));
  await store.jobs.descendants(jobId);
}

/** Ends turns as if nobody offered their agent. */
async function endUnserved(_world: World, store: Store, _random: Random): Promise<void> {
  for (const { jobId, runEpoch } of await store.conversations.unserved({ agents: [], now: now(), limit: 2 })) {
    await store.conversations.endUnserved({ jobId, runEpoch, jobErrorPayload: ERROR, now: now() });
  }
}

const claimJobs = (world: World, store: Store, random: Random) =>
  allowed(store.jobs.claim({ nodeId: random.pick(world.nodes), agents: [AGENT], limit: random.int(1, 5) }));

/** What is done with answers on their way, and with those that are shown while their turn runs. */
async function deliveries(world: World, store: Store, random: Random): Promise<void> {
  const nodeId = random.pick(world.nodes);
  const [shown = "none", other = "none"] = world.deliveries.slice(-6).sort(() => random.next() - 0.5);
  const until = random.next() < 0.5 ? now() + 20 : undefined;
  const streamed = { runEpoch: 1, until, receipt: "{}", unclear: false, now: now() };
  await store.deliveries.stream({ deliveryId: shown, ...streamed });
  const due = await store.deliveries.due({ channels: ["slack"], limit: 10, now: now() });
  const deliveryIds = [...due.map(({ deliveryId }) => deliveryId), other].reverse();
  const claimed = await allowed(store.deliveries.claim({ deliveryIds, nodeId, leaseMs: 30, now: now() }));
  for (const { deliveryId, attempt } of claimed ?? []) {
    const claim = { deliveryId, attempt, now: now() };
    const parts = [{ part: 1, receipt: "{}", final: true }];
    await store.deliveries.note({ ...claim, parts, leaseMs: 30 });
    const settlement = random.pick<DeliverySettlement>([
      { state: "delivered" },
      { state: "failed", error: "e", unclear: false },
      { state: "pending", dueAt: now(), error: "e", unclear: true, failed: true },
    ]);
    if (random.next() < 0.8) await store.deliveries.settle({ ...claim, settlement });
  }
  await allowed(store.deliveries.retry(shown, now()));
  if (random.next() < 0.2) await allowed(store.deliveries.discard(other, now()));
}

/** Takes two locks, refreshes them in either order, and gives back one. */
async function locks(world: World, store: Store, random: Random): Promise<void> {
  const nodeId = random.pick(world.nodes);
  const held = [];
  for (const conversationId of [random.pick(CONVERSATIONS), random.pick(CONVERSATIONS)]) {
    const holder = world.fresh("holder");
    const claim = { conversationId, holder, nodeId, ttlMs: TTL_MS, lostPayload: ERROR, now: now() };
    const taken = await allowed(store.conversations.acquire(claim));
    if (taken === undefined) continue;
    world.given(conversationId, taken.lock.lockEpoch, holder);
    held.push({ conversationId, holder, lockEpoch: taken.lock.lockEpoch });
  }
  await store.conversations.refresh(held, TTL_MS, now());
  for (const ref of held) if (random.next() < 0.7) await store.conversations.release(ref);
}

async function bury(world: World, store: Store, random: Random): Promise<void> {
  const nodeId = random.pick(world.nodes);
  await world.enterNode(store);
  const node = (await store.nodes.list()).find((one) => one.nodeId === nodeId);
  // Somebody else may be burying it.
  const at = world.nodes.indexOf(nodeId);
  if (node === undefined || at === -1) return;
  world.nodes.splice(at, 1);
  for (let more = true; more; ) {
    const burial = {
      nodeId,
      heartbeat: node.heartbeat,
      jobErrorPayload: ERROR,
      givenBackPayload: "{}",
      now: now(),
    };
    const step = await store.nodes.bury(burial);
    more = step.more;
  }
}

async function bindings(_world: World, store: Store, random: Random): Promise<void> {
  const conversationId = random.pick(CONVERSATIONS);
  const ref = { conversationId, backend: "backend" };
  const nonce = `n_${random.int(1, 1e9)}`;
  const claimed = await allowed(
    store.bindings.claim({ ...ref, nonce, staleBefore: now() - 20, maxNoted: 20, now: now() }),
  );
  if (claimed !== undefined) {
    const { generation } = claimed;
    const upstreamId = `ses_${random.int(1, 8)}`;
    if (random.next() < 0.7) await store.bindings.bind({ ...ref, generation, nonce, upstreamId, now: now() });
    else await store.bindings.unclaim({ ...ref, generation, nonce, mayExist: random.next() < 0.5, now: now() });
    if (random.next() < 0.3) await store.bindings.lose({ ...ref, upstreamId, now: now() });
  }
  const debts = await store.bindings.sweep({ backend: "backend", madeBefore: now(), after: 0, limit: 10, now: now() });
  for (const { nonce, upstreamId } of debts) {
    if (upstreamId !== undefined) await store.bindings.gone({ backend: "backend", upstreamId });
    else if (nonce !== undefined) await store.bindings.gone({ backend: "backend", nonce });
  }
}

async function credentials(world: World, store: Store, random: Random): Promise<void> {
  const ref = {
    credentialId: world.fresh("cred"),
    jobId: recent(world.jobs, random),
    nodeId: random.pick(world.nodes),
  };
  await store.credentials.note(ref, now());
  await store.credentials.markLive(ref, now());
  const due = await store.credentials.claimDue({ now: now(), claimMs: 10, limit: 5 });
  for (const { credentialId } of due) await store.credentials.settle(credentialId, { revoked: true }, now());
}

async function questions(world: World, store: Store, random: Random): Promise<void> {
  const jobId = recent(world.jobs, random);
  const questionId = `q_${random.int(1, 3)}`;
  const common = { schema: undefined, to: undefined, message: "?", now: now() };
  await allowed(store.questions.open({ ...common, jobId, runEpoch: 1, questionId }));
  const answer = { jobId, questionId, answer: "1", answeredBy: "alice", now: now() };
  const reply = () => ({ frame: "answered" });
  await allowed(store.questions.answer({ ...identity(world, random), ...answer, reply }));
  await store.questions.close({ jobId, questionId, now: now() });
}

const OPERATIONS_BY_WEIGHT: Record<string, readonly [number, Operation]> = {
  submit: [4, submit],
  startTurn: [4, startTurn],
  append: [8, append],
  storeRuns: [5, storeRuns],
  claimTurns: [3, claimTurns],
  attempt: [2, attempt],
  endUnserved: [1, endUnserved],
  claimJobs: [2, claimJobs],
  deliveries: [4, deliveries],
  locks: [2, locks],
  bindings: [1.5, bindings],
  credentials: [1, credentials],
  questions: [3, questions],
  bury: [0.4, bury],
  cancel: [
    2,
    (world, store, random) =>
      allowed(
        store.requests.cancel({
          ...identity(world, random),
          jobId: recent(world.jobs, random),
          reason: "enough",
          cancelledPayload: ERROR,
          reply: ({ outcome }) => ({ frame: outcome }),
        }),
      ),
  ],
  requestCancel: [
    2,
    (world, store, random) =>
      allowed(
        store.jobs.requestCancel({
          jobId: recent(world.jobs, random),
          reason: "enough",
          cancelledPayload: ERROR,
          now: now(),
        }),
      ),
  ],
  follow: [
    2,
    (world, store, random) =>
      allowed(
        store.requests.follow({
          ...identity(world, random),
          jobId: recent(world.jobs, random),
          history: true,
          reply: () => ({ frame: "followed" }),
        }),
      ),
  ],
  unfollow: [
    1,
    (world, store, random) =>
      allowed(store.requests.unfollow({ ...identity(world, random), jobId: recent(world.jobs, random) })),
  ],
  spawn: [
    1,
    async (world, store, random) => {
      const jobId = world.fresh("child");
      const child = { delegateId: jobId, job: newJob(jobId), acceptedPayload: "{}", maxRunningJobsPerPrincipal: 40 };
      await allowed(store.jobs.spawn({ ...child, parentJobId: recent(world.jobs, random), runEpoch: 1, now: now() }));
      if ((await store.jobs.get(jobId)) !== undefined) world.jobs.push(jobId);
    },
  ],
  breakLock: [
    1,
    (_world, store, random) =>
      allowed(
        store.conversations.breakLock({
          conversationId: random.pick(CONVERSATIONS),
          jobErrorPayload: ERROR,
          now: now(),
        }),
      ),
  ],
  delete: [1, (_world, store, random) => allowed(store.conversations.delete(random.pick(CONVERSATIONS), now()))],
  retain: [
    2,
    (_world, store) =>
      store.retain({
        jobRetentionMs: 100,
        maxEventsPerJob: 4,
        maxBytesPerJob: 1_000,
        maxBytesPerStore: undefined,
        conversationRetentionMs: 100,
        now: now(),
      }),
  ],
  beat: [1, (world, store, random) => store.nodes.beat(random.pick(world.nodes), now())],
  sweep: [
    1,
    (world, store) =>
      store.sweep({
        sessionIds: world.sessions.map((one) => one.sessionId),
        jobIds: world.jobs.slice(-20),
        complete: true,
      }),
  ],
};

/** Runs what is queued until nothing is, and buries what is dead. */
async function drain(world: World, store: Store): Promise<void> {
  await world.enterNode(store);
  const nodeId = world.nodes.at(-1) as string;
  for (const conversationId of CONVERSATIONS) {
    await allowed(store.conversations.breakLock({ conversationId, jobErrorPayload: ERROR, now: now() }));
  }
  for (;;) {
    const claim = { nodeId, agents: [AGENT], limit: 10, lostPayload: ERROR, now: now() };
    const { turns } = await store.conversations.claimTurns(claim);
    let next = turns.map((turn) => turn);
    if (next.length === 0) break;
    while (next.length > 0) {
      const results = await store.jobs.append(
        next.map(({ job, runEpoch, lastN }) => ({
          jobId: job.jobId,
          runEpoch,
          events: [{ n: lastN + 1, kind: "job.result", payload: "{}" }],
          end: "success" as const,
          handOver: { nodeId, agents: [AGENT] },
          now: now(),
        })),
      );
      next = results.flatMap((result) => {
        assert.ok(result.ok, "a turn that was claimed could not be ended");
        return result.next === undefined ? [] : [result.next];
      });
    }
  }
  // What became a dead node's while it was being buried is buried by whoever looks next.
  for (const node of await store.nodes.list()) {
    if (node.state !== "dead") continue;
    const burial = { nodeId: node.nodeId, heartbeat: node.heartbeat, jobErrorPayload: ERROR, now: now() };
    while ((await store.nodes.bury(burial)).more);
  }
}

/** What must hold, whatever came first: told in SQL, over the tables. */
const INVARIANTS: Record<string, string> = {
  "a conversation's count of what waits is wrong": `SELECT conversation_id FROM holdfast.conversations c WHERE queued <>
     (SELECT count(*) FROM holdfast.turns t WHERE t.conversation_key = c.conversation_key AND t.state = 'queued')`,
  "a turn waits although its queue was run": "SELECT job_key FROM holdfast.turns WHERE state <> 'ended'",
  "a turn has ended and its job has not": `SELECT h.job_key FROM holdfast.turns t JOIN holdfast.job_heads h USING (job_key)
     WHERE t.state = 'ended' AND h.ended_at IS NULL`,
  "a job has no terminal event, or more than one": `SELECT h.job_key FROM holdfast.job_heads h WHERE h.ended_at IS NOT NULL
     AND (SELECT count(*) FROM holdfast.events e WHERE e.job_key = h.job_key AND e.kind IN ('job.result', 'job.error')) <> 1`,
  "an answer's job has ended, and it is not due": `SELECT delivery_id FROM holdfast.deliveries d
     JOIN holdfast.job_heads h USING (job_key) WHERE (d.state = 'open') <> (h.ended_at IS NULL)`,
  "two answers of a conversation have one place": `SELECT conversation_id FROM holdfast.deliveries
     WHERE turn_no IS NOT NULL GROUP BY conversation_id, turn_no HAVING count(*) > 1`,
  "a job waits for a node, and something else, too": `SELECT h.job_key FROM holdfast.job_heads h WHERE h.orphaned AND
     (h.ended_at IS NOT NULL OR h.state <> 'pending' OR EXISTS (SELECT FROM holdfast.turns t WHERE t.job_key = h.job_key))`,
  "a job is no longer there, and what its attempts left is": `SELECT k.job_key FROM holdfast.checkpoints k
     WHERE NOT EXISTS (SELECT FROM holdfast.jobs j WHERE j.job_key = k.job_key)`,
  "a log has a hole": `SELECT h.job_key FROM holdfast.job_heads h
     WHERE (SELECT count(*) FROM holdfast.events e WHERE e.job_key = h.job_key) <> h.last_n - h.floor_n`,
  "bytes are counted wrong": `SELECT h.job_key FROM holdfast.job_heads h WHERE h.bytes <>
     (SELECT coalesce(sum(octet_length(payload)), 0) FROM holdfast.events e WHERE e.job_key = h.job_key)`,
  "a session has a hole in its numbers": `SELECT session_key FROM (SELECT session_key, first_seq,
       lag(first_seq + count) OVER (PARTITION BY session_key ORDER BY first_seq) AS expected FROM holdfast.runs) r
     WHERE expected <> first_seq`,
  "a run is below its job's floor": `SELECT r.job_key FROM holdfast.runs r JOIN holdfast.job_heads h USING (job_key)
     WHERE r.last_n <= h.floor_n`,
  "a follow is open of a job that is gone": `SELECT f.job_key FROM holdfast.follows f
     WHERE NOT EXISTS (SELECT FROM holdfast.jobs j WHERE j.job_key = f.job_key)`,
  "a lock is held of a node that is no more": `SELECT conversation_id FROM holdfast.conversations c JOIN holdfast.nodes n
     ON n.node_id = c.lock_node WHERE n.state <> 'alive'`,
  "a job lives on a node that is no more": `SELECT h.job_key FROM holdfast.job_heads h JOIN holdfast.nodes n USING (node_id)
     WHERE h.ended_at IS NULL AND n.state <> 'alive' AND NOT EXISTS
       (SELECT FROM holdfast.turns t WHERE t.job_key = h.job_key AND t.state = 'queued')`,
};

const server = await sharedPostgres();

describe("locks of the PostgreSQL store", { skip: "reason" in server ? server.reason : false }, () => {
  test("[STO-20] no two operations ever wait for each other, and what they leave is whole", {
    timeout: DEADLINE_MS,
  }, async () => {
    const { database, stores } = await openStores(server as PostgresServer);
    try {
      const world = new World(stores);
      for (const store of stores) await world.enterNode(store);
      for (let i = 0; i < SESSIONS; i += 1) {
        await world.enterSession(stores[i % STORES] as Store, world.nodes[i % STORES] as string);
      }
      const weights = Object.fromEntries(
        Object.entries(OPERATIONS_BY_WEIGHT).map(([name, [weight]]) => [name, weight]),
      );
      const counts = new Map<string, number>();
      await Promise.all(
        Array.from({ length: WORKERS }, async (_, worker) => {
          const random = new Random(SEED + worker);
          const store = stores[worker % STORES] as Store;
          for (let i = 0; i < OPERATIONS; i += 1) {
            const name = random.weighted(weights);
            const [, operation] = OPERATIONS_BY_WEIGHT[name] as readonly [number, Operation];
            counts.set(name, (counts.get(name) ?? 0) + 1);
            try {
              await operation(world, store, random);
            } catch (error) {
              throw new Error(`${name}, operation ${i} of worker ${worker} under seed ${SEED}, failed`, {
                cause: error,
              });
            }
          }
        }),
      );
      assert.equal(counts.size, Object.keys(OPERATIONS_BY_WEIGHT).length, "some operation never came");
      await drain(world, stores[0] as Store);
      for (const [what, sql] of Object.entries(INVARIANTS)) {
        assert.deepEqual(await queryOnce(database.url, sql), [], what);
      }
    } finally {
      await Promise.all(stores.map((store) => store.stop()));
    }
    const told = (server as PostgresServer).log.filter((line) => line.includes("deadlock"));
    assert.deepEqual(told, []);
    const [counted] = await queryOnce(
      (server as PostgresServer).url,
      `SELECT deadlocks::int FROM pg_stat_database WHERE datname = '${database.name}'`,
    );
    assert.equal(counted?.["deadlocks"], 0);
  });

  test("[CNV-2] of fifty that ask at once through several pools, one has made the conversation", async () => {
    const { stores } = await openStores(server as PostgresServer);
    try {
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, i) =>
          (stores[i % STORES] as Store).conversations.resolve({
            conversationId: "slack_1",
            source: "slack",
            key: undefined,
            principal: undefined,
            userId: `user ${i}`,
            now: i,
          }),
        ),
      );
      const makers = answers.flatMap(({ created }, i) => (created ? [`user ${i}`] : []));
      assert.equal(makers.length, 1);
      assert.deepEqual(new Set(answers.map(({ conversation }) => conversation.userId)), new Set(makers));
    } finally {
      await Promise.all(stores.map((store) => store.stop()));
    }
  });
});

async function openStores(server: PostgresServer): Promise<{ database: PostgresDatabase; stores: Store[] }> {
  const database = await server.createDatabase();
  // It looks for a deadlock that often, so that none hides behind a wait that ends.
  await queryOnce(server.url, `ALTER DATABASE ${database.name} SET deadlock_timeout = '20ms'`);
  const stores = Array.from({ length: STORES }, () => postgres({ url: database.url }));
  for (const store of stores) await store.start();
  return { database, stores };
}
