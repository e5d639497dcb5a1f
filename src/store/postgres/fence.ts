/** The check that every operation of a connection starts with: that it is its session's newest (law 3). */
import { type ConnectionRef, StoreRefusal } from "../store.ts";
import type { Transaction } from "./database.ts";

export interface SessionRow {
  session_key: number;
  session_id: string;
  principal: string;
  connection_epoch: number;
  resumable_until: number | null;
  instance: string | null;
  attempt: number | null;
  last_seq: number;
  acked_seq: number;
  seq_floor: number;
}

export const SESSION_COLUMNS = `s.session_key, s.session_id, s.principal, s.connection_epoch, s.resumable_until, s.instance,
  s.attempt, s.last_seq, s.acked_seq, s.seq_floor`;

export const superseded = (ref: ConnectionRef, newest: number | undefined) =>
  new StoreRefusal(
    "superseded",
    `connection ${ref.connectionEpoch} of ${ref.sessionId} is not the newest (${newest ?? "gone"})`,
  );

/**
 * The session of the newest connection, locked: the last lock of a transaction.
 *
 * @throws StoreRefusal superseded, also for a session that is gone
 */
export async function fence(db: Transaction, ref: ConnectionRef): Promise<SessionRow> {
  const session = await db.get<SessionRow>(
    `SELECT ${SESSION_COLUMNS} FROM $.sessions s WHERE s.session_id = $1 FOR UPDATE`,
    ref.sessionId,
  );
  if (session === undefined || session.connection_epoch !== ref.connectionEpoch) {
    throw superseded(ref, session?.connection_epoch);
  }
  return session;
}

/** The same for what is only read. @returns its key */
export async function fenceRead(db: Transaction, ref: ConnectionRef): Promise<number> {
  const session = await db.get<{ session_key: number; connection_epoch: number }>(
    "SELECT session_key, connection_epoch FROM $.sessions WHERE session_id = $1",
    ref.sessionId,
  );
  if (session === undefined || session.connection_epoch !== ref.connectionEpoch) {
    throw superseded(ref, session?.connection_epoch);
  }
  return session.session_key;
}
