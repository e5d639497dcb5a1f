/**
 * Nodes: who is alive, and the burial of who is not. Nothing on another machine proves that a process is gone, so the
 * proof is a heartbeat that stood still (STO-11).
 */
import { isFinal } from "../../protocol/index.ts";
import type { Burial, NodeFacet, NodeRecord, StoreCensus } from "../store.ts";
import type { Transaction } from "./database.ts";
import { endClaims } from "./delivery-rows.ts";
import type { Engine } from "./engine.ts";
import { endJob, giveBack, lockToEnd } from "./jobs.ts";
import { FREE_LOCK } from "./turns.ts";

/** Jobs that one step of a burial ends. */
const JOBS_PER_STEP = 64;

/** @param seen is told whether other processes' nodes are alive, whenever somebody looks */
export function nodeFacet(engine: Engine, seen: (others: boolean) => void): NodeFacet {
  const own = new Set<string>();
  return {
    async register(node) {
      own.add(node.nodeId);
      await engine.single((db) =>
        db.run(
          `INSERT INTO $.nodes (node_id, pid, host, started_at, heartbeat, beaten_at, state, version)
           VALUES ($1, $2, $3, $4, 0, $4, 'alive', $5)`,
          node.nodeId,
          node.pid,
          node.host,
          node.now,
          node.version ?? "",
        ),
      );
    },

    beat: (nodeId, now) =>
      engine.single(
        async (db) =>
          (await db.run(
            "UPDATE $.nodes SET heartbeat = heartbeat + 1, beaten_at = $2 WHERE node_id = $1 AND state = 'alive'",
            nodeId,
            now,
          )) === 1,
      ),

    async list() {
      const nodes = await engine.single(list);
      seen(nodes.some((node) => node.state === "alive" && !own.has(node.nodeId)));
      return nodes;
    },

    census: () => engine.read(census),
    bury: (burial) => bury(engine, burial),
    leave: (nodeId, now) => engine.write((db) => leave(db, nodeId, now)),
  };
}

interface NodeRow {
  node_id: string;
  pid: number;
  host: string;
  started_at: number;
  heartbeat: number;
  state: NodeRecord["state"];
}

const HAS_LIVE_JOBS = "EXISTS (SELECT FROM $.job_heads h WHERE h.node_id = nodes.node_id AND h.ended_at IS NULL)";

async function list(db: Transaction): Promise<NodeRecord[]> {
  const rows = await db.all<NodeRow>(
    `SELECT node_id, pid, host, started_at, heartbeat, state FROM $.nodes
     WHERE state = 'alive' OR (state = 'dead' AND ${HAS_LIVE_JOBS}) ORDER BY started_at, node_id`,
  );
  return rows.map(toRecord);
}

const toRecord = (row: NodeRow): NodeRecord => ({
  nodeId: row.node_id,
  pid: row.pid,
  host: row.host,
  startedAt: row.started_at,
  heartbeat: row.heartbeat,
  state: row.state,
  provenDead: undefined,
});

interface CensusRow extends NodeRow {
  version: string;
  beaten_at: number;
  over_at: number | null;
  jobs: number;
  sessions: number;
}

/** Nodes that a census lists. */
const MAX_LISTED = 1_000;

async function census(db: Transaction): Promise<StoreCensus> {
  const rows = await db.all<CensusRow>(
    `SELECT n.*, (SELECT count(*) FROM $.job_heads h WHERE h.node_id = n.node_id AND h.ended_at IS NULL) AS jobs,
       (SELECT count(*) FROM $.sessions s WHERE s.node_id = n.node_id) AS sessions
     FROM $.nodes n ORDER BY n.started_at, n.node_id LIMIT $1`,
    MAX_LISTED,
  );
  const schema = await db.get<{ number: number; name: string }>(
    "SELECT number, name FROM $.migrations ORDER BY number DESC LIMIT 1",
  );
  // Asked for last, so that its answer is as new as can be.
  const counts = await db.get<Omit<StoreCensus, "schema" | "nodes">>(
    `SELECT (SELECT count(*) FROM $.job_heads WHERE orphaned AND ended_at IS NULL) AS "waitingJobs",
       (SELECT count(*) FROM $.conversations WHERE queued > 0 AND coalesce(lock_expires_at, 0) <= $now)
         AS "waitingConversations",
       (SELECT count(*) FROM $.conversations WHERE lock_holder IS NOT NULL AND lock_expires_at <= $now)
         AS "expiredLocks",
       (SELECT count(*) FROM $.deliveries WHERE state = 'failed') AS "failedDeliveries", $now AS now`,
  );
  return {
    ...(counts as Omit<StoreCensus, "schema" | "nodes">),
    schema: schema ?? { number: 0, name: "" },
    nodes: rows.map((row) => ({
      ...toRecord(row),
      version: row.version,
      beatenAt: row.beaten_at,
      overAt: row.over_at ?? undefined,
      jobs: row.jobs,
      sessions: row.sessions,
    })),
  };
}

type BurialStep = Awaited<ReturnType<NodeFacet["bury"]>>;

/**
 * The node is declared dead in a commit of its own, before any of its jobs ends: from then on nothing more becomes its,
 * and the steps hold no lock of its row.
 */
async function bury(engine: Engine, burial: Burial): Promise<BurialStep> {
  const dead = await engine.write((db) => declareDead(db, burial));
  return dead ? await engine.write((db) => endJobs(db, burial)) : { endedJobIds: [], givenBackJobIds: [], more: false };
}

/** @returns whether it is dead, since now or before */
async function declareDead(db: Transaction, burial: Burial): Promise<boolean> {
  const node = await db.get<{ heartbeat: number; state: string }>(
    "SELECT heartbeat, state FROM $.nodes WHERE node_id = $1 FOR UPDATE",
    burial.nodeId,
  );
  if (node === undefined || node.state === "left" || (node.state === "alive" && node.heartbeat !== burial.heartbeat)) {
    return false;
  }
  if (node.state === "alive") {
    await db.run("UPDATE $.nodes SET state = 'dead', over_at = $2 WHERE node_id = $1", burial.nodeId, burial.now);
    await letGo(db, burial.nodeId, burial.now);
  }
  return true;
}

async function endJobs(db: Transaction, burial: Burial): Promise<BurialStep> {
  const live = await db.all<{ job_id: string }>(
    `SELECT j.job_id FROM $.job_heads h JOIN $.jobs j ON j.job_key = h.job_key
     WHERE h.node_id = $1 AND h.ended_at IS NULL ORDER BY h.job_key LIMIT $2`,
    burial.nodeId,
    JOBS_PER_STEP + 1,
  );
  const step = live.slice(0, JOBS_PER_STEP).map((job) => job.job_id);
  const endedJobIds: string[] = [];
  const givenBackJobIds: string[] = [];
  for (const head of (await lockToEnd(db, step)).values()) {
    // Somebody else may have got there first.
    if (isFinal(head.state) || head.node_id !== burial.nodeId) continue;
    db.touch({ jobId: head.job_id });
    if (head.restarts_left > 0 && !head.cancel_requested && burial.givenBackPayload !== undefined) {
      await giveBack(db, head, { payload: burial.givenBackPayload, restarts: head.restarts_left - 1 });
      givenBackJobIds.push(head.job_id);
      continue;
    }
    await endJob(db, head, { kind: "job.error", payload: burial.jobErrorPayload, status: "error", now: burial.now });
    endedJobIds.push(head.job_id);
  }
  return { endedJobIds, givenBackJobIds, more: live.length > step.length };
}

/** A node that leaves jobs behind, against its promise, is dead rather than gone: somebody must bury them. */
async function leave(db: Transaction, nodeId: string, now: number): Promise<void> {
  await db.run(
    `UPDATE $.nodes SET state = CASE WHEN ${HAS_LIVE_JOBS} THEN 'dead' ELSE 'left' END, over_at = $2
     WHERE node_id = $1 AND state = 'alive'`,
    nodeId,
    now,
  );
  await letGo(db, nodeId, now);
}

/** Frees its locks, but for those of turns, which are freed with their jobs; starts its sessions' resume windows; ends its claims. */
async function letGo(db: Transaction, nodeId: string, now: number): Promise<void> {
  await db.run(
    `${FREE_LOCK} WHERE conversation_key IN (
       SELECT conversation_key FROM $.conversations
       WHERE lock_node = $1 AND lock_holder IS NOT NULL AND lock_job_key IS NULL
       ORDER BY conversation_key FOR UPDATE)`,
    nodeId,
  );
  await db.run(
    `UPDATE $.sessions SET node_id = NULL, resumable_until = $2 + resume_window_ms WHERE session_key IN (
       SELECT session_key FROM $.sessions WHERE node_id = $1 ORDER BY session_key FOR UPDATE)`,
    nodeId,
    now,
  );
  await endClaims(db, nodeId);
}
