/**
 * Nodes: who is alive, and the burial of who is not. A live node holds the lock of its own small file
 * (node-lock.ts), which is the proof; heartbeats are for a process that hangs.
 */
import type { Burial, NodeFacet, NodeRecord } from "../store.ts";
import type { Database } from "./database.ts";
import { endClaims } from "./delivery-rows.ts";
import type { Engine } from "./engine.ts";
import { endJob, giveBack } from "./jobs.ts";
import type { NodeLocks } from "./node-lock.ts";
import { FREE_LOCK } from "./turns.ts";

/** Jobs that one step of a burial ends. */
const JOBS_PER_STEP = 64;

export function nodeFacet(engine: Engine, locks: NodeLocks): NodeFacet {
  return {
    async register(node) {
      // Locked first: a node that can be seen can be proven alive.
      locks.take(node.nodeId);
      try {
        await engine.write((db) =>
          db.run(
            `INSERT INTO nodes (node_id, pid, host, started_at, heartbeat, beaten_at, state, version)
             VALUES (?, ?, ?, ?, 0, ?, 'alive', ?)`,
            node.nodeId,
            node.pid,
            node.host,
            node.now,
            node.now,
            node.version ?? "",
          ),
        );
      } catch (error) {
        locks.remove(node.nodeId);
        throw error;
      }
    },

    beat: (nodeId, now) =>
      engine.write(
        (db) =>
          db.run(
            "UPDATE nodes SET heartbeat = heartbeat + 1, beaten_at = ? WHERE node_id = ? AND state = 'alive'",
            now,
            nodeId,
          ) === 1,
      ),

    async list() {
      const rows = await engine.read(list);
      const nodes = rows.map((row) => ({ ...row, provenDead: locks.provenDead(row.nodeId) }));
      engine.leavesHints = nodes.some(
        (node) => node.state === "alive" && !node.provenDead && !locks.holds(node.nodeId),
      );
      return nodes;
    },

    async census(now) {
      const taken = await engine.read((db) => census(db, now));
      const nodes = taken.nodes.map((node) => ({ ...node, provenDead: locks.provenDead(node.nodeId) }));
      return { ...taken, nodes };
    },

    async bury(burial) {
      const step = await engine.write((db) => bury(db, burial), { rows: JOBS_PER_STEP * 2, bytes: 0 });
      if (step.buried) {
        locks.remove(burial.nodeId);
      }
      const { buried: _, ...told } = step;
      return told;
    },

    async leave(nodeId, now) {
      await engine.write((db) => leave(db, nodeId, now));
      locks.remove(nodeId);
    },
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

/** Nodes that a census lists. */
const MAX_LISTED = 1_000;
const HAS_LIVE_JOBS = "EXISTS (SELECT 1 FROM job_heads h WHERE h.node_id = nodes.node_id AND h.ended_at IS NULL)";

function list(db: Database): Omit<NodeRecord, "provenDead">[] {
  return db
    .all<NodeRow>(
      `SELECT node_id, pid, host, started_at, heartbeat, state FROM nodes
       WHERE state = 'alive' OR (state = 'dead' AND ${HAS_LIVE_JOBS}) ORDER BY started_at, node_id`,
    )
    .map(toRecord);
}

const toRecord = (row: NodeRow): Omit<NodeRecord, "provenDead"> => ({
  nodeId: row.node_id,
  pid: row.pid,
  host: row.host,
  startedAt: row.started_at,
  heartbeat: row.heartbeat,
  state: row.state,
});

function bury(db: Database, burial: Burial): Awaited<ReturnType<NodeFacet["bury"]>> & { buried: boolean } {
  const node = db.get<{ heartbeat: number; state: string }>(
    "SELECT heartbeat, state FROM nodes WHERE node_id = ?",
    burial.nodeId,
  );
  if (node === undefined || node.state === "left" || (node.state === "alive" && node.heartbeat !== burial.heartbeat)) {
    return { endedJobIds: [], givenBackJobIds: [], more: false, buried: false };
  }
  if (node.state === "alive") {
    db.run("UPDATE nodes SET state = 'dead', over_at = ? WHERE node_id = ?", burial.now, burial.nodeId);
    // Those of its turns are freed with their jobs, below.
    db.run(`${FREE_LOCK} WHERE lock_node = ? AND lock_holder IS NOT NULL AND lock_job_key IS NULL`, burial.nodeId);
    detachAll(db, burial.nodeId, burial.now);
    endClaims(db, burial.nodeId, burial.now);
  }
  const live = db.all<{ job_key: number; job_id: string; last_n: number; run_epoch: number; again: number }>(
    `SELECT h.job_key, j.job_id, h.last_n, h.run_epoch, h.restarts_left > 0 AND h.cancel_requested = 0 AS again
     FROM job_heads h JOIN jobs j ON j.job_key = h.job_key
     WHERE h.node_id = ? AND h.ended_at IS NULL ORDER BY h.job_key LIMIT ?`,
    burial.nodeId,
    JOBS_PER_STEP + 1,
  );
  const endedJobIds: string[] = [];
  const givenBackJobIds: string[] = [];
  for (const job of live.slice(0, JOBS_PER_STEP)) {
    db.touch({ jobId: job.job_id });
    if (job.again === 1 && burial.givenBackPayload !== undefined) {
      db.run("UPDATE job_heads SET restarts_left = restarts_left - 1 WHERE job_key = ?", job.job_key);
      giveBack(db, job, burial.givenBackPayload);
      givenBackJobIds.push(job.job_id);
    } else {
      endJob(db, job, { kind: "job.error", payload: burial.jobErrorPayload, status: "error", now: burial.now });
      endedJobIds.push(job.job_id);
    }
  }
  const more = live.length > JOBS_PER_STEP;
  return { endedJobIds, givenBackJobIds, more, buried: !more };
}

/** A node that leaves jobs behind, against its promise, is dead rather than gone: somebody must bury them. */
function leave(db: Database, nodeId: string, now: number): void {
  db.run(
    `UPDATE nodes SET state = CASE WHEN ${HAS_LIVE_JOBS} THEN 'dead' ELSE 'left' END, over_at = ?
     WHERE node_id = ? AND state = 'alive'`,
    now,
    nodeId,
  );
  db.run(`${FREE_LOCK} WHERE lock_node = ? AND lock_holder IS NOT NULL AND lock_job_key IS NULL`, nodeId);
  detachAll(db, nodeId, now);
  endClaims(db, nodeId, now);
}

function detachAll(db: Database, nodeId: string, now: number): void {
  db.run("UPDATE sessions SET node_id = NULL, resumable_until = ? + resume_window_ms WHERE node_id = ?", now, nodeId);
}

interface CensusRow extends NodeRow {
  version: string;
  beaten_at: number;
  over_at: number | null;
  jobs: number;
  sessions: number;
}

const count = (db: Database, from: string, ...values: number[]): number =>
  db.get<{ count: number }>(`SELECT count(*) AS count FROM ${from}`, ...values)?.count ?? 0;

function census(db: Database, now: number) {
  const rows = db.all<CensusRow>(
    `SELECT n.*, (SELECT count(*) FROM job_heads h WHERE h.node_id = n.node_id AND h.ended_at IS NULL) AS jobs,
       (SELECT count(*) FROM sessions s WHERE s.node_id = n.node_id) AS sessions
     FROM nodes n ORDER BY n.started_at, n.node_id LIMIT ?`,
    MAX_LISTED,
  );
  const schema = db.get<{ number: number; name: string }>(
    "SELECT number, name FROM migrations ORDER BY number DESC LIMIT 1",
  );
  return {
    now,
    schema: schema ?? { number: 0, name: "" },
    nodes: rows.map((row) => ({
      ...toRecord(row),
      version: row.version,
      beatenAt: row.beaten_at,
      overAt: row.over_at ?? undefined,
      jobs: row.jobs,
      sessions: row.sessions,
    })),
    waitingJobs: count(db, "job_heads WHERE orphaned = 1"),
    waitingConversations: count(db, "conversations WHERE queued > 0 AND coalesce(lock_expires_at, 0) <= ?", now),
    expiredLocks: count(db, "conversations WHERE lock_holder IS NOT NULL AND lock_expires_at <= ?", now),
    failedDeliveries: count(db, "deliveries WHERE state = 'failed'"),
  };
}
