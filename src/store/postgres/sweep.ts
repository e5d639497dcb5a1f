/** What a node asks once a second, in one statement however much it has in hand (law 4). */
import type { JobStatus } from "../../protocol/index.ts";
import type { SweepAnswer, SweepQuery } from "../store.ts";
import { WAITING_JOBS } from "./claims.ts";
import { CLAIMABLE } from "./conversations.ts";
import type { Transaction } from "./database.ts";
import { MAY_BE_CLAIMED } from "./deliveries.ts";

interface SweptRow {
  session_id: string | null;
  connection_epoch: number;
  /** Where it is a job. */
  job_id: string | null;
  last_n: number;
  state: JobStatus;
  run_epoch: number;
  cancel_requested: boolean;
  cancel_reason: string | null;
  answers: number;
  /** Where it is neither. */
  jobs_wait: boolean;
  turns_wait: boolean;
  deliveries_wait: boolean;
}

const IN_HAND = `SELECT s.session_id, s.connection_epoch, NULL AS job_id, NULL AS last_n, NULL AS state, NULL AS run_epoch,
    NULL AS cancel_requested, NULL AS cancel_reason, NULL AS answers,
    NULL::boolean AS jobs_wait, NULL::boolean AS turns_wait, NULL::boolean AS deliveries_wait
  FROM $.sessions s WHERE s.session_id = ANY($1)
  UNION ALL
  SELECT NULL, NULL, j.job_id, h.last_n, h.state, h.run_epoch, h.cancel_requested, h.cancel_reason, h.answers,
    NULL, NULL, NULL
  FROM $.jobs j JOIN $.job_heads h ON h.job_key = j.job_key WHERE j.job_id = ANY($2)`;

/** The agents of what waits are its first parameter. */
const WITH_WAITING = `${IN_HAND.replace("ANY($1)", "ANY($3)").replace("ANY($2)", "ANY($4)")}
  UNION ALL
  SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    EXISTS (SELECT ${WAITING_JOBS}), EXISTS (SELECT FROM $.conversations c WHERE ${CLAIMABLE}),
    EXISTS (SELECT FROM $.deliveries d WHERE ${MAY_BE_CLAIMED} AND d.channel = ANY($2))`;

export async function sweep(db: Transaction, query: SweepQuery): Promise<SweepAnswer> {
  const { sessionIds, jobIds, takes } = query;
  const rows =
    takes === undefined
      ? await db.all<SweptRow>(IN_HAND, sessionIds, jobIds)
      : await db.all<SweptRow>(WITH_WAITING, takes.agents, takes.channels, sessionIds, jobIds);
  const answer: SweepAnswer = { sessions: [], jobs: [] };
  for (const row of rows) {
    if (row.session_id !== null) {
      answer.sessions.push({ sessionId: row.session_id, connectionEpoch: row.connection_epoch });
      continue;
    }
    if (row.job_id === null) {
      answer.waiting = { jobs: row.jobs_wait, turns: row.turns_wait, deliveries: row.deliveries_wait };
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
