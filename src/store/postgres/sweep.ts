/** What a node asks once a second, in one statement however much it has in hand (law 4). */
import type { JobStatus } from "../../protocol/index.ts";
import type { SweepAnswer, SweepQuery } from "../store.ts";
import type { Transaction } from "./database.ts";

interface SweptRow {
  session_id: string | null;
  connection_epoch: number;
  /** Where it is no session. */
  job_id: string;
  last_n: number;
  state: JobStatus;
  run_epoch: number;
  cancel_requested: boolean;
  cancel_reason: string | null;
  answers: number;
}

export async function sweep(db: Transaction, query: SweepQuery): Promise<SweepAnswer> {
  const rows = await db.all<SweptRow>(
    `SELECT s.session_id, s.connection_epoch, NULL AS job_id, NULL AS last_n, NULL AS state, NULL AS run_epoch,
       NULL AS cancel_requested, NULL AS cancel_reason, NULL AS answers
     FROM $.sessions s WHERE s.session_id = ANY($1)
     UNION ALL
     SELECT NULL, NULL, j.job_id, h.last_n, h.state, h.run_epoch, h.cancel_requested, h.cancel_reason, h.answers
     FROM $.jobs j JOIN $.job_heads h ON h.job_key = j.job_key WHERE j.job_id = ANY($2)`,
    query.sessionIds,
    query.jobIds,
  );
  const answer: SweepAnswer = { sessions: [], jobs: [] };
  for (const row of rows) {
    if (row.session_id !== null) {
      answer.sessions.push({ sessionId: row.session_id, connectionEpoch: row.connection_epoch });
      continue;
    }
    answer.jobs.push({
      jobId: row.job_id,
      lastN: row.last_n,
      status: row.state,
      runEpoch: row.run_epoch,
      cancelReason: row.cancel_requested ? row.cancel_reason : undefined,
      answers: row.answers,
    });
  }
  return answer;
}
