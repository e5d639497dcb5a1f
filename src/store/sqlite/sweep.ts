/**
 * What a node asks once a second, in two statements however much it has in hand (law 4), and in none when
 * no other process has committed since the last time: what this process did itself, it knows.
 */
import type { JobStatus } from "../../protocol/index.ts";
import type { SweepAnswer, SweepQuery } from "../store.ts";
import type { Database } from "./database.ts";

interface SweptJob {
  job_id: string;
  last_n: number;
  state: JobStatus;
  run_epoch: number;
  cancel_requested: number;
  cancel_reason: string | null;
  answers: number;
}

const NOTHING: SweepAnswer = { sessions: [], jobs: [] };

export function sweeper(): (db: Database, query: SweepQuery) => SweepAnswer {
  let seen: number | undefined;
  return (db, query) => {
    if (!query.complete) return sweep(db, query);
    // Moves when another connection commits, never by our own commits.
    const version = db.get<{ data_version: number }>("PRAGMA data_version")?.data_version;
    if (version === seen) return NOTHING;
    const answer = sweep(db, query);
    seen = version;
    return answer;
  };
}

function sweep(db: Database, query: SweepQuery): SweepAnswer {
  const sessions = db.all<{ session_id: string; connection_epoch: number }>(
    `SELECT s.session_id, s.connection_epoch
     FROM json_each(?) wanted CROSS JOIN sessions s ON s.session_id = wanted.value`,
    JSON.stringify(query.sessionIds),
  );
  const jobs = db.all<SweptJob>(
    `SELECT j.job_id, h.last_n, h.state, h.run_epoch, h.cancel_requested, h.cancel_reason, h.answers
     FROM json_each(?) wanted CROSS JOIN jobs j ON j.job_id = wanted.value
       CROSS JOIN job_heads h ON h.job_key = j.job_key`,
    JSON.stringify(query.jobIds),
  );
  return {
    sessions: sessions.map((row) => ({ sessionId: row.session_id, connectionEpoch: row.connection_epoch })),
    jobs: jobs.map((row) => ({
      jobId: row.job_id,
      lastN: row.last_n,
      status: row.state,
      runEpoch: row.run_epoch,
      cancelReason: row.cancel_requested === 1 ? row.cancel_reason : undefined,
      answers: row.answers,
    })),
  };
}
