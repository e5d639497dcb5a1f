/** Passes that all nodes share (store/passes.ts). Whether one is good is told by the server's clock. */
import { MAX_STORED_PASSES, type PassFacet, type PassQuery } from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";

export function passFacet(engine: Engine): PassFacet {
  return {
    async add({ kind, hash, principal, content, ttlMs, most }) {
      await engine.single((db) =>
        db.run(
          `WITH above AS (DELETE FROM $.passes WHERE pass_key IN
             (SELECT pass_key FROM $.passes WHERE principal = $3 AND kind = $2 ORDER BY pass_key DESC OFFSET $6::int))
           INSERT INTO $.passes (hash, kind, principal, content, expires_at)
           SELECT $1, $2, $3, $4, $now + $5::float8`,
          hash,
          kind,
          principal,
          content,
          ttlMs,
          most - 1,
        ),
      );
    },
    find: (query) => engine.single((db) => contentOf(db, `SELECT content FROM $.passes WHERE ${GOOD}`, query)),
    take: (query) =>
      engine.single((db) => contentOf(db, `DELETE FROM $.passes WHERE ${GOOD} RETURNING content`, query)),
  };
}

const GOOD = "hash = $1 AND kind = $2 AND expires_at > $now";

const contentOf = async (db: Transaction, sql: string, { hash, kind }: PassQuery): Promise<string | undefined> =>
  (await db.get<{ content: string }>(sql, hash, kind))?.content;

/** For the janitor. @returns how many went */
export async function forgetPasses(
  db: Transaction,
  { most = MAX_STORED_PASSES, limit }: { most?: number | undefined; limit: number },
): Promise<number> {
  const expired = await db.run(
    `DELETE FROM $.passes WHERE pass_key IN
       (SELECT pass_key FROM $.passes WHERE expires_at <= (SELECT $now) ORDER BY pass_key LIMIT $1 FOR UPDATE SKIP LOCKED)`,
    limit,
  );
  const above = await db.run(
    `DELETE FROM $.passes WHERE pass_key IN (SELECT pass_key FROM $.passes WHERE pass_key IN
         (SELECT pass_key FROM $.passes ORDER BY pass_key DESC LIMIT $1 OFFSET $2)
       ORDER BY pass_key FOR UPDATE SKIP LOCKED)`,
    limit,
    most,
  );
  return expired + above;
}
