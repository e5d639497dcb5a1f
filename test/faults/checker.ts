/**
 * Says what went wrong in a run, from what the clients wrote down and from which agents reported that they
 * had started. It knows no server and asks none. Numbers are checked on the wire, below the client, and
 * contents both there and as the client handed them out.
 */
import { PAGE } from "./agents.ts";
import { type Entry, type JobInput, type Message, readMessage, repeatable, type Start } from "./journal.ts";

export interface Evidence {
  /** Each client's journal, by its name. */
  journals: ReadonlyMap<string, readonly Entry[]>;
  /** Agents that have started. */
  starts: readonly Start[];
  /** What was done to the servers: how else a job may end than by itself. */
  mayEnd: { nodeLost: boolean; shutdown: boolean };
  /** Jobs whose ends, and the reasons for them, are somebody else's to judge. */
  judged?: ReadonlySet<string>;
}

export interface Verdict {
  /** Numbered messages that arrived, each counted once in its session. */
  events: number;
  lost: number;
  duplicated: number;
  reordered: number;
  findings: string[];
}

interface Frame {
  type: string;
  id: string;
  session_id?: string;
  job_id?: string;
  event_seq?: number;
  extensions?: Record<string, unknown>;
  payload: Record<string, unknown>;
}

interface SessionSeen {
  client: string;
  /** By number: the message as it came. */
  numbered: Map<number, string>;
  highest: number;
  /** Envelope ids of the `accepted` and `subscribed` of each job. */
  openings: Map<string, Set<string>>;
  /** Jobs whose first opening was an `accepted`: they are read from their first event. */
  submitted: Set<string>;
}

interface ConnectionSeen {
  session: SessionSeen | undefined;
  expected: number;
  /** Numbers that were skipped. */
  holes: Set<number>;
}

interface TerminalPayload {
  final_status: string;
  code?: string;
  retryable?: boolean;
  details?: { reason?: string; code?: string };
  result?: { label: string; n: number; sum?: number };
}

const IN_REPLY_TO = "x-vendor.holdfast.in_reply_to";
const LATE_READER = "were dropped, as nobody iterated them";

export function check(evidence: Evidence): Verdict {
  return new Checker(evidence).check();
}

class Checker {
  readonly #evidence: Evidence;
  readonly #verdict: Verdict = { events: 0, lost: 0, duplicated: 0, reordered: 0, findings: [] };
  readonly #sessions = new Map<string, SessionSeen>();
  /** Of each job, what every reader must have seen alike. */
  readonly #contents = new Map<string, Map<string, string>>();
  readonly #terminals = new Map<string, string>();
  readonly #lengths = new Map<string, number>();
  readonly #cancelled = new Set<string>();
  /** Which job each request, key and label was answered with. */
  readonly #answers = new Map<string, string>();

  constructor(evidence: Evidence) {
    this.#evidence = evidence;
  }

  check(): Verdict {
    for (const [client, journal] of this.#evidence.journals) {
      for (const entry of journal) if (entry.t === "cancel") this.#cancelled.add(entry.jobId);
      this.#wire(client, journal);
    }
    for (const [sessionId, session] of this.#sessions) this.#contentsOf(sessionId, session);
    for (const [client, journal] of this.#evidence.journals) this.#handedOut(client, journal);
    this.#starts();
    return this.#verdict;
  }

  #found(what: string): void {
    this.#verdict.findings.push(what);
  }

  // ------------------------------------------------------------------------------------------ wire

  #wire(client: string, journal: readonly Entry[]): void {
    let process = 0;
    const connections = new Map<string, ConnectionSeen>();
    const submits = new Map<string, { key: string | undefined; label: string }>();
    const abandoned: string[] = [];
    let last: SessionSeen | undefined;
    for (const entry of journal) {
      if (entry.t === "start") process += 1;
      if (entry.t === "abandoned") abandoned.push(entry.label);
      if (entry.t !== "in" && entry.t !== "out") continue;
      const frame = JSON.parse(entry.frame) as Frame;
      const where = `${process}.${entry.c}`;
      if (entry.t === "out") {
        if (frame.type === "session.hello") connections.set(where, this.#hello(client, frame));
        if (frame.type === "job.submit") {
          const { idempotency_key: key, input } = frame.payload as { idempotency_key?: string; input: JobInput };
          submits.set(frame.id, { key, label: input.label });
        }
        continue;
      }
      const connection = connections.get(where);
      if (connection === undefined) {
        this.#found(`${client}: a ${frame.type} came before the hello was sent`);
        continue;
      }
      if (frame.type === "session.welcome") {
        connection.session = this.#session(client, frame.session_id ?? "");
        last = connection.session;
      }
      const { session } = connection;
      if (session === undefined) continue;
      if (frame.type === "job.accepted" || frame.type === "job.subscribed") {
        this.#opened(client, session, frame, submits);
      } else if (frame.event_seq !== undefined) {
        this.#numbered(client, session, connection, frame, entry.frame);
      }
    }
    if (last !== undefined) this.#allEnded(client, last, abandoned);
  }

  #hello(client: string, frame: Frame): ConnectionSeen {
    const { resume } = frame.payload as { resume?: { session_id: string; last_event_seq: number } };
    if (resume === undefined) return { session: undefined, expected: 1, holes: new Set() };
    const { highest } = this.#session(client, resume.session_id);
    if (resume.last_event_seq > highest) {
      this.#found(`${client}: claims event ${resume.last_event_seq}, and ${highest} was the newest that it received`);
    }
    return { session: undefined, expected: resume.last_event_seq + 1, holes: new Set() };
  }

  #session(client: string, sessionId: string): SessionSeen {
    const known = this.#sessions.get(sessionId);
    if (known !== undefined) return known;
    const seen = { client, numbered: new Map(), highest: 0, openings: new Map(), submitted: new Set<string>() };
    this.#sessions.set(sessionId, seen);
    return seen;
  }

  #opened(
    client: string,
    session: SessionSeen,
    frame: Frame,
    submits: ReadonlyMap<string, { key: string | undefined; label: string }>,
  ): void {
    const jobId = frame.job_id ?? "";
    const openings = session.openings.get(jobId) ?? new Set();
    if (openings.size === 0 && frame.type === "job.accepted") session.submitted.add(jobId);
    openings.add(frame.id);
    session.openings.set(jobId, openings);
    if (frame.type !== "job.accepted") return;
    const request = String(frame.extensions?.[IN_REPLY_TO]);
    const submit = submits.get(request);
    if (submit === undefined) {
      this.#found(`${client}: ${jobId} was accepted for ${request}, which nobody sent`);
      return;
    }
    const names = [`request ${request}`, `submit ${submit.label}`];
    if (submit.key !== undefined) names.push(`key ${submit.key}`);
    for (const name of names) {
      const before = this.#answers.get(name);
      if (before !== undefined && before !== jobId) this.#found(`${name} was answered with ${before} and ${jobId}`);
      this.#answers.set(name, jobId);
    }
  }

  #numbered(client: string, session: SessionSeen, connection: ConnectionSeen, frame: Frame, text: string): void {
    const seq = frame.event_seq ?? 0;
    const before = session.numbered.get(seq);
    if (before === undefined) {
      this.#verdict.events += 1;
      session.numbered.set(seq, text);
      session.highest = Math.max(session.highest, seq);
    } else if (before !== text) {
      this.#found(`${client}: event ${seq} came as two different messages: ${before} and ${text}`);
    }
    if (seq >= connection.expected) {
      for (let missing = connection.expected; missing < seq; missing += 1) connection.holes.add(missing);
      if (seq > connection.expected) {
        this.#verdict.lost += seq - connection.expected;
        this.#found(`${client}: event ${seq} came where ${connection.expected} was due`);
      }
      connection.expected = seq + 1;
    } else if (connection.holes.delete(seq)) {
      this.#verdict.lost -= 1;
      this.#verdict.reordered += 1;
      this.#found(`${client}: event ${seq} came late`);
    } else {
      this.#verdict.duplicated += 1;
      this.#found(`${client}: event ${seq} came again on a connection that had it`);
    }
    const { job_id: jobId, payload } = frame;
    const isContent = frame.type === "job.event" && payload["kind"] === "log";
    if (jobId !== undefined && isContent && !session.openings.has(jobId)) {
      this.#found(`${client}: event ${seq} of ${jobId} came before the job's accepted or subscribed`);
      session.openings.set(jobId, new Set());
    }
  }

  /** Nothing was left open: so every job that the client still knew of has ended in its session. */
  #allEnded(client: string, session: SessionSeen, abandoned: readonly string[]): void {
    const ended = new Set(abandoned.map((label) => this.#answers.get(`submit ${label}`)));
    for (const text of session.numbered.values()) {
      const { type, job_id: jobId } = JSON.parse(text) as Frame;
      if (type !== "job.event" && jobId !== undefined) ended.add(jobId);
    }
    for (const jobId of session.openings.keys()) {
      if (ended.has(jobId)) continue;
      this.#verdict.lost += 1;
      this.#found(`${client}: no terminal message of ${jobId} came`);
    }
  }

  // -------------------------------------------------------------------------------------- contents

  /** What the numbers of one session carry, in their order. */
  #contentsOf(sessionId: string, session: SessionSeen): void {
    const { client } = session;
    const readings = new Map<string, Reading>();
    const terminals = new Map<string, number>();
    for (let seq = 1; seq <= session.highest; seq += 1) {
      const text = session.numbered.get(seq);
      if (text === undefined) {
        this.#verdict.lost += 1;
        this.#found(`${client}: event ${seq} of ${sessionId} never came`);
        continue;
      }
      const { type, job_id: jobId = "", payload } = JSON.parse(text) as Frame;
      const first = session.submitted.has(jobId) && !terminals.has(jobId);
      const reading = readings.get(jobId) ?? new Reading(first ? 0 : undefined);
      readings.set(jobId, reading);
      if (type === "job.event") {
        const message =
          payload["kind"] === "log" ? readMessage((payload["body"] as { message: string }).message) : undefined;
        if (message === undefined) continue;
        this.#take(`${client} on the wire`, jobId, reading, message);
        this.#alike(jobId, message, JSON.stringify(payload));
      } else {
        const count = (terminals.get(jobId) ?? 0) + 1;
        terminals.set(jobId, count);
        if (count > Math.max(1, session.openings.get(jobId)?.size ?? 0)) {
          this.#verdict.duplicated += 1;
          this.#found(`${client}: ${jobId} ended ${count} times (event ${seq})`);
        }
        this.#ended(`${client} on the wire`, jobId, reading, payload as unknown as TerminalPayload);
        readings.delete(jobId);
      }
    }
  }

  /** What the client handed out. */
  #handedOut(client: string, journal: readonly Entry[]): void {
    let process = 0;
    const readings = new Map<string, { jobId: string; reading: Reading; seq: number }>();
    const unsettled = new Set<string>();
    for (const entry of journal) {
      switch (entry.t) {
        case "start":
          process += 1;
          break;
        case "submit":
          unsettled.add(entry.label);
          break;
        case "accepted":
        case "refused":
        case "abandoned":
          unsettled.delete(entry.label);
          break;
        case "rejected":
          unsettled.delete(entry.label);
          if (!entry.retryable)
            this.#found(`${client}: ${entry.label} failed for good: ${entry.code} ${entry.message}`);
          break;
        case "follow":
          readings.set(`${process}.${entry.h}`, {
            jobId: entry.jobId,
            reading: new Reading(entry.whole ? 0 : undefined),
            seq: 0,
          });
          break;
        case "event": {
          const handle = readings.get(`${process}.${entry.h}`);
          const message = readMessage(entry.message);
          if (handle === undefined || message === undefined) break;
          if (entry.seq <= handle.seq) this.#found(`${client}: event ${entry.seq} was handed out after ${handle.seq}`);
          handle.seq = entry.seq;
          this.#take(`${client} above the client`, handle.jobId, handle.reading, message);
          break;
        }
        case "terminal": {
          const handle = readings.get(`${process}.${entry.h}`);
          if (handle === undefined) break;
          this.#ended(`${client} above the client`, entry.jobId, handle.reading, entry.terminal as TerminalPayload);
          readings.delete(`${process}.${entry.h}`);
          break;
        }
        case "broken":
          // A process that takes a session over may be too late for the first events that come (CLT-10).
          if (process > 1 && entry.why.includes(LATE_READER)) readings.delete(`${process}.${entry.h}`);
          else this.#found(`${client}: ${entry.jobId} could not be read: ${entry.why}`);
          break;
        case "closed":
          if (entry.reason !== "closed") this.#found(`${client}: the session was closed: ${entry.reason}`);
          break;
        default:
      }
    }
    for (const label of unsettled) this.#found(`${client}: ${label} was never settled`);
    if (journal.at(-1)?.t !== "done") this.#found(`${client}: did not come to its end`);
  }

  #take(who: string, jobId: string, reading: Reading, message: Message): void {
    const what = reading.take(message);
    if (what === undefined) return;
    this.#verdict[what.count] += what.by;
    const { attempt, index } = message;
    this.#found(`${who}: ${jobId} gave message ${index}${attempt > 1 ? ` of attempt ${attempt}` : ""} ${what.why}`);
  }

  #alike(jobId: string, { attempt, index }: Message, payload: string): void {
    const contents = this.#contents.get(jobId) ?? new Map<string, string>();
    this.#contents.set(jobId, contents);
    const name = `${attempt}.${index}`;
    const before = contents.get(name);
    if (before !== undefined && before !== payload) {
      this.#found(`${jobId}: message ${index} is not the same for everybody: ${before} and ${payload}`);
    }
    contents.set(name, payload);
  }

  #ended(who: string, jobId: string, reading: Reading, terminal: TerminalPayload): void {
    const text = JSON.stringify(terminal);
    const before = this.#terminals.get(jobId);
    if (before !== undefined && before !== text) {
      this.#found(`${jobId} did not end the same for everybody: ${before} and ${text}`);
    }
    this.#terminals.set(jobId, text);
    const { due } = reading;
    if (due !== undefined) {
      const length = terminal.result?.n ?? this.#lengths.get(jobId);
      if (length !== undefined && length !== due) {
        this.#verdict.lost += Math.max(0, length - due);
        this.#found(`${who}: ${jobId} ended after ${due} messages of ${length}`);
      }
      this.#lengths.set(jobId, length ?? due);
    }
    if (this.#evidence.judged?.has(jobId)) return;
    const why = this.#unexpected(jobId, terminal);
    if (why !== undefined) this.#found(`${who}: ${jobId} ended as it should not (${why}): ${text}`);
  }

  #unexpected(jobId: string, terminal: TerminalPayload): string | undefined {
    const { mayEnd } = this.#evidence;
    if (terminal.final_status === "success") {
      const { result } = terminal;
      if (result === undefined) return "a success without its result";
      const sum = (result.n * (result.n - 1)) / 2;
      return result.sum === undefined || result.sum === sum ? undefined : `its messages have the sum ${sum}`;
    }
    if (terminal.code === "CANCELLED") return this.#cancelled.has(jobId) ? undefined : "nobody cancelled it";
    // Its submit was answered with a failure; where that answer was lost, the job tells it.
    if (terminal.details?.code === "STORE_UNAVAILABLE") {
      return this.#evidence.starts.some((start) => start.jobId === jobId) ? "it ran" : undefined;
    }
    const reason = terminal.details?.reason;
    if (terminal.code !== "INTERNAL_ERROR" || terminal.retryable !== true) return "no retryable INTERNAL_ERROR";
    if (reason === "node_lost") return mayEnd.nodeLost ? undefined : "no server was killed or stopped";
    if (reason === "shutdown") return mayEnd.shutdown ? undefined : "no server was drained";
    return "no reason that this run could give";
  }

  // ---------------------------------------------------------------------------------------- starts

  #starts(): void {
    const started = Map.groupBy(this.#evidence.starts, ({ label }) => label);
    for (const [label, starts] of started) {
      const attempts = new Set(starts.map(({ attempt }) => attempt));
      if (starts.length > attempts.size) {
        this.#found(`${label} ran ${starts.length} times: ${starts.map((one) => `${one.jobId} ${one.attempt}`)}`);
      }
      const answered = this.#answers.get(`submit ${label}`);
      if (answered !== undefined && starts.some(({ jobId }) => jobId !== answered)) {
        this.#found(`${label} was accepted as ${answered} and ran as ${starts.map((one) => one.jobId)}`);
      }
    }
    for (const [client, journal] of this.#evidence.journals) {
      const mayRun = new Set<string>();
      for (const entry of journal) {
        if (entry.t === "submit" && repeatable(entry.submission)) mayRun.add(entry.label);
        if (entry.t === "rejected" && !mayRun.has(entry.label) && started.has(entry.label)) {
          this.#found(`${client}: ${entry.label} was refused (${entry.code} ${entry.message}) and ran`);
        }
      }
    }
  }
}

/**
 * One reading of a job's messages, which must come as 0, 1, 2 and so on, or on from the first that came. A later
 * attempt goes back to the newest checkpoint, and to none before it.
 */
class Reading {
  due: number | undefined;
  #attempt: number | undefined;
  readonly #missing = new Set<number>();

  constructor(due: number | undefined) {
    this.due = due;
  }

  take({
    attempt,
    index,
  }: Message): { count: "lost" | "duplicated" | "reordered"; by: number; why: string } | undefined {
    const before = this.#attempt;
    if (before !== undefined && attempt < before) {
      return { count: "reordered", by: 1, why: `after attempt ${before} had begun` };
    }
    const again = attempt > (before ?? attempt) || (before === undefined && attempt > 1 && this.due === 0);
    this.#attempt = attempt;
    if (again && this.due !== undefined) {
      // A message behind a checkpoint is said once that is kept; of one at its edge nobody can tell.
      const kept = this.due === 0 ? 0 : Math.floor((this.due - 1) / PAGE) * PAGE;
      if (index < kept) return { count: "duplicated", by: kept - index, why: `although ${kept} had been kept` };
      if (index <= this.due) this.due = index;
    }
    const due = this.due ?? index;
    this.due = Math.max(due, index + 1);
    if (index === due) return undefined;
    const why = `where ${due} was due`;
    if (index > due) {
      for (let missing = due; missing < index; missing += 1) this.#missing.add(missing);
      return { count: "lost", by: index - due, why };
    }
    return { count: this.#missing.delete(index) ? "reordered" : "duplicated", by: 1, why };
  }
}
