/** The cases of the credential ledger: what is due for revocation, when, and to whom. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { RevocationClaim, Store } from "../../store/store.ts";
import type { ManualClock } from "../manual-clock.ts";

/** What a case needs of a store under test. */
export interface LedgerScene {
  readonly store: Store;
  readonly clock: ManualClock;
  reopen(): Promise<void>;
}

type Case = (title: string, body: (scene: LedgerScene) => Promise<void>) => void;

const NODE = "node_a";
const OTHER_NODE = "node_b";
const CLAIM_MS = 30_000;
const RETENTION_MS = 86_400_000;

const enterNode = ({ store, clock }: LedgerScene, nodeId: string) =>
  store.nodes.register({ nodeId, pid: 1, host: "host", now: clock.wall() });

/** Two live nodes, and running jobs of the first one. */
async function running(scene: LedgerScene, ...jobIds: string[]): Promise<void> {
  const { store, clock } = scene;
  await enterNode(scene, NODE);
  await enterNode(scene, OTHER_NODE);
  const session = await store.sessions.create({
    sessionId: "sess_1",
    principal: "alice",
    clientName: "client",
    clientVersion: "1",
    features: [],
    tokenHash: createHash("sha256").update("token").digest(),
    nodeId: NODE,
    resumeWindowMs: 600_000,
    now: clock.wall(),
    maxSessionsPerPrincipal: 10,
  });
  for (const jobId of jobIds) {
    await store.requests.submit({
      sessionId: session.sessionId,
      connectionEpoch: session.connectionEpoch,
      messageId: `submit ${jobId}`,
      now: clock.wall(),
      principal: "alice",
      nodeId: NODE,
      job: { jobId, agent: "report@2", input: "null", lease: {}, traceId: `trace-${jobId}` },
      acceptedPayload: "{}",
      maxRunningJobsPerPrincipal: 10,
      reply: () => ({ frame: jobId }),
    });
  }
}

async function end({ store, clock }: LedgerScene, jobId: string): Promise<void> {
  const events = [{ n: 1, kind: "job.result", payload: "{}" }];
  const results = await store.jobs.append([{ jobId, runEpoch: 1, events, end: "success", now: clock.wall() }]);
  assert.deepEqual(results, [{ ok: true }]);
}

/** Notes a credential and marks it live. */
async function issue({ store, clock }: LedgerScene, credentialId: string, jobId: string, nodeId = NODE) {
  await store.credentials.note({ credentialId, jobId, nodeId }, clock.wall());
  return store.credentials.markLive({ credentialId, jobId, nodeId }, clock.wall());
}

async function due({ store, clock }: LedgerScene, given: Partial<RevocationClaim> = {}): Promise<string[]> {
  const claimed = await store.credentials.claimDue({ now: clock.wall(), claimMs: CLAIM_MS, limit: 10, ...given });
  return claimed.map(({ credentialId }) => credentialId).sort();
}

const bury = ({ store, clock }: LedgerScene, nodeId: string) =>
  store.nodes.bury({ nodeId, heartbeat: 0, jobErrorPayload: "{}", now: clock.wall() });

export function credentialCases(it: Case): void {
  it("[CRD-3] what was noted and never issued is due when its node is no longer alive", async (scene) => {
    await running(scene);
    await scene.store.credentials.note({ credentialId: "c1", jobId: "job_lost", nodeId: NODE }, scene.clock.wall());
    await scene.reopen();
    assert.deepEqual(await due(scene), [], "its node may still be at it");
    await bury(scene, NODE);
    assert.deepEqual(await due(scene), ["c1"]);
  });

  it("[CRD-6] the credentials of a job are due once it has ended, and not before", async (scene) => {
    await running(scene, "job_1", "job_2");
    assert.equal(await issue(scene, "c1", "job_1"), true);
    assert.equal(await issue(scene, "c2", "job_2"), true);
    assert.deepEqual(await due(scene), []);
    await end(scene, "job_1");
    assert.deepEqual(await due(scene), ["c1"]);
    assert.equal(await scene.store.credentials.has("job_1"), false);
    assert.equal(await scene.store.credentials.has("job_2"), true);
    assert.equal(await scene.store.credentials.has("job_3"), false);
  });

  it("[CRD-6] a burial makes the credentials of its jobs due", async (scene) => {
    await running(scene, "job_1");
    await issue(scene, "c1", "job_1");
    await bury(scene, NODE);
    assert.deepEqual(await due(scene), ["c1"]);
  });

  it("[CRD-6] one revocation has one claimant, until its time is over", async (scene) => {
    await running(scene, "job_1");
    await issue(scene, "c1", "job_1");
    await end(scene, "job_1");
    const claims = await Promise.all([due(scene), due(scene), due(scene)]);
    assert.deepEqual(claims.flat(), ["c1"]);
    await scene.clock.advance(CLAIM_MS - 1);
    assert.deepEqual(await due(scene), []);
    await scene.clock.advance(1);
    assert.deepEqual(await due(scene), ["c1"]);
  });

  it("[CRD-6] a failed revocation is due again at its next attempt, also after a restart", async (scene) => {
    await running(scene, "job_1");
    await issue(scene, "c1", "job_1");
    await end(scene, "job_1");
    const { credentials } = scene.store;
    const claim = { claimMs: CLAIM_MS, limit: 10 };
    const [first] = await credentials.claimDue({ ...claim, now: scene.clock.wall() });
    assert.deepEqual(first, { credentialId: "c1", jobId: "job_1", attempts: 1 });
    await credentials.settle("c1", { revoked: false, nextAttemptAt: scene.clock.wall() + 500 }, scene.clock.wall());
    await scene.reopen();
    assert.deepEqual(await due(scene), []);
    await scene.clock.advance(500);
    const [second] = await scene.store.credentials.claimDue({ ...claim, now: scene.clock.wall() });
    assert.deepEqual(second, { credentialId: "c1", jobId: "job_1", attempts: 2 });
    await scene.store.credentials.settle("c1", { revoked: true }, scene.clock.wall());
    await scene.clock.advance(CLAIM_MS * 10);
    assert.deepEqual(await due(scene), []);
  });

  it("[CRD-6] of many that are due, the longest due come first and no more than asked for", async (scene) => {
    await running(scene, "job_1");
    for (const [at, credentialId] of ["c3", "c1", "c2"].entries()) {
      await issue(scene, credentialId, `job_gone_${at}`);
      await scene.store.credentials.giveUp(credentialId, scene.clock.wall());
      await scene.clock.advance(1);
    }
    assert.deepEqual(await due(scene, { limit: 2 }), ["c1", "c3"]);
    assert.deepEqual(await due(scene, { limit: 2 }), ["c2"]);
  });

  it("[CRD-5] what was given up is due, and is not live again", async (scene) => {
    await running(scene, "job_1");
    const ref = { credentialId: "c1", jobId: "job_1", nodeId: NODE };
    await scene.store.credentials.note(ref, scene.clock.wall());
    await scene.store.credentials.giveUp("c1", scene.clock.wall());
    assert.deepEqual(await due(scene), ["c1"]);
    await scene.store.credentials.settle("c1", { revoked: true }, scene.clock.wall());
    assert.equal(await scene.store.credentials.markLive(ref, scene.clock.wall()), false);
    assert.deepEqual(await due(scene), ["c1"], "it was issued after its revocation");
    assert.equal(await scene.store.credentials.has("job_1"), false);
  });

  it("[CRD-5] giving up what nobody knows, or what is revoked, changes nothing", async (scene) => {
    await running(scene, "job_1");
    await scene.store.credentials.giveUp("never", scene.clock.wall());
    await issue(scene, "c1", "job_1");
    await scene.store.credentials.giveUp("c1", scene.clock.wall());
    assert.deepEqual(await due(scene), ["c1"]);
    await scene.store.credentials.settle("c1", { revoked: true }, scene.clock.wall());
    await scene.store.credentials.giveUp("c1", scene.clock.wall());
    assert.deepEqual(await due(scene), []);
  });

  it("[CRD-9] a new issue replaces what its node, or a dead one, had; not what a live node works with", async (scene) => {
    await running(scene, "job_1");
    await enterNode(scene, "node_c");
    await issue(scene, "of the agent", "job_1", NODE);
    await issue(scene, "of a dead node", "job_1", "node_c");
    await bury(scene, "node_c");
    assert.deepEqual(await due(scene), [], "until it is replaced, its client may use it");
    await issue(scene, "of the other", "job_1", OTHER_NODE);
    assert.deepEqual(await due(scene), ["of a dead node"]);
    await issue(scene, "of the other, again", "job_1", OTHER_NODE);
    assert.deepEqual(await due(scene), ["of the other"]);
    await end(scene, "job_1");
    assert.deepEqual(await due(scene), ["of the agent", "of the other, again"]);
  });

  it("[CRD-6] the row of a revoked one goes with its job, that of an open one stays until it is revoked", async (scene) => {
    await running(scene, "job_1", "job_2");
    await issue(scene, "c1", "job_1");
    await issue(scene, "c2", "job_2");
    await end(scene, "job_1");
    await end(scene, "job_2");
    await due(scene);
    await scene.store.credentials.settle("c1", { revoked: true }, scene.clock.wall());
    await scene.clock.advance(RETENTION_MS + 600_000 + 1);
    await scene.store.sessions.detach({ sessionId: "sess_1", connectionEpoch: 1 }, scene.clock.wall());
    await scene.clock.advance(600_000 + 1);
    const policy = {
      jobRetentionMs: RETENTION_MS,
      maxEventsPerJob: 1_000_000,
      maxBytesPerJob: 1_000_000_000,
      maxBytesPerStore: undefined,
      now: scene.clock.wall(),
    };
    while ((await scene.store.retain(policy)).more);
    assert.equal(await scene.store.jobs.get("job_1"), undefined, "the job is no longer kept");
    assert.deepEqual(await due(scene), ["c2"]);
    await scene.store.credentials.settle("c2", { revoked: true }, scene.clock.wall());
    await scene.clock.advance(CLAIM_MS);
    assert.deepEqual(await due(scene), []);
    // Their ids are free again, so nothing of them is left.
    const ref = { jobId: "job_3", nodeId: NODE };
    await scene.store.credentials.note({ ...ref, credentialId: "c1" }, scene.clock.wall());
    await scene.store.credentials.note({ ...ref, credentialId: "c2" }, scene.clock.wall());
  });
}
