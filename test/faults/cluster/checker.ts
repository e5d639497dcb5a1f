/**
 * Says what went wrong in a cluster. Streams and turns have checkers of their own, which know nothing of nodes; here
 * their verdicts come together, and each job's log is looked at: one attempt after the other, nothing missing, one end,
 * and the end that its clients were told.
 */
import { check, type Evidence } from "../checker.ts";
import { readMessage, type Start, type Written } from "../journal.ts";
import { checkTurns, type Disturbance } from "../turns/checker.ts";
import type { Correspondence, RunEntry } from "../turns/journal.ts";
import type { TurnInput } from "../turns/plan.ts";
import type { StoredJob } from "../turns/watch.ts";
import type { StoredCluster } from "./witness.ts";

export interface ClusterEvidence {
  /** Each client's journal, by its name. */
  clients: ReadonlyMap<string, readonly Written[]>;
  /** What each node's agents of turns wrote down, by its name. */
  nodes: ReadonlyMap<string, readonly RunEntry[]>;
  starts: readonly Start[];
  stored: StoredCluster;
  disturbances: readonly Disturbance[];
  mayEnd: Evidence["mayEnd"];
}

export interface ClusterVerdict {
  /** Numbered messages that arrived, each counted once in its session. */
  events: number;
  lost: number;
  duplicated: number;
  reordered: number;
  /** Two turns of a conversation at once. */
  overlapped: number;
  /** What was still busy at the end. */
  stuck: number;
  jobs: number;
  turns: number;
  /** Attempts after the first. */
  restarts: number;
  findings: string[];
}

const isTerminal = (kind: string) => kind === "job.result" || kind === "job.error";

interface Body {
  body?: { phase?: string; message?: string; attempt?: number };
  final_status?: string;
  details?: { reason?: string };
}

export function checkCluster(evidence: ClusterEvidence): ClusterVerdict {
  const { clients, starts, stored, mayEnd } = evidence;
  const turnJobs = new Set(stored.turns.jobs.map(({ jobId }) => jobId));
  const streams = check({ journals: clients, starts, mayEnd, judged: turnJobs });
  const turns = checkTurns({
    messages: messagesOf(clients),
    correspondence: correspondenceOf(clients),
    journals: evidence.nodes,
    stored: stored.turns,
    disturbances: evidence.disturbances,
  });
  const logs = new Logs(evidence);
  for (const job of stored.jobs) logs.look(job);
  logs.told();
  return {
    events: streams.events,
    lost: streams.lost + turns.lost + logs.lost,
    duplicated: streams.duplicated + turns.doubled + logs.duplicated,
    reordered: streams.reordered + turns.reordered + logs.reordered,
    overlapped: turns.overlapped,
    stuck: turns.stuck + logs.stuck,
    jobs: stored.jobs.length,
    turns: turns.turns,
    restarts: logs.restarts,
    findings: [...streams.findings, ...turns.findings, ...logs.findings],
  };
}

/** The logs of all jobs, as they are in the database. */
class Logs {
  lost = 0;
  duplicated = 0;
  reordered = 0;
  stuck = 0;
  restarts = 0;
  readonly findings: string[] = [];
  readonly #evidence: ClusterEvidence;
  readonly #ends = new Map<string, string>();

  constructor(evidence: ClusterEvidence) {
    this.#evidence = evidence;
  }

  look(job: StoredJob): void {
    const name = `${job.label} (${job.jobId})`;
    let epoch = 0;
    let attempt = 1;
    for (const [index, event] of job.events.entries()) {
      const what = `event ${event.n} of ${name}`;
      if (event.n !== index + 1) this.#found("lost", `event ${index + 1} of ${name} is not in its log`);
      if (event.runEpoch < epoch) this.#found("reordered", `${what} is of an attempt that was over`);
      epoch = Math.max(epoch, event.runEpoch);
      if (isTerminal(event.kind)) continue;
      const { body } = JSON.parse(event.payload) as Body;
      if (event.kind === "status" && body?.phase === "restarted") {
        this.restarts += 1;
        if (body.attempt === undefined || body.attempt <= attempt) {
          this.#found("duplicated", `${what} begins attempt ${body.attempt} after ${attempt}`);
        }
        attempt = Math.max(attempt, body.attempt ?? 0);
      }
      const message = event.kind === "log" ? readMessage(body?.message ?? "") : undefined;
      if (message !== undefined && message.attempt !== attempt) {
        this.#found("reordered", `${what} is of attempt ${message.attempt}, in the midst of attempt ${attempt}`);
      }
    }
    this.#end(name, job);
  }

  #end(name: string, job: StoredJob): void {
    const ends = job.events.filter(({ kind }) => isTerminal(kind));
    const [end] = ends;
    if (job.endedAt === null) this.#found("stuck", `${name} is ${job.state}`);
    if (end === undefined) {
      this.#found("lost", `${name} has no terminal event in its log`);
      return;
    }
    if (ends.length > 1) this.#found("duplicated", `${name} has ${ends.length} terminal events in its log`);
    if (job.events.at(-1) !== end) this.#found("duplicated", `${name} has events behind its terminal one`);
    const { final_status: status, details } = JSON.parse(end.payload) as Body;
    this.#ends.set(job.jobId, String(status));
    if (details?.reason === "node_lost" && !this.#evidence.mayEnd.nodeLost) {
      this.#found("lost", `${name} was ended as its node's, and no node was lost`);
    }
  }

  /** What clients were told of jobs that are not there, or that ended otherwise. */
  told(): void {
    for (const [client, journal] of this.#evidence.clients) {
      for (const entry of journal) {
        if (entry.t === "accepted" && !this.#evidence.stored.jobs.some(({ jobId }) => jobId === entry.jobId)) {
          this.#found("lost", `${client}: ${entry.label} was accepted as ${entry.jobId}, which is not there`);
        }
        if (entry.t !== "terminal") continue;
        const { final_status: told } = entry.terminal as Body;
        const stored = this.#ends.get(entry.jobId);
        if (told !== stored)
          this.#found("lost", `${client}: ${entry.jobId} ended as ${told}, and is stored as ${stored}`);
      }
    }
  }

  #found(count: "lost" | "duplicated" | "reordered" | "stuck", what: string): void {
    this[count] += 1;
    this.findings.push(`${count}: ${what}`);
  }
}

/** The turns that clients asked for, each once. */
function messagesOf(clients: ClusterEvidence["clients"]) {
  const messages = new Map<string, { label: string; onBusy: "reject" | "enqueue" | "interrupt"; input: TurnInput }>();
  for (const entry of [...clients.values()].flat()) {
    if (entry.t !== "submit" || entry.submission.turn === undefined) continue;
    const { onBusy } = entry.submission.turn;
    messages.set(entry.label, { label: entry.label, onBusy, input: entry.submission.input as TurnInput });
  }
  return [...messages.values()];
}

/** What clients sent and were answered, in the order of time; of two at one moment nobody knows which was first. */
function correspondenceOf(clients: ClusterEvidence["clients"]): Correspondence[] {
  const letters: { at: number; letter: Correspondence }[] = [];
  for (const journal of clients.values()) {
    const turns = new Set<string>();
    for (const entry of journal) {
      if (entry.t === "submit" && entry.submission.turn !== undefined) turns.add(entry.label);
      const letter = "label" in entry && turns.has(entry.label) ? letterOf(entry) : undefined;
      if (letter !== undefined) letters.push({ at: entry.at, letter });
    }
  }
  const sentFirst = ({ letter }: (typeof letters)[number]) => (letter.t === "sent" ? 0 : 1);
  return letters.sort((a, b) => a.at - b.at || sentFirst(a) - sentFirst(b)).map(({ letter }) => letter);
}

function letterOf(entry: Written): Correspondence | undefined {
  switch (entry.t) {
    case "submit":
      return { t: "sent", label: entry.label };
    case "accepted":
      return { t: "answered", label: entry.label, answer: { said: "accepted", jobId: entry.jobId } };
    case "refused":
      return { t: "answered", label: entry.label, answer: { said: "refused", code: entry.code } };
    case "rejected":
      return { t: "answered", label: entry.label, answer: { said: "unclear", why: entry.message } };
    default:
      return undefined;
  }
}
