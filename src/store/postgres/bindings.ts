/**
 * Bindings and the ledger of upstream sessions (store/bindings.ts). Both tables hold hardly more rows than are in use.
 * Locks are taken in one order: conversation, binding, debts by their keys. So whoever comes from a debt looks for the
 * binding that it belongs to before it locks the debt.
 */
import {
  type BindingCensus,
  type BindingClaim,
  type BindingFacet,
  type BindingRecord,
  type BindingRef,
  type BindingState,
  StoreRefusal,
  type UpstreamDebt,
} from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";

const CONVERSATION = "conversation";

interface BindingRow {
  state: BindingState;
  generation: number;
  upstream_id: string | null;
  nonce: string | null;
  prior: "unbound" | "bound" | "lost" | null;
  changed_at: number;
}

interface DebtRow {
  debt_key: number;
  backend: string;
  owner: string;
  record_id: string;
  state: "creating" | "persisting" | "swept";
  nonce: string | null;
  upstream_id: string | null;
  replaces: string | null;
}

export function bindingFacet(engine: Engine): BindingFacet {
  return {
    get: (ref) => engine.single(async (db) => toRecord(ref, await find(db, ref))),
    census: () => engine.read(census),
    claim: (given) => engine.write((db) => claim(db, given)),
    bind: (given) => engine.write((db) => bind(db, given)),
    unclaim: (given) =>
      engine.write(async (db) => {
        if ((await held(db, given)) === undefined) return;
        await restore(db, given.nonce, given.now);
        if (!given.mayExist) {
          await db.run("DELETE FROM $.upstream_debts WHERE nonce = $1 AND state = 'creating'", given.nonce);
        }
      }),
    lose: (given) =>
      engine.write(async (db) => {
        const lost = await db.run(
          `UPDATE $.bindings SET state = 'lost', generation = generation + 1, upstream_id = NULL, changed_at = $1
           WHERE conversation_id = $2 AND backend = $3 AND state = 'bound' AND upstream_id = $4`,
          given.now,
          given.conversationId,
          given.backend,
          given.upstreamId,
        );
        // It may come back one day, and nobody will want it then.
        if (lost > 0) {
          await doom(db, { ...given, owner: CONVERSATION, recordId: given.conversationId, nonce: undefined });
        }
        return lost > 0;
      }),
    intend: (given) =>
      engine.write(async (db) => {
        // One at a time for each record: they are counted.
        await db.get(
          "SELECT pg_advisory_xact_lock(hashtextextended('holdfast record ' || $1, 0))",
          `${given.owner} ${given.recordId}`,
        );
        await requireRoom(db, given);
        await note(db, given);
      }),
    persist: (given) =>
      engine.write(
        async (db) =>
          (await db.run(
            `UPDATE $.upstream_debts SET state = 'persisting', upstream_id = $1, replaces = $2
             WHERE nonce = $3 AND state = 'creating'`,
            given.upstreamId,
            given.replaces ?? null,
            given.nonce,
          )) > 0,
      ),
    settle: (given) =>
      engine.write(async (db) => {
        const debt = await db.get<DebtRow>(
          "DELETE FROM $.upstream_debts WHERE nonce = $1 AND state = 'persisting' RETURNING *",
          given.nonce,
        );
        if (debt === undefined) return;
        const { backend, owner, record_id: recordId } = debt;
        const nobodys = [debt.upstream_id, debt.replaces].filter((id) => id !== null && id !== given.holds);
        for (const upstreamId of nobodys as string[]) {
          await doom(db, { backend, owner, recordId, nonce: undefined, upstreamId, now: given.now });
        }
      }),
    doom: (given) => engine.write((db) => doom(db, given)),
    gone: (given) => engine.write((db) => gone(db, given)),
    async sweep(given) {
      // A look costs no lock, and mostly there is nothing.
      const any = await engine.single((db) => due(db, { ...given, limit: 1 }));
      return any.length === 0 ? [] : await engine.write((db) => sweep(db, given));
    },
  };
}

/** The conversation is being deleted, and locked: what it has upstream is to go, and whoever binds has lost his claim. */
export async function releaseBindings(db: Transaction, conversationId: string, now: number): Promise<void> {
  const rows = await db.all<BindingRow & { backend: string }>(
    "SELECT * FROM $.bindings WHERE conversation_id = $1 ORDER BY backend FOR UPDATE",
    conversationId,
  );
  for (const { backend, upstream_id: upstreamId, nonce } of rows) {
    if (nonce !== null) {
      await db.run("UPDATE $.upstream_debts SET state = 'swept' WHERE nonce = $1 AND state = 'creating'", nonce);
    }
    if (upstreamId !== null) {
      await doom(db, { backend, owner: CONVERSATION, recordId: conversationId, nonce: undefined, upstreamId, now });
    }
    await db.run(
      `UPDATE $.bindings SET state = 'released', generation = generation + 1, upstream_id = NULL, nonce = NULL,
         prior = NULL, changed_at = $1 WHERE conversation_id = $2 AND backend = $3`,
      now,
      conversationId,
      backend,
    );
    await dropReleased(db, { conversationId, backend });
  }
}

/** A released binding is kept until what it had is gone. */
async function dropReleased(db: Transaction, { conversationId, backend }: BindingRef): Promise<void> {
  await db.run(
    `DELETE FROM $.bindings WHERE conversation_id = $1 AND backend = $2 AND state = 'released' AND NOT EXISTS
       (SELECT FROM $.upstream_debts WHERE owner = $3 AND record_id = $1 AND backend = $2)`,
    conversationId,
    backend,
    CONVERSATION,
  );
}

const FIND = "SELECT * FROM $.bindings WHERE conversation_id = $1 AND backend = $2";

const find = (db: Transaction, ref: BindingRef): Promise<BindingRow | undefined> =>
  db.get<BindingRow>(FIND, ref.conversationId, ref.backend);

const lock = (db: Transaction, ref: BindingRef): Promise<BindingRow | undefined> =>
  db.get<BindingRow>(`${FIND} FOR UPDATE`, ref.conversationId, ref.backend);

const toRecord = ({ conversationId, backend }: BindingRef, row: BindingRow | undefined): BindingRecord => ({
  conversationId,
  backend,
  state: row?.state ?? "unbound",
  generation: row?.generation ?? 0,
  upstreamId: row?.upstream_id ?? undefined,
  changedAt: row?.changed_at ?? 0,
});

async function census(db: Transaction): Promise<BindingCensus> {
  const counts = await db.all<{ state: BindingState; count: number }>(
    "SELECT state, count(*) AS count FROM $.bindings GROUP BY state",
  );
  const of = (state: BindingState) => counts.find((row) => row.state === state)?.count ?? 0;
  const debts = await db.get<{ count: number }>("SELECT count(*) AS count FROM $.upstream_debts");
  return { bound: of("bound"), binding: of("binding"), lost: of("lost"), debts: debts?.count ?? 0 };
}

async function claim(db: Transaction, given: Parameters<BindingFacet["claim"]>[0]): Promise<BindingRecord | undefined> {
  // Whoever claims for the same conversation waits here, so that one of them finds the other's claim.
  const known = await db.get(
    "SELECT 1 FROM $.conversations WHERE conversation_id = $1 FOR UPDATE",
    given.conversationId,
  );
  if (known === undefined) {
    throw new StoreRefusal("unknown_conversation", `there is no conversation ${given.conversationId}`);
  }
  const row = await lock(db, given);
  if (row?.state === "binding" && row.changed_at > given.staleBefore) return undefined;
  await requireRoom(db, { ...given, owner: CONVERSATION, recordId: given.conversationId });
  if (row?.nonce != null) {
    await db.run("UPDATE $.upstream_debts SET state = 'swept' WHERE nonce = $1 AND state = 'creating'", row.nonce);
  }
  await note(db, { ...given, owner: CONVERSATION, recordId: given.conversationId });
  const claimed = await db.get<BindingRow>(
    `INSERT INTO $.bindings AS b (conversation_id, backend, state, generation, upstream_id, nonce, prior, changed_at)
     VALUES ($1, $2, 'binding', 1, NULL, $3, $4, $5)
     ON CONFLICT (conversation_id, backend)
       DO UPDATE SET state = 'binding', generation = b.generation + 1, nonce = $3, prior = $4, changed_at = $5
     RETURNING *`,
    given.conversationId,
    given.backend,
    given.nonce,
    row === undefined ? "unbound" : (row.prior ?? (row.state === "released" ? "unbound" : row.state)),
    given.now,
  );
  return toRecord(given, claimed);
}

/** The binding, locked, where the claim still holds it. */
async function held(db: Transaction, claimed: BindingClaim): Promise<BindingRow | undefined> {
  const row = await lock(db, claimed);
  return row?.state === "binding" && row.nonce === claimed.nonce && row.generation === claimed.generation
    ? row
    : undefined;
}

async function bind(db: Transaction, given: Parameters<BindingFacet["bind"]>[0]): Promise<boolean> {
  const row = await held(db, given);
  if (row === undefined) {
    const now = await find(db, given);
    return now?.state === "bound" && now.upstream_id === given.upstreamId;
  }
  const { conversationId, backend, upstreamId, now } = given;
  await db.run("DELETE FROM $.upstream_debts WHERE nonce = $1", given.nonce);
  if (row.upstream_id !== null && row.upstream_id !== upstreamId) {
    const replaced = { upstreamId: row.upstream_id, nonce: undefined };
    await doom(db, { backend, owner: CONVERSATION, recordId: conversationId, ...replaced, now });
  }
  await db.run(
    `UPDATE $.bindings SET state = 'bound', generation = generation + 1, upstream_id = $1, nonce = NULL, prior = NULL,
       changed_at = $2 WHERE conversation_id = $3 AND backend = $4`,
    upstreamId,
    now,
    conversationId,
    backend,
  );
  return true;
}

/** The binding that waits for this nonce is as it was before. */
async function restore(db: Transaction, nonce: string, now: number): Promise<void> {
  await db.run(
    `UPDATE $.bindings SET state = prior, generation = generation + 1, nonce = NULL, prior = NULL, changed_at = $1
     WHERE nonce = $2`,
    now,
    nonce,
  );
}

/** Who asks a backend again and again that never answers leaves a note each time. */
async function requireRoom(
  db: Transaction,
  given: { owner: string; recordId: string; backend: string; maxNoted: number },
): Promise<void> {
  const noted = await db.get<{ count: number }>(
    `SELECT count(*) AS count FROM $.upstream_debts
     WHERE owner = $1 AND record_id = $2 AND backend = $3 AND nonce IS NOT NULL AND upstream_id IS NULL`,
    given.owner,
    given.recordId,
    given.backend,
  );
  if ((noted?.count ?? 0) >= given.maxNoted) {
    throw new StoreRefusal("limit_exceeded", `${given.maxNoted} sessions of ${given.recordId} may exist upstream`);
  }
}

async function note(db: Transaction, given: Omit<Parameters<BindingFacet["intend"]>[0], "maxNoted">): Promise<void> {
  await db.run(
    `INSERT INTO $.upstream_debts (backend, owner, record_id, state, nonce, made_at)
     VALUES ($1, $2, $3, 'creating', $4, $5)`,
    given.backend,
    given.owner,
    given.recordId,
    given.nonce,
    given.now,
  );
}

async function doom(db: Transaction, given: Parameters<BindingFacet["doom"]>[0]): Promise<void> {
  if (given.nonce !== undefined) await db.run("DELETE FROM $.upstream_debts WHERE nonce = $1", given.nonce);
  await db.run(
    `INSERT INTO $.upstream_debts (backend, owner, record_id, state, upstream_id, made_at)
     VALUES ($1, $2, $3, 'swept', $4, $5) ON CONFLICT DO NOTHING`,
    given.backend,
    given.owner,
    given.recordId,
    given.upstreamId,
    given.now,
  );
}

async function gone(db: Transaction, given: Parameters<BindingFacet["gone"]>[0]): Promise<void> {
  const [wanted, value] =
    "nonce" in given
      ? (["nonce = $2", given.nonce] as const)
      : (["upstream_id = $2 AND state = 'swept'", given.upstreamId] as const);
  const debt = await db.get<DebtRow>(
    `SELECT * FROM $.upstream_debts WHERE backend = $1 AND ${wanted}`,
    given.backend,
    value,
  );
  if (debt === undefined) return;
  const ref = { conversationId: debt.record_id, backend: debt.backend };
  const bound = debt.owner === CONVERSATION;
  if (bound) await lock(db, ref);
  await db.run("DELETE FROM $.upstream_debts WHERE debt_key = $1", debt.debt_key);
  if (bound) await dropReleased(db, ref);
}

type Sweep = Parameters<BindingFacet["sweep"]>[0];

const due = (db: Transaction, given: Sweep): Promise<DebtRow[]> =>
  db.all<DebtRow>(
    `SELECT * FROM $.upstream_debts WHERE backend = $1 AND debt_key > $2
       AND (made_at <= $3 OR (state = 'swept' AND upstream_id IS NOT NULL))
     ORDER BY debt_key LIMIT $4`,
    given.backend,
    given.after,
    given.madeBefore,
    given.limit,
  );

async function sweep(db: Transaction, given: Sweep): Promise<UpstreamDebt[]> {
  const seen = await due(db, given);
  const nonces = seen.flatMap(({ state, nonce }) => (state === "creating" && nonce !== null ? [nonce] : []));
  await db.all("SELECT 1 FROM $.bindings WHERE nonce = ANY($1) ORDER BY conversation_id, backend FOR UPDATE", nonces);
  const rows = await db.all<DebtRow>(
    "SELECT * FROM $.upstream_debts WHERE debt_key = ANY($1) ORDER BY debt_key FOR UPDATE",
    seen.map((row) => row.debt_key),
  );
  const swept: UpstreamDebt[] = [];
  for (const row of rows) {
    if (row.state === "creating") {
      await db.run("UPDATE $.upstream_debts SET state = 'swept' WHERE debt_key = $1", row.debt_key);
      if (row.nonce !== null) await restore(db, row.nonce, given.now);
    }
    swept.push({
      debtId: row.debt_key,
      backend: row.backend,
      owner: row.owner,
      recordId: row.record_id,
      state: row.state === "persisting" ? "persisting" : "swept",
      nonce: row.nonce ?? undefined,
      upstreamId: row.upstream_id ?? undefined,
    });
  }
  return swept;
}
