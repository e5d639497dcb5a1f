/** Passes that the processes on the file share (store/passes.ts). */
import { MAX_STORED_PASSES, type PassFacet } from "../store.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";

const ONE_ROW = { rows: 2, bytes: 0 };

export function passFacet(engine: Engine): PassFacet {
  return {
    async add({ kind, hash, principal, content, ttlMs, most, now }) {
      await engine.write(
        (db) => {
          db.run(
            `DELETE FROM passes WHERE pass_key IN
               (SELECT pass_key FROM passes WHERE principal = ? AND kind = ? ORDER BY pass_key DESC LIMIT -1 OFFSET ?)`,
            principal,
            kind,
            most - 1,
          );
          db.run(
            "INSERT INTO passes (hash, kind, principal, content, expires_at) VALUES (?, ?, ?, ?, ?)",
            hash,
            kind,
            principal,
            content,
            now + ttlMs,
          );
        },
        { rows: 2, bytes: content.length },
      );
    },
    find: ({ kind, hash, now }) =>
      engine.read(
        (db) => db.get<{ content: string }>(`SELECT content FROM passes WHERE ${GOOD}`, hash, kind, now)?.content,
      ),
    take: ({ kind, hash, now }) =>
      engine.write(
        (db) =>
          db.get<{ content: string }>(`DELETE FROM passes WHERE ${GOOD} RETURNING content`, hash, kind, now)?.content,
        ONE_ROW,
      ),
  };
}

const GOOD = "hash = ? AND kind = ? AND expires_at > ?";

/** For the janitor. @returns how many went */
export function forgetPasses(db: Database, given: { now: number; most?: number | undefined; limit: number }): number {
  const { now, most = MAX_STORED_PASSES, limit } = given;
  const expired = db.run(
    "DELETE FROM passes WHERE pass_key IN (SELECT pass_key FROM passes WHERE expires_at <= ? LIMIT ?)",
    now,
    limit,
  );
  const above = db.run(
    "DELETE FROM passes WHERE pass_key IN (SELECT pass_key FROM passes ORDER BY pass_key DESC LIMIT ? OFFSET ?)",
    limit,
    most,
  );
  return expired + above;
}
