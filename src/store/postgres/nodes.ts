/**
 * Nodes: who is alive, and the burial of who is not. Nothing on another machine proves that a process is gone, so the
 * proof is a heartbeat that stood still (STO-11).
 */
import { isFinal } from "../../protocol/index.ts";
import { type Burial, type NodeFacet, type NodeRecord, StoreRefusal } from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { endJob, lockToEnd } from "./jobs.ts";
import { FREE_LOCK } from "./turns.ts";

/** Jobs that one step of a burial ends. */
const JOBS_PER_STEP = 64;

/** @throws StoreRefusal dead_node, also for a node that left or was never entered */
export async function requireLiveNode(db: Transaction, nodeId: string): Promise<void> {
  if (!(await isAlive(db, nodeId))) {
    throw deadNode(nodeId);
  }
}

/**
 * As it is at this moment. A burial that begins now may not see what is about to be committed; it is called again for
 * as long as the node has a live job.
 */
export const isAlive = async (db: Transaction, nodeId: string): Promise<boolean> =>
  (await db.get("SELECT 1 FROM $.nodes WHERE node_id = $1 AND state = 'alive'", nodeId)) !== undefined;

/**
 * Whether the node is alive, and until this transaction ends, for a burial waits: what a burial looks for only once
 * has to be seen by it. The first lock that a transaction takes.
 */
export const keepAlive = async (db: Transaction, nodeId: string): Promise<boolean> =>
  (await db.get("SELECT 1 FROM $.nodes WHERE node_id = $1 AND state = 'alive' FOR KEY SHARE", nodeId)) !== undefined;

export const deadNode = (nodeId: string) => new StoreRefusal("dead_node", `${nodeId} is not a live node`);

/** @param seen is told whether other processes' nodes are alive, whenever somebody looks */
export function nodeFacet(engine: Engine, seen: (others: boolean) => void): NodeFacet {
  const own = new Set<string>();
  return {
    async register(node) {
      own.add(node.nodeId);
      await engine.single((db) =>
        db.run(
          "INSERT INTO $.nodes VALUES ($1, $2, $3, $4, 0, $4, 'alive', NULL)",
          node.nodeId,
          node.pid,
          node.host,
          node.now,
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
  return rows.map((row) => ({
    nodeId: row.node_id,
    pid: row.pid,
    host: row.host,
    startedAt: row.started_at,
    heartbeat: row.heartbeat,
    state: row.state,
    provenDead: undefined,
  }));
}

/**
 * The node is declared dead in a commit of its own, before any of its jobs ends: from then on nothing more becomes its,
 * and the steps hold no lock of its row.
 */
async function bury(engine: Engine, burial: Burial): Promise<{ endedJobIds: string[]; more: boolean }> {
  const dead = await engine.write((db) => declareDead(db, burial));
  return dead ? await engine.write((db) => endJobs(db, burial)) : { endedJobIds: [], more: false };
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

async function endJobs(db: Transaction, burial: Burial): Promise<{ endedJobIds: string[]; more: boolean }> {
  const live = await db.all<{ job_id: string }>(
    `SELECT j.job_id FROM $.job_heads h JOIN $.jobs j ON j.job_key = h.job_key
     WHERE h.node_id = $1 AND h.ended_at IS NULL ORDER BY h.job_key LIMIT $2`,
    burial.nodeId,
    JOBS_PER_STEP + 1,
  );
  const step = live.slice(0, JOBS_PER_STEP).map((job) => job.job_id);
  const endedJobIds: string[] = [];
  for (const head of (await lockToEnd(db, step)).values()) {
    // Somebody else may have got there first.
    if (isFinal(head.state) || head.node_id !== burial.nodeId) continue;
    db.touch({ jobId: head.job_id });
    await endJob(db, head, { kind: "job.error", payload: burial.jobErrorPayload, status: "error", now: burial.now });
    endedJobIds.push(head.job_id);
  }
  return { endedJobIds, more: live.length > step.length };
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

/** Frees its locks, but for those of turns, which are freed with their jobs; starts its sessions' resume windows. */
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
}
