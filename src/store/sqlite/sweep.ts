/**
 * What a node asks once a second, in three statements however much it has in hand (law 4). What it has is looked at only
 * when another process has committed since the last time: what this process did itself, it knows. What waits for a node
 * becomes due with time alone.
 */
import type { JobStatus } from "../../protocol/index.ts";
import type { SweepAnswer, SweepQuery } from "../store.ts";
import { claimableJobs } from "./claims.ts";
import { claimableTurns } from "./conversations.ts";
import type { Database } from "./database.ts";
import { claimableDeliveries } from "./deliveries.ts";

interface SweptJob {
  job_id: string;
  last_n: number;
  state: JobStatus;
  run_epoch: number;
  cancel_requested: number;
  cancel_reason: string | null;
  answers: number;
}

export function sweeper(): (db: Database, query: SweepQuery) => SweepAnswer {
  let seen: number | undefined;
  return (db, query) => {
    if (!query.complete) return sweep(db, query);
    const waits = query.takes === undefined ? {} : { waiting: waitingFor(db, query.takes) };
    // Moves when another connection commits, never by our own commits.
    const version = db.get<{ data_version: number }>("PRAGMA data_version")?.data_version;
    if (version === seen) return { sessions: [], jobs: [], ...waits };
    const answer = sweep(db, query);
    seen = version;
    return { ...answer, ...waits };
  };
}

function waitingFor(
  db: Database,
  { agents, channels, now }: NonNullable<SweepQuery["takes"]>,
): NonNullable<SweepAnswer["waiting"]> {
  const row = db.get<{ jobs: number; turns: number; deliveries: number }>(
    `SELECT EXISTS (${claimableJobs("?2")}) AS jobs, EXISTS (${claimableTurns("?1", "?2")}) AS turns,
       EXISTS (${claimableDeliveries("?1", "?3")}) AS deliveries`,
    now,
    JSON.stringify(agents),
    JSON.stringify(channels),
  );
  return { jobs: row?.jobs === 1, turns: row?.turns === 1, deliveries: row?.deliveries === 1 };
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
