/** Passes that the processes on the file share (store/passes.ts). */
import { MAX_STORED_PASSES, type PassFacet, type PassQuery } from "../store.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";

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
    find: (query) => engine.read((db) => contentOf(db, SELECT, query)),
    async take(query) {
      // Whoever guesses is not worth a place in the queue of writes.
      if ((await engine.read((db) => contentOf(db, SELECT, query))) === undefined) return undefined;
      return await engine.write((db) => contentOf(db, TAKE, query), { rows: 2, bytes: 0 });
    },
  };
}

const GOOD = "hash = ? AND kind = ? AND expires_at > ?";
const SELECT = `SELECT content FROM passes WHERE ${GOOD}`;
const TAKE = `DELETE FROM passes WHERE ${GOOD} RETURNING content`;

const contentOf = (db: Database, sql: string, { kind, hash, now }: PassQuery): string | undefined =>
  db.get<{ content: string }>(sql, hash, kind, now)?.content;

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
