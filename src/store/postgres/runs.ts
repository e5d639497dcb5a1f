/**
 * Runs: which events got which numbers of a session (law 2). What many sessions are about to send goes to the server
 * in one statement, which is its own transaction; its function (migrations/) takes what simply continues a session.
 * Where a job has delegated, or the numbers do not fit, it is decided for that session alone.
 */
import {
  type ConnectionRef,
  type DelegatedJob,
  type NewRun,
  type OpenedChild,
  type SessionFacet,
  StoreRefusal,
} from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";
import { fence } from "./fence.ts";
import { followChild } from "./follows.ts";
import { GroupCommit } from "./group-commit.ts";
import { storeChildReply } from "./replies.ts";

const SESSIONS_PER_CALL = 64;
const RUNS_PER_CALL = 512;

interface Item {
  ref: ConnectionRef;
  runs: readonly NewRun[];
  frameChild: (child: DelegatedJob) => string;
}

export function runWriter(engine: Engine): SessionFacet["storeRuns"] {
  const group = new GroupCommit<Item, OpenedChild[]>({
    key: ({ ref }) => ref.sessionId,
    maxItems: SESSIONS_PER_CALL,
    maxWeight: RUNS_PER_CALL,
    weight: ({ runs }) => runs.length,
    isPlain,
    call: (items) => engine.singleTracked((db) => storePlain(db, items)),
    alone: (item) => engine.writeTracked((db) => storeRuns(db, item)),
  });
  return (ref, runs, frameChild) => engine.inOrder(ref.sessionId, () => group.add({ ref, runs, frameChild }));
}

/** Whether the runs fit together; whether they fit the session is the server's to see. */
function isPlain({ runs }: Item): boolean {
  const [first] = runs;
  if (first === undefined) return false;
  let lastSeq = first.firstSeq - 1;
  const positions = new Map<string, { lastN: number; ended: boolean }>();
  for (const run of runs) {
    const before = positions.get(run.jobId);
    const fits =
      run.delegateIds === undefined &&
      run.firstSeq === lastSeq + 1 &&
      hasRightSize(run) &&
      (before === undefined || (!before.ended && run.firstN > before.lastN));
    if (!fits) return false;
    lastSeq += run.count;
    positions.set(run.jobId, { lastN: run.lastN, ended: run.endsFollow });
  }
  return true;
}

const hasRightSize = ({ firstN, lastN, count }: NewRun): boolean =>
  lastN >= firstN && count >= 0 && count <= lastN - firstN + 1;

/** How one call moves a follow. */
interface Move {
  item: number;
  jobId: string;
  firstN: number;
  lastN: number;
  lastSeq: number | null;
  ends: boolean;
}

async function storePlain(db: Transaction, items: readonly Item[]): Promise<Map<Item, OpenedChild[]>> {
  const moves: Move[] = [];
  const numbered: { move: number; run: NewRun }[] = [];
  const lastSeqs: number[] = [];
  for (const [index, { runs }] of items.entries()) {
    const own = new Map<string, number>();
    let lastSeq = (runs[0] as NewRun).firstSeq - 1;
    for (const run of runs) {
      lastSeq += run.count;
      let at = own.get(run.jobId);
      if (at === undefined) {
        at = moves.length;
        own.set(run.jobId, at);
        const { jobId, firstN, lastN } = run;
        moves.push({ item: index + 1, jobId, firstN, lastN, lastSeq: null, ends: false });
      }
      const move = moves[at] as Move;
      move.lastN = run.lastN;
      move.ends = run.endsFollow;
      // A stretch of which the session sees nothing takes no number, so there is nothing to read back.
      if (run.count > 0) {
        move.lastSeq = lastSeq;
        numbered.push({ move: at + 1, run });
      }
    }
    lastSeqs.push(lastSeq);
  }
  const row = await db.get<{ taken: number[] }>(
    "SELECT $.store_runs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) AS taken",
    items.map(({ ref }) => ref.sessionId),
    items.map(({ ref }) => ref.connectionEpoch),
    items.map(({ runs }) => (runs[0] as NewRun).firstSeq),
    lastSeqs,
    moves.map((move) => move.item),
    moves.map((move) => move.jobId),
    moves.map((move) => move.firstN),
    moves.map((move) => move.lastN),
    moves.map((move) => move.lastSeq),
    moves.map((move) => move.ends),
    numbered.map(({ move }) => move),
    numbered.map(({ run }) => run.firstSeq),
    numbered.map(({ run }) => run.count),
    numbered.map(({ run }) => run.firstN),
    numbered.map(({ run }) => run.lastN),
  );
  return new Map((row?.taken ?? []).map((item) => [items[item - 1] as Item, []]));
}

/** Where a follow stands while the runs before this one are being checked. */
export interface Standing {
  jobKey: number;
  positionN: number;
  lastSeq: number | undefined;
  open: boolean;
  lastN: number;
  floorN: number;
}

/** Locks the session's follows of these jobs, those that are there: before the session, in the engine's order. */
export async function lockFollows(db: Transaction, sessionId: string, jobIds: readonly string[]): Promise<void> {
  await db.run(
    `SELECT 1 FROM $.follows f JOIN $.sessions s ON s.session_key = f.session_key JOIN $.jobs j ON j.job_key = f.job_key
     WHERE s.session_id = $1 AND j.job_id = ANY($2) ORDER BY f.job_key FOR UPDATE OF f`,
    sessionId,
    jobIds,
  );
}

/** How the session's follows of these jobs stand, locked. Whoever trims a log raises its floor later or has before. */
export async function lockStandings(
  db: Transaction,
  sessionId: string,
  jobIds: readonly string[],
): Promise<Map<string, Standing>> {
  await lockFollows(db, sessionId, jobIds);
  const rows = await db.all<{
    job_id: string;
    job_key: number;
    position_n: number;
    open: boolean;
    last_n: number;
    floor_n: number;
  }>(
    `SELECT j.job_id, h.job_key, f.position_n, f.open, h.last_n, h.floor_n
     FROM $.follows f JOIN $.sessions s ON s.session_key = f.session_key JOIN $.jobs j ON j.job_key = f.job_key
       JOIN $.job_heads h ON h.job_key = f.job_key
     WHERE s.session_id = $1 AND j.job_id = ANY($2)`,
    sessionId,
    jobIds,
  );
  return new Map(
    rows.map((row) => [
      row.job_id,
      {
        jobKey: row.job_key,
        positionN: row.position_n,
        lastSeq: undefined,
        open: row.open,
        lastN: row.last_n,
        floorN: row.floor_n,
      },
    ]),
  );
}

async function storeRuns(db: Transaction, { ref, runs, frameChild }: Item): Promise<OpenedChild[]> {
  await lockFollows(db, ref.sessionId, await followsOf(db, runs));
  const standings = await lockStandings(db, ref.sessionId, [...new Set(runs.map((run) => run.jobId))]);
  const session = await fence(db, ref);
  let lastSeq = session.last_seq;
  for (const run of runs) {
    const standing = standings.get(run.jobId);
    if (standing !== undefined && run.firstN <= standing.floorN) {
      throw new StoreRefusal("below_floor", `the events of ${run.jobId} up to n = ${standing.floorN} are gone`);
    }
    const wrong = standing?.open === true ? wrongNumber(run, lastSeq, standing) : "the session does not follow the job";
    if (standing === undefined || wrong !== undefined) {
      throw new StoreRefusal("wrong_number", `run ${run.firstSeq}+${run.count} of ${run.jobId}: ${wrong}`);
    }
    lastSeq += run.count;
    standing.positionN = run.lastN;
    standing.lastSeq = run.count > 0 ? lastSeq : standing.lastSeq;
    standing.open = !run.endsFollow;
  }

  // A stretch of which the session sees nothing takes no number, so there is nothing to read back.
  const numbered = runs.filter((run) => run.count > 0);
  await db.run(
    `INSERT INTO $.runs (session_key, first_seq, count, job_key, first_n, last_n)
     SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])`,
    session.session_key,
    numbered.map((run) => run.firstSeq),
    numbered.map((run) => run.count),
    numbered.map((run) => (standings.get(run.jobId) as Standing).jobKey),
    numbered.map((run) => run.firstN),
    numbered.map((run) => run.lastN),
  );
  const moved = [...standings.values()];
  await db.run(
    `WITH follow AS (
       UPDATE $.follows f SET position_n = given.position_n, last_seq = coalesce(given.last_seq, f.last_seq),
         open = given.open
       FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[]) AS given(job_key, position_n, last_seq, open)
       WHERE f.session_key = $1 AND f.job_key = given.job_key)
     UPDATE $.sessions SET last_seq = $2 WHERE session_key = $1`,
    session.session_key,
    lastSeq,
    moved.map((standing) => standing.jobKey),
    moved.map((standing) => standing.positionN),
    moved.map((standing) => standing.lastSeq ?? null),
    moved.map((standing) => standing.open),
  );

  const opened: OpenedChild[] = [];
  for (const { jobId, delegateIds } of runs) {
    if (delegateIds === undefined) continue;
    for (const child of await childrenOf(db, session.session_key, jobId, delegateIds)) {
      const frame = frameChild(child);
      await followChild(db, session.session_key, child.jobKey);
      await storeChildReply(db, session.session_key, { jobId: child.jobId, eventSeq: lastSeq, frame });
      opened.push({ jobId: child.jobId, traceId: child.traceId, frame });
    }
  }
  return opened;
}

/** The jobs of the runs, and the children that they may open. */
async function followsOf(db: Transaction, runs: readonly NewRun[]): Promise<string[]> {
  const jobIds = runs.map((run) => run.jobId);
  const delegateIds = runs.flatMap((run) => run.delegateIds ?? []);
  if (delegateIds.length === 0) return jobIds;
  const children = await db.all<{ job_id: string }>(
    "SELECT job_id FROM $.jobs WHERE parent_job_id = ANY($1) AND delegate_id = ANY($2)",
    jobIds,
    delegateIds,
  );
  return [...jobIds, ...children.map((child) => child.job_id)];
}

/** What is wrong with a run's numbers; `undefined` when they fit. */
function wrongNumber(run: NewRun, lastSeq: number, standing: Standing): string | undefined {
  if (run.firstSeq !== lastSeq + 1) {
    return `the next number is ${lastSeq + 1}`;
  }
  if (run.firstN <= standing.positionN) {
    return `its events up to n = ${standing.positionN} have their numbers`;
  }
  if (run.lastN > standing.lastN) {
    return `its events above n = ${standing.lastN} are not stored`;
  }
  if (!hasRightSize(run)) {
    return `it cannot number ${run.count} of the events ${run.firstN} to ${run.lastN}`;
  }
  return undefined;
}

/** Those children of a job that a session gets to know of now: it may cancel their parent, and has none of them yet. */
async function childrenOf(
  db: Transaction,
  sessionKey: number,
  parentJobId: string,
  delegateIds: readonly string[],
): Promise<(DelegatedJob & { jobKey: number })[]> {
  const rows = await db.all<{ job_key: number; job_id: string; trace_id: string; accepted_payload: string }>(
    `SELECT c.job_key, c.job_id, c.trace_id, c.accepted_payload
     FROM unnest($3::text[]) WITH ORDINALITY AS wanted(delegate_id, position)
       JOIN $.jobs c ON c.parent_job_id = $2 AND c.delegate_id = wanted.delegate_id
     WHERE EXISTS (SELECT FROM $.jobs p JOIN $.follows f ON f.job_key = p.job_key
                   WHERE p.job_id = $2 AND f.session_key = $1 AND f.can_cancel)
       AND NOT EXISTS (SELECT FROM $.follows f
                       WHERE f.session_key = $1 AND f.job_key = c.job_key AND f.can_cancel)
     GROUP BY c.job_key ORDER BY min(wanted.position)`,
    sessionKey,
    parentJobId,
    delegateIds,
  );
  return rows.map((row) => ({
    jobKey: row.job_key,
    jobId: row.job_id,
    traceId: row.trace_id,
    acceptedPayload: row.accepted_payload,
  }));
}
