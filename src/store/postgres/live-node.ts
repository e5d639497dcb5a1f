/** Who may write: a node that nobody has declared dead. */
import { StoreRefusal } from "../store.ts";
import type { Transaction } from "./database.ts";

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
