/** Bindings and the ledger of upstream sessions (store/bindings.ts). Both tables hold hardly more rows than are in use. */
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
import type { Database } from "./database.ts";
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
    get: (ref) => engine.read((db) => toRecord(ref, find(db, ref))),
    census: () => engine.read(census),
    claim: (given) => engine.write((db) => claim(db, given)),
    bind: (given) => engine.write((db) => bind(db, given)),
    unclaim: (given) =>
      engine.write((db) => {
        const row = held(db, given);
        if (row === undefined) return;
        restore(db, given.nonce, given.now);
        if (!given.mayExist) db.run("DELETE FROM upstream_debts WHERE nonce = ? AND state = 'creating'", given.nonce);
      }),
    lose: (given) =>
      engine.write((db) => {
        const lost = db.run(
          `UPDATE bindings SET state = 'lost', generation = generation + 1, upstream_id = NULL, changed_at = ?
           WHERE conversation_id = ? AND backend = ? AND state = 'bound' AND upstream_id = ?`,
          given.now,
          given.conversationId,
          given.backend,
          given.upstreamId,
        );
        // It may come back one day, and nobody will want it then.
        if (lost > 0) doom(db, { ...given, owner: CONVERSATION, recordId: given.conversationId, nonce: undefined });
        return lost > 0;
      }),
    intend: (given) =>
      engine.write((db) => {
        requireRoom(db, given);
        note(db, given);
      }),
    persist: (given) =>
      engine.write(
        (db) =>
          db.run(
            "UPDATE upstream_debts SET state = 'persisting', upstream_id = ?, replaces = ? WHERE nonce = ? AND state = 'creating'",
            given.upstreamId,
            given.replaces ?? null,
            given.nonce,
          ) > 0,
      ),
    settle: (given) =>
      engine.write((db) => {
        const debt = db.get<DebtRow>(
          "SELECT * FROM upstream_debts WHERE nonce = ? AND state = 'persisting'",
          given.nonce,
        );
        if (debt === undefined) return;
        db.run("DELETE FROM upstream_debts WHERE debt_key = ?", debt.debt_key);
        for (const upstreamId of [debt.upstream_id, debt.replaces]) {
          if (upstreamId === null || upstreamId === given.holds) continue;
          const { backend, owner, record_id: recordId } = debt;
          doom(db, { backend, owner, recordId, nonce: undefined, upstreamId, now: given.now });
        }
      }),
    doom: (given) => engine.write((db) => doom(db, given)),
    gone: (given) =>
      engine.write((db) => {
        const [column, value] =
          "nonce" in given ? (["nonce", given.nonce] as const) : (["upstream_id", given.upstreamId] as const);
        const debt = db.get<DebtRow>(
          `SELECT * FROM upstream_debts WHERE backend = ? AND ${column} = ? ${column === "nonce" ? "" : "AND state = 'swept'"}`,
          given.backend,
          value,
        );
        if (debt === undefined) return;
        db.run("DELETE FROM upstream_debts WHERE debt_key = ?", debt.debt_key);
        if (debt.owner === CONVERSATION) dropReleased(db, { conversationId: debt.record_id, backend: debt.backend });
      }),
    async sweep(given) {
      // A look costs no lock, and mostly there is nothing.
      const any = await engine.read((db) =>
        db.get("SELECT 1 FROM upstream_debts WHERE backend = ? AND debt_key > ? LIMIT 1", given.backend, given.after),
      );
      return any === undefined ? [] : await engine.write((db) => sweep(db, given));
    },
  };
}

/** The conversation is being deleted: what it has upstream is to go, and whoever binds has lost his claim. */
export function releaseBindings(db: Database, conversationId: string, now: number): void {
  const rows = db.all<BindingRow & { backend: string }>(
    "SELECT * FROM bindings WHERE conversation_id = ?",
    conversationId,
  );
  for (const { backend, upstream_id: upstreamId, nonce } of rows) {
    if (nonce !== null) {
      db.run("UPDATE upstream_debts SET state = 'swept' WHERE nonce = ? AND state = 'creating'", nonce);
    }
    if (upstreamId !== null) {
      doom(db, { backend, owner: CONVERSATION, recordId: conversationId, nonce: undefined, upstreamId, now });
    }
    db.run(
      `UPDATE bindings SET state = 'released', generation = generation + 1, upstream_id = NULL, nonce = NULL, prior = NULL,
         changed_at = ? WHERE conversation_id = ? AND backend = ?`,
      now,
      conversationId,
      backend,
    );
    dropReleased(db, { conversationId, backend });
  }
}

/** A released binding is kept until what it had is gone. */
function dropReleased(db: Database, { conversationId, backend }: BindingRef): void {
  db.run(
    `DELETE FROM bindings WHERE conversation_id = ?1 AND backend = ?2 AND state = 'released' AND NOT EXISTS
       (SELECT 1 FROM upstream_debts WHERE owner = ?3 AND record_id = ?1 AND backend = ?2)`,
    conversationId,
    backend,
    CONVERSATION,
  );
}

const find = (db: Database, ref: BindingRef): BindingRow | undefined =>
  db.get<BindingRow>(
    "SELECT * FROM bindings WHERE conversation_id = ? AND backend = ?",
    ref.conversationId,
    ref.backend,
  );

const toRecord = ({ conversationId, backend }: BindingRef, row: BindingRow | undefined): BindingRecord => ({
  conversationId,
  backend,
  state: row?.state ?? "unbound",
  generation: row?.generation ?? 0,
  upstreamId: row?.upstream_id ?? undefined,
  changedAt: row?.changed_at ?? 0,
});

function census(db: Database): BindingCensus {
  const counts = db.all<{ state: BindingState; count: number }>(
    "SELECT state, count(*) AS count FROM bindings GROUP BY state",
  );
  const of = (state: BindingState) => counts.find((row) => row.state === state)?.count ?? 0;
  const debts = db.get<{ count: number }>("SELECT count(*) AS count FROM upstream_debts")?.count ?? 0;
  return { bound: of("bound"), binding: of("binding"), lost: of("lost"), debts };
}

function claim(db: Database, given: Parameters<BindingFacet["claim"]>[0]): BindingRecord | undefined {
  if (db.get("SELECT 1 FROM conversations WHERE conversation_id = ?", given.conversationId) === undefined) {
    throw new StoreRefusal("unknown_conversation", `there is no conversation ${given.conversationId}`);
  }
  const row = find(db, given);
  if (row?.state === "binding" && row.changed_at > given.staleBefore) return undefined;
  requireRoom(db, { ...given, owner: CONVERSATION, recordId: given.conversationId });
  if (row?.nonce != null) {
    db.run("UPDATE upstream_debts SET state = 'swept' WHERE nonce = ? AND state = 'creating'", row.nonce);
  }
  note(db, { ...given, owner: CONVERSATION, recordId: given.conversationId });
  db.run(
    `INSERT INTO bindings (conversation_id, backend, state, generation, upstream_id, nonce, prior, changed_at)
     VALUES (?1, ?2, 'binding', 1, NULL, ?3, ?4, ?5)
     ON CONFLICT DO UPDATE SET state = 'binding', generation = generation + 1, nonce = ?3, prior = ?4, changed_at = ?5`,
    given.conversationId,
    given.backend,
    given.nonce,
    row === undefined ? "unbound" : (row.prior ?? (row.state === "released" ? "unbound" : row.state)),
    given.now,
  );
  return toRecord(given, find(db, given));
}

/** The binding, where the claim still holds it. */
function held(db: Database, claimed: BindingClaim): BindingRow | undefined {
  const row = find(db, claimed);
  return row?.state === "binding" && row.nonce === claimed.nonce && row.generation === claimed.generation
    ? row
    : undefined;
}

function bind(db: Database, given: Parameters<BindingFacet["bind"]>[0]): boolean {
  const row = held(db, given);
  if (row === undefined) {
    const now = find(db, given);
    return now?.state === "bound" && now.upstream_id === given.upstreamId;
  }
  const { conversationId, backend, upstreamId, now } = given;
  db.run("DELETE FROM upstream_debts WHERE nonce = ?", given.nonce);
  if (row.upstream_id !== null && row.upstream_id !== upstreamId) {
    const replaced = { upstreamId: row.upstream_id, nonce: undefined };
    doom(db, { backend, owner: CONVERSATION, recordId: conversationId, ...replaced, now });
  }
  db.run(
    `UPDATE bindings SET state = 'bound', generation = generation + 1, upstream_id = ?, nonce = NULL, prior = NULL,
       changed_at = ? WHERE conversation_id = ? AND backend = ?`,
    upstreamId,
    now,
    conversationId,
    backend,
  );
  return true;
}

/** The binding that waits for this nonce is as it was before. */
function restore(db: Database, nonce: string, now: number): void {
  db.run(
    `UPDATE bindings SET state = prior, generation = generation + 1, nonce = NULL, prior = NULL, changed_at = ?
     WHERE nonce = ?`,
    now,
    nonce,
  );
}

/** Who asks a backend again and again that never answers leaves a note each time. */
function requireRoom(
  db: Database,
  given: { owner: string; recordId: string; backend: string; maxNoted: number },
): void {
  const noted = db.get<{ count: number }>(
    `SELECT count(*) AS count FROM upstream_debts
     WHERE owner = ? AND record_id = ? AND backend = ? AND nonce IS NOT NULL AND upstream_id IS NULL`,
    given.owner,
    given.recordId,
    given.backend,
  );
  if ((noted?.count ?? 0) >= given.maxNoted) {
    throw new StoreRefusal("limit_exceeded", `${given.maxNoted} sessions of ${given.recordId} may exist upstream`);
  }
}

function note(db: Database, given: Omit<Parameters<BindingFacet["intend"]>[0], "maxNoted">): void {
  db.run(
    "INSERT INTO upstream_debts (backend, owner, record_id, state, nonce, made_at) VALUES (?, ?, ?, 'creating', ?, ?)",
    given.backend,
    given.owner,
    given.recordId,
    given.nonce,
    given.now,
  );
}

function doom(db: Database, given: Parameters<BindingFacet["doom"]>[0]): void {
  if (given.nonce !== undefined) db.run("DELETE FROM upstream_debts WHERE nonce = ?", given.nonce);
  db.run(
    `INSERT INTO upstream_debts (backend, owner, record_id, state, upstream_id, made_at) VALUES (?, ?, ?, 'swept', ?, ?)
     ON CONFLICT DO NOTHING`,
    given.backend,
    given.owner,
    given.recordId,
    given.upstreamId,
    given.now,
  );
}

function sweep(db: Database, given: Parameters<BindingFacet["sweep"]>[0]): UpstreamDebt[] {
  const due = db.all<DebtRow>(
    `SELECT * FROM upstream_debts WHERE backend = ? AND debt_key > ?
       AND (made_at <= ? OR (state = 'swept' AND upstream_id IS NOT NULL))
     ORDER BY debt_key LIMIT ?`,
    given.backend,
    given.after,
    given.madeBefore,
    given.limit,
  );
  return due.map((row) => {
    if (row.state === "creating") {
      db.run("UPDATE upstream_debts SET state = 'swept' WHERE debt_key = ?", row.debt_key);
      if (row.nonce !== null) restore(db, row.nonce, given.now);
    }
    return {
      debtId: row.debt_key,
      backend: row.backend,
      owner: row.owner,
      recordId: row.record_id,
      state: row.state === "persisting" ? "persisting" : "swept",
      nonce: row.nonce ?? undefined,
      upstreamId: row.upstream_id ?? undefined,
    };
  });
}
