/** The fence of what only a live node may do (STO-11). */
import { StoreRefusal } from "../store.ts";
import type { Database } from "./database.ts";

/** @throws StoreRefusal dead_node, also for a node that left or was never entered */
export function requireLiveNode(db: Database, nodeId: string): void {
  if (db.get("SELECT 1 FROM nodes WHERE node_id = ? AND state = 'alive'", nodeId) === undefined) {
    throw new StoreRefusal("dead_node", `${nodeId} is not a live node`);
  }
}
