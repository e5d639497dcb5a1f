/**
 * Says what went wrong with the turns of a run. It knows nothing of how turns are kept: it looks at the tables and at
 * what the file's triggers saw (watch.ts), at what workers wrote down, and at what became of each message.
 */
import { PAGE } from "../agents.ts";
import { readMessage } from "../journal.ts";
import type { Correspondence, RunEntry } from "./journal.ts";
import type { Message } from "./plan.ts";
import type { Sighting, Stored, StoredJob, StoredTurn } from "./watch.ts";

/** What was done to a worker, in wall milliseconds. */
export interface Disturbance {
  worker: string;
  did: "kill" | "pause" | "drain" | "cut" | "outage";
  from: number;
  to: number;
}

export interface TurnEvidence {
  messages: readonly Pick<Message, "label" | "onBusy" | "input">[];
  correspondence: readonly Correspondence[];
  /** Each worker's journal, by its name. */
  journals: ReadonlyMap<string, readonly RunEntry[]>;
  stored: Stored;
  disturbances: readonly Disturbance[];
}

export interface TurnVerdict {
  /** Turns that have ended. */
  turns: number;
  /** Two turns of a conversation at once: by epoch in the store, or side by side with nobody told. */
  overlapped: number;
  /** Messages that were taken and have no turn, turns without an end or a reason, events that are missing. */
  lost: number;
  /** Messages with more than one turn, turns with more than one run or end, events that came twice. */
  doubled: number;
  /** Turns that ran before one that was ahead of them. */
  reordered: number;
  /** What is still busy. */
  stuck: number;
  findings: string[];
  /** How turns ended that did not end by themselves. */
  ends: Record<string, number>;
}

type Count = Exclude<keyof TurnVerdict, "turns" | "findings" | "ends">;

/** An agent that was told to stop and the next one that starts may cross on a machine that is busy. */
const CROSSING_MS = 250;

export const checkTurns = (evidence: TurnEvidence): TurnVerdict => new TurnChecker(evidence).check();

/** What a handler did, as its worker wrote it down. */
interface Run {
  worker: string;
  jobId: string;
  conversationId: string;
  epoch: number;
  began: number;
  told: { at: number; code: string } | undefined;
  ended: { at: number; how: string } | undefined;
}

/** How a turn ends that is taken from its holder, and what that may have been told: its loss, or an earlier stop. */
const TAKEN_AWAY = ["LOCK_LOST", "node_lost"];
const STOPS = ["LOCK_LOST", "CANCELLED", "shutdown"];

const phaseOf = ({ kind, payload }: { kind: string; payload: string }): string | undefined =>
  kind === "status" ? (JSON.parse(payload) as { body?: { phase?: string } }).body?.phase : undefined;
const isGivenBack = (event: { kind: string; payload: string }) =>
  ["node_lost", "handed_over"].includes(phaseOf(event) ?? "");
const isRestarted = (event: { kind: string; payload: string }) => phaseOf(event) === "restarted";
const isTerminal = (kind: string) => kind === "job.result" || kind === "job.error";

class TurnChecker {
  readonly #evidence: TurnEvidence;
  readonly #verdict: TurnVerdict = {
    turns: 0,
    overlapped: 0,
    lost: 0,
    doubled: 0,
    reordered: 0,
    stuck: 0,
    findings: [],
    ends: {},
  };
  readonly #jobs = new Map<number, StoredJob>();
  readonly #turns = new Map<number, StoredTurn>();
  /** Of each job, what its attempts did, in the order in which they began. */
  readonly #runs = new Map<string, Run[]>();
  /** How often each job was given back, to be run again. */
  readonly #givenBack = new Map<string, number>();

  constructor(evidence: TurnEvidence) {
    this.#evidence = evidence;
    for (const job of evidence.stored.jobs) {
      this.#jobs.set(job.key, job);
      this.#givenBack.set(job.jobId, job.events.filter(isGivenBack).length);
    }
    for (const turn of evidence.stored.turns) this.#turns.set(turn.job, turn);
  }

  check(): TurnVerdict {
    for (const [worker, journal] of this.#evidence.journals) this.#journal(worker, journal);
    this.#attempts();
    this.#sideBySide();
    this.#witnessed();
    for (const job of this.#jobs.values()) this.#log(job);
    this.#messages();
    this.#order();
    this.#quiet();
    this.#verdict.turns = this.#evidence.stored.turns.filter(({ state }) => state === "ended").length;
    return this.#verdict;
  }

  #found(count: Count, what: string): void {
    this.#verdict[count] += 1;
    this.#verdict.findings.push(`${count}: ${what}`);
  }

  // --------------------------------------------------------------------------------------- workers

  #journal(worker: string, journal: readonly RunEntry[]): void {
    for (const entry of journal) {
      const runs = this.#runs.get(entry.jobId) ?? [];
      this.#runs.set(entry.jobId, runs);
      if (entry.t === "begin") {
        const { jobId, conversationId, lockEpoch: epoch, at: began } = entry;
        runs.push({ worker, jobId, conversationId, epoch, began, told: undefined, ended: undefined });
        continue;
      }
      const run = runs.findLast((one) => one.worker === worker);
      if (run === undefined) continue;
      if (entry.t === "told") run.told ??= { at: entry.at, code: entry.code };
      else run.ended = { at: entry.at, how: entry.how };
    }
  }

  /** One run for each time that the job was given to somebody, and each under a lock of its own. */
  #attempts(): void {
    for (const [jobId, runs] of this.#runs) {
      runs.sort((a, b) => a.epoch - b.epoch);
      const most = 1 + (this.#givenBack.get(jobId) ?? 0);
      const workers = () => runs.map(({ worker }) => worker).join(" and by ");
      if (runs.length > most) this.#found("doubled", `${jobId} was begun by ${workers()}`);
    }
  }

  /** A handler that runs on beside its successor has been told to stop, unless its process was not there to hear. */
  #sideBySide(): void {
    const byConversation = Map.groupBy([...this.#runs.values()].flat(), ({ conversationId }) => conversationId);
    for (const [conversationId, runs] of byConversation) {
      const inOrder = runs.toSorted((a, b) => a.epoch - b.epoch);
      for (const [index, run] of inOrder.entries()) {
        const next = inOrder[index + 1];
        if (next === undefined) continue;
        const both = `${run.jobId} (epoch ${run.epoch}) and ${next.jobId} (epoch ${next.epoch}) of ${conversationId}`;
        if (run.epoch === next.epoch) this.#found("overlapped", `${both} ran under one epoch`);
        const until = Math.min(run.told?.at ?? Number.POSITIVE_INFINITY, run.ended?.at ?? Number.POSITIVE_INFINITY);
        if (until <= next.began + CROSSING_MS) continue;
        if (this.#disturbed(run.worker, run.began, next.began)) continue;
        this.#found("overlapped", `${both} ran side by side, and ${run.worker} told the older one nothing`);
      }
    }
  }

  #disturbed(worker: string | undefined, from: number, to: number): boolean {
    return this.#evidence.disturbances.some(
      (done) => (worker === undefined || done.worker === worker) && done.from <= to && done.to >= from,
    );
  }

  // --------------------------------------------------------------------------------------- witness

  /** Goes through what the triggers saw: who may write, who may begin. */
  #witnessed(): void {
    const locks = new Map<number, { epoch: number; holder: string | null; job: number | null }>();
    const highest = new Map<number, number>();
    const queues = new Map<number, { job: number; ahead: boolean }[]>();
    /** The turns that have run, each with its epoch. */
    const began = new Map<number, { conversation: number; epoch: number }>();
    const over = new Set<number>();
    const event = (seen: Sighting & { what: "event" }) => {
      const turn = began.get(seen.job);
      const what = `${seen.kind} ${seen.n} of ${this.#name(seen.job)}`;
      if (over.has(seen.job)) this.#found("doubled", `${what} came after its end`);
      if (isTerminal(seen.kind)) over.add(seen.job);
      if (turn === undefined) {
        if (!isTerminal(seen.kind)) this.#found("overlapped", `${what} was stored before its turn had the lock`);
        return;
      }
      const lock = locks.get(turn.conversation);
      if (lock?.holder !== null && lock?.epoch === turn.epoch && lock.job === seen.job) return;
      const now = lock?.holder == null ? "nobody holds it" : `${lock.holder} holds it under epoch ${lock.epoch}`;
      this.#found("overlapped", `${what}, of epoch ${turn.epoch}, was stored while ${now}`);
    };
    const lock = (seen: Sighting & { what: "lock" }) => {
      const { conversation, epoch, holder, job } = seen;
      const before = locks.get(conversation);
      locks.set(conversation, { epoch, holder, job });
      if (holder === null) return;
      if (before !== undefined && before.holder !== null && before.epoch !== epoch) {
        this.#found("overlapped", `${holder} got the lock of ${conversation} while ${before.holder} held it`);
      }
      if (epoch <= (highest.get(conversation) ?? 0)) {
        this.#found("overlapped", `${holder} got the lock of ${conversation} under epoch ${epoch}, which was used`);
      }
      highest.set(conversation, Math.max(epoch, highest.get(conversation) ?? 0));
    };
    const turn = (seen: Sighting & { what: "turn" }) => {
      const { conversation, job, ahead, state, epoch } = seen;
      const queue = queues.get(conversation) ?? [];
      queues.set(conversation, queue);
      if (state === "queued") {
        // Before everybody else, if it has run.
        if (began.delete(job)) {
          queue.unshift({ job, ahead: true });
        } else {
          queue.push({ job, ahead });
        }
        return;
      }
      if (state === "running") {
        if (began.has(job)) this.#found("doubled", `${this.#name(job)} was begun again`);
        began.set(job, { conversation, epoch: epoch ?? 0 });
        const due = queue.find((waiting) => waiting.ahead) ?? queue[0];
        if (due !== undefined && due.job !== job) {
          this.#found("reordered", `${this.#name(job)} was begun while ${this.#name(due.job)} was due`);
        }
      }
      const place = queue.findIndex((waiting) => waiting.job === job);
      if (place >= 0) queue.splice(place, 1);
    };
    for (const seen of this.#evidence.stored.sightings) {
      if (seen.what === "event") event(seen);
      else if (seen.what === "lock") lock(seen);
      else turn(seen);
    }
  }

  #name(key: number): string {
    const job = this.#jobs.get(key);
    return job === undefined ? `job ${key}` : `${job.label} (${job.jobId})`;
  }

  // ------------------------------------------------------------------------------------------ logs

  /** One attempt wrote it, with nothing missing and nothing twice, and one terminal event ends it and says why. */
  #log(job: StoredJob): void {
    const name = this.#name(job.key);
    const spoken = job.events.filter(({ kind }) => !isTerminal(kind));
    const begun = spoken.filter(isRestarted).length;
    if (begun > (this.#givenBack.get(job.jobId) ?? 0)) this.#found("doubled", `${name} has two attempts`);
    let due = 0;
    let attempt = 1;
    for (const [index, event] of spoken.entries()) {
      const before = spoken[index - 1];
      // A later attempt is one that was said to begin.
      const ofAnother = before !== undefined && before.runEpoch !== event.runEpoch;
      if (ofAnother && !isGivenBack(event) && !isRestarted(event)) this.#found("doubled", `${name} has two attempts`);
      if (event.kind !== "log") continue;
      const { body } = JSON.parse(event.payload) as { body: { message: string } };
      const message = readMessage(body.message);
      if (message !== undefined && message.attempt > attempt) {
        attempt = message.attempt;
        // It goes on at a checkpoint; that it is the newest is for the readers' checker to see.
        if (message.index % PAGE === 0) due = Math.min(due, message.index);
      }
      if (message?.label !== job.label) this.#found("doubled", `${name} has an event of another: ${body.message}`);
      else if (message.attempt < attempt) this.#found("doubled", `${name} has an event of an attempt that was over`);
      else if (message.index < due) this.#found("doubled", `${name} has its event ${message.index} twice`);
      else if (message.index > due) this.#found("lost", `${name} has its event ${message.index} where ${due} was due`);
      due = Math.max(due, (message?.index ?? 0) + 1);
    }
    for (const [index, { n }] of job.events.entries()) {
      if (n !== index + 1) this.#found("lost", `event ${index + 1} of ${name} is missing`);
    }
    const ends = job.events.filter(({ kind }) => isTerminal(kind));
    if (ends.length > 1) this.#found("doubled", `${name} has ${ends.length} terminal events`);
    const [end] = ends;
    if (end === undefined) this.#found("lost", `${name} has no terminal event`);
    else this.#reason(job, JSON.parse(end.payload) as Terminal, due);
  }

  #reason(job: StoredJob, terminal: Terminal, spoken: number): void {
    const name = this.#name(job.key);
    const run = this.#runs.get(job.jobId)?.at(-1);
    const input = this.#evidence.messages.find(({ label }) => label === job.label)?.input;
    const turn = this.#turns.get(job.key);
    if (terminal.final_status === "success") {
      if (run?.ended?.how !== "done") this.#found("lost", `${name} succeeded, and no worker wrote down that it ended`);
      if (spoken !== input?.n) this.#found("lost", `${name} succeeded with ${spoken} of its ${input?.n} events`);
      return;
    }
    const why = String(terminal.details?.reason ?? terminal.details?.code ?? terminal.code);
    this.#verdict.ends[why] = (this.#verdict.ends[why] ?? 0) + 1;
    const done = (did: Disturbance["did"], worker?: string) =>
      this.#evidence.disturbances.some((one) => one.did === did && (worker === undefined || one.worker === worker));
    const mayBe: Record<string, () => boolean> = {
      asked: () => input?.fails === true && run?.ended?.how === "failed",
      LOCK_LOST: () => turn?.epoch != null,
      node_lost: () =>
        turn?.epoch != null && this.#disturbed(run?.worker, run?.began ?? 0, job.endedAt ?? Number.POSITIVE_INFINITY),
      shutdown: () => done("drain", run?.worker),
      CANCELLED: () => this.#interrupted(turn),
    };
    if (mayBe[why]?.() !== true) this.#found("lost", `${name} ended with ${why}, for no reason that the run gives`);
    const told = run?.told?.code;
    if (TAKEN_AWAY.includes(why) && told !== undefined && !STOPS.includes(told)) {
      this.#found("lost", `${name} ended with ${why}, and its agent was told ${told}`);
    }
  }

  /** Whether another turn of its conversation was there to interrupt it. */
  #interrupted(turn: StoredTurn | undefined): boolean {
    return this.#evidence.stored.turns.some(
      (other) => other.ahead && other.conversation === turn?.conversation && other.job !== turn.job,
    );
  }

  // -------------------------------------------------------------------------------------- messages

  #messages(): void {
    const jobsOf = Map.groupBy(this.#jobs.values(), ({ label }) => label);
    const answersTo = Map.groupBy(this.#evidence.correspondence, ({ label }) => label);
    for (const { label } of this.#evidence.messages) {
      const jobs = (jobsOf.get(label) ?? []).map(({ jobId }) => jobId);
      const accepted = new Set<string>();
      let unclear = false;
      let refused = false;
      for (const entry of answersTo.get(label) ?? []) {
        if (entry.t !== "answered") continue;
        if (entry.answer.said === "accepted") accepted.add(entry.answer.jobId);
        else if (entry.answer.said === "refused") refused = true;
        else unclear = true;
      }
      if (jobs.length > 1) this.#found("doubled", `${label} has the turns ${jobs.join(", ")}`);
      if (accepted.size > 1) this.#found("doubled", `${label} was answered with ${[...accepted].join(" and ")}`);
      for (const jobId of accepted) {
        if (!jobs.includes(jobId)) this.#found("lost", `${label} was accepted as ${jobId}, which is not there`);
      }
      if (accepted.size === 0 && !refused) this.#found("lost", `${label} was never answered`);
      if (accepted.size === 0 && refused && !unclear && jobs.length > 0) {
        this.#found("doubled", `${label} was refused and has the turn ${jobs.join(", ")}`);
      }
    }
    for (const job of this.#jobs.values()) {
      if (!this.#turns.has(job.key)) this.#found("lost", `${this.#name(job.key)} is no turn of a conversation`);
    }
  }

  /** As the sender sees it: what was accepted before another message was sent runs before that, unless that interrupts. */
  #order(): void {
    const sent = new Map<string, number>();
    const accepted = new Map<string, number>();
    for (const [at, entry] of this.#evidence.correspondence.entries()) {
      if (entry.t === "sent") {
        if (!sent.has(entry.label)) sent.set(entry.label, at);
      } else if (entry.answer.said === "accepted" && !accepted.has(entry.label)) {
        accepted.set(entry.label, at);
      }
    }
    const byConversation = Map.groupBy(this.#turns.values(), ({ conversation }) => conversation);
    for (const turns of byConversation.values()) {
      const ran = turns.flatMap((turn) => {
        const label = turn.messageId ?? "";
        const times = { sent: sent.get(label), accepted: accepted.get(label) };
        return turn.epoch === null ? [] : [{ ...turn, epoch: turn.epoch, ...times }];
      });
      for (const first of ran) {
        const overtaken = ran.find(
          (later) =>
            later.epoch < first.epoch &&
            first.accepted !== undefined &&
            later.sent !== undefined &&
            first.accepted < later.sent &&
            (first.ahead || !later.ahead),
        );
        if (overtaken === undefined) continue;
        this.#found("reordered", `${overtaken.messageId} ran before ${first.messageId}, which had been accepted first`);
      }
    }
  }

  // ------------------------------------------------------------------------------------------- end

  #quiet(): void {
    const { conversations, turns, jobs } = this.#evidence.stored;
    for (const { id, holder, queued } of conversations) {
      if (holder !== null) this.#found("stuck", `${holder} still holds the lock of ${id}`);
      if (queued !== 0) this.#found("stuck", `${queued} turns of ${id} still wait`);
    }
    for (const turn of turns) {
      if (turn.state !== "ended") this.#found("stuck", `the turn ${this.#name(turn.job)} is still ${turn.state}`);
    }
    for (const job of jobs) if (job.endedAt === null) this.#found("stuck", `${this.#name(job.key)} is ${job.state}`);
  }
}

interface Terminal {
  final_status: string;
  code?: string;
  details?: { reason?: string; code?: string };
}
