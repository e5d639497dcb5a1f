/** The checker must be able to fail: a good run of a cluster, and what becomes of it when something in it is wrong. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Terminal } from "../../../src/client/index.ts";
import { PAGE } from "../agents.ts";
import { type Entry, messageOf, type Start, type Written } from "../journal.ts";
import type { RunEntry } from "../turns/journal.ts";
import type { Sighting, StoredJob, StoredTurn } from "../turns/watch.ts";
import { type ClusterEvidence, type ClusterVerdict, checkCluster } from "./checker.ts";

const SESSION = "sess_1";
const JOB = "job_1";
const LABEL = "work";
/** The node was lost after the seventh message, and the checkpoint is behind the fifth. */
const SAID_BEFORE = PAGE + 2;
const N = 2 * PAGE + 2;
const RESULT = { final_status: "success", result: { label: LABEL, n: N, sum: (N * (N - 1)) / 2 } } as const;

type StoredEvent = StoredJob["events"][number];

/** What a test may doctor. */
interface Run {
  /** Of the job in the database, which its client gets under the same numbers. */
  log: StoredEvent[];
  wire: Entry[];
  above: Entry[];
  told: Terminal;
  sightings: Sighting[];
  runs: RunEntry[];
  starts: Start[];
  turns: StoredJob[];
  nodeLost: boolean;
  endedAt: number | null;
}

const payloadOf = (kind: string, body: object) => JSON.stringify({ kind, ts: "2026-01-01T00:00:00.000Z", body });
const message = (index: number, attempt: number) => payloadOf("log", { message: messageOf(LABEL, index, 20, attempt) });

function goodLog(): StoredEvent[] {
  const said = (attempt: number, from: number, to: number) =>
    Array.from({ length: to - from }, (_, at) => ({
      kind: "log",
      payload: message(from + at, attempt),
      runEpoch: attempt,
    }));
  return [
    ...said(1, 0, SAID_BEFORE),
    { kind: "status", payload: payloadOf("status", { phase: "node_lost" }), runEpoch: 1 },
    { kind: "status", payload: payloadOf("status", { phase: "restarted", attempt: 2 }), runEpoch: 2 },
    ...said(2, PAGE, N),
    { kind: "job.result", payload: JSON.stringify(RESULT), runEpoch: 2 },
  ].map((event, index) => ({ ...event, n: index + 1 }));
}

const incoming = (frame: object): Entry => ({ t: "in", c: 1, frame: JSON.stringify(frame) });
const outgoing = (frame: object): Entry => ({ t: "out", c: 1, frame: JSON.stringify(frame) });
const numbered = ({ n, kind, payload }: StoredEvent): Entry =>
  incoming({
    type: kind.startsWith("job.") ? kind : "job.event",
    id: `${SESSION}.${n}`,
    session_id: SESSION,
    job_id: JOB,
    event_seq: n,
    payload: JSON.parse(payload),
  });
const handedOut = ({ n, kind, payload }: StoredEvent): Entry[] => {
  const { body } = JSON.parse(payload) as { body: { message: string } };
  return kind === "log" ? [{ t: "event", h: 1, seq: n, message: body.message }] : [];
};

const turnInput = (label: string) => ({ label, n: 1, everyMs: 0, fails: false, deaf: false });
/** Two turns of one conversation, under epochs that are their keys less one. */
const TURNS = [2, 3];
const turnLabel = (key: number) => `turn${key}`;
const ranTurn = (key: number): Sighting[] => [
  { what: "turn", conversation: 1, job: key, ahead: false, state: "running", epoch: key - 1 },
  { what: "lock", conversation: 1, epoch: key - 1, holder: `job_${key}`, job: key },
  { what: "event", job: key, n: 1, runEpoch: 1, kind: "log" },
  { what: "event", job: key, n: 2, runEpoch: 1, kind: "job.result" },
  { what: "turn", conversation: 1, job: key, ahead: false, state: "ended", epoch: key - 1 },
  { what: "lock", conversation: 1, epoch: key - 1, holder: null, job: null },
];

const goodRun = (): Run => ({
  log: goodLog(),
  wire: goodLog().map(numbered),
  above: goodLog().flatMap(handedOut),
  told: RESULT,
  sightings: TURNS.flatMap(ranTurn),
  runs: TURNS.flatMap((key): RunEntry[] => [
    {
      t: "begin",
      jobId: `job_${key}`,
      at: key * 1_000,
      label: turnLabel(key),
      conversationId: "c",
      lockEpoch: key - 1,
    },
    { t: "end", jobId: `job_${key}`, at: key * 1_000 + 500, how: "done" },
  ]),
  starts: [1, 2].map((attempt) => ({ label: LABEL, jobId: JOB, attempt })),
  turns: TURNS.map((key) => ({
    key,
    jobId: `job_${key}`,
    label: turnLabel(key),
    state: "success",
    endedAt: key * 1_000 + 600,
    events: [
      { n: 1, runEpoch: 1, kind: "log", payload: payloadOf("log", { message: messageOf(turnLabel(key), 0, 20) }) },
      { n: 2, runEpoch: 1, kind: "job.result", payload: JSON.stringify({ final_status: "success", result: {} }) },
    ],
  })),
  nodeLost: true,
  endedAt: 1_000,
});

function evidenceOf(run: Run): ClusterEvidence {
  const input = { label: LABEL, n: N, bytes: 20, everyMs: 0 };
  const journal: Entry[] = [
    { t: "start" },
    outgoing({ type: "session.hello", id: "m1", payload: {} }),
    incoming({ type: "session.welcome", id: "m2", session_id: SESSION, payload: {} }),
    { t: "submit", label: LABEL, submission: { agent: "paging", input } },
    outgoing({ type: "job.submit", id: "m3", payload: { agent: "paging", input } }),
    incoming({
      type: "job.accepted",
      id: "m4",
      session_id: SESSION,
      job_id: JOB,
      extensions: { "x-vendor.holdfast.in_reply_to": "m3" },
      payload: { job_id: JOB },
    }),
    { t: "accepted", label: LABEL, jobId: JOB },
    { t: "follow", h: 1, jobId: JOB, whole: true },
    ...TURNS.flatMap((key): Entry[] => {
      const turn = { key: "cli:room", onBusy: "enqueue" } as const;
      const label = turnLabel(key);
      return [
        { t: "submit", label, submission: { agent: "talk", input: turnInput(label), turn } },
        { t: "accepted", label, jobId: `job_${key}` },
      ];
    }),
    ...run.wire,
    ...run.above,
    { t: "terminal", h: 1, jobId: JOB, terminal: run.told },
    { t: "closed", reason: "closed" },
    { t: "done" },
  ];
  const job = { key: 1, jobId: JOB, label: LABEL, state: "success", endedAt: run.endedAt, events: run.log };
  const turns: StoredTurn[] = TURNS.map((key) => ({
    conversation: 1,
    conversationId: "c",
    job: key,
    messageId: turnLabel(key),
    ahead: false,
    state: "ended",
    epoch: key - 1,
  }));
  return {
    clients: new Map([["client", journal.map((entry, at): Written => ({ ...entry, at }))]]),
    nodes: new Map([["node", run.runs]]),
    starts: run.starts,
    stored: {
      jobs: [job, ...run.turns],
      turns: {
        conversations: [{ key: 1, id: "c", holder: null, queued: 0 }],
        turns,
        jobs: run.turns,
        sightings: run.sightings,
      },
    },
    disturbances: [],
    mayEnd: { nodeLost: run.nodeLost, shutdown: false },
  };
}

function verdictOf(doctor: (run: Run) => void): ClusterVerdict {
  const run = goodRun();
  doctor(run);
  return checkCluster(evidenceOf(run));
}

const swap = (list: unknown[], at: number) => list.splice(at, 2, list[at + 1], list[at]);

test("[CLU-1] the cluster's checker finds nothing in a run in which nothing went wrong", () => {
  assert.deepEqual(
    verdictOf(() => undefined),
    {
      events: 17,
      lost: 0,
      duplicated: 0,
      reordered: 0,
      overlapped: 0,
      stuck: 0,
      jobs: 3,
      turns: 2,
      restarts: 1,
      findings: [],
    },
  );
});

test("[RES-9] the cluster's checker finds an event that a client did not get, got twice, or got late", () => {
  const lost = verdictOf(({ wire }) => void wire.splice(3, 1));
  assert.ok(lost.lost > 0 && lost.duplicated === 0, lost.findings.join("\n"));
  const doubled = verdictOf(({ wire }) => void wire.splice(3, 0, wire[3] as Entry));
  assert.deepEqual([doubled.lost, doubled.duplicated, doubled.reordered], [0, 1, 0]);
  const late = verdictOf(({ wire }) => swap(wire, 3));
  assert.deepEqual([late.lost, late.duplicated, late.reordered], [0, 0, 1]);
});

test("[CLU-1] the cluster's checker finds a job with two ends, with none, and with events behind its end", () => {
  const again = verdictOf(({ log }) => void log.push({ ...(log.at(-1) as StoredEvent), n: log.length + 1 }));
  assert.match(again.findings.join("\n"), /2 terminal events/);
  assert.ok(again.duplicated > 0);
  const none = verdictOf(({ log }) => void log.pop());
  assert.match(none.findings.join("\n"), /no terminal event/);
  assert.ok(none.lost > 0);
  const behind = verdictOf(({ log }) => void log.push({ ...(log[0] as StoredEvent), runEpoch: 2, n: log.length + 1 }));
  assert.match(behind.findings.join("\n"), /behind its terminal one/);
});

test("[CLU-1] the cluster's checker finds an attempt that ran twice, or wrote after it was over", () => {
  const twice = verdictOf(({ starts }) => void starts.push({ label: LABEL, jobId: JOB, attempt: 2 }));
  assert.match(twice.findings.join("\n"), /ran 3 times/);
  const late = verdictOf(({ log }) => {
    const event = log.find(({ runEpoch, n }) => runEpoch === 2 && n > SAID_BEFORE + 4) as StoredEvent;
    event.runEpoch = 1;
    event.payload = message(SAID_BEFORE, 1);
  });
  assert.match(late.findings.join("\n"), /of an attempt that was over/);
  assert.match(late.findings.join("\n"), /in the midst of attempt 2/);
  assert.ok(late.reordered > 0);
});

test("[CLU-2] the cluster's checker finds an attempt that goes back behind its checkpoint, or leaves something out", () => {
  const beginsAt = (index: number) =>
    verdictOf(({ wire, log }) => {
      const at = log.findIndex(({ runEpoch, kind }) => runEpoch === 2 && kind === "log");
      wire[at] = numbered({ ...(log[at] as StoredEvent), payload: message(index, 2) });
    });
  assert.ok(beginsAt(PAGE - 1).duplicated >= 1);
  assert.match(beginsAt(PAGE - 1).findings.join("\n"), /although 5 had been kept/);
  assert.ok(beginsAt(SAID_BEFORE + 1).lost >= 1);
  const wrong = verdictOf((run) => {
    const result = { final_status: "success", result: { label: LABEL, n: N, sum: 1 } };
    run.wire.splice(-1, 1, numbered({ ...(run.log.at(-1) as StoredEvent), payload: JSON.stringify(result) }));
  });
  assert.match(wrong.findings.join("\n"), /its messages have the sum 66/);
});

test("[CLU-1] the cluster's checker finds a job that is lost to a node where no node was lost", () => {
  const verdict = verdictOf((run) => {
    run.nodeLost = false;
    const payload = { final_status: "error", code: "INTERNAL_ERROR", details: { reason: "node_lost" } };
    run.log.splice(-1, 1, { ...(run.log.at(-1) as StoredEvent), kind: "job.error", payload: JSON.stringify(payload) });
  });
  assert.match(verdict.findings.join("\n"), /no node was lost/);
  assert.match(verdict.findings.join("\n"), /ended as success, and is stored as error/);
});

test("[JOB-2] the cluster's checker finds a job that was accepted and is not stored, and one that never ends", () => {
  const gone = verdictOf(({ turns }) => void turns.pop());
  assert.match(gone.findings.join("\n"), /accepted as job_3, which is not there/);
  assert.ok(gone.lost > 0);
  const stuck = verdictOf((run) => {
    run.endedAt = null;
  });
  assert.equal(stuck.stuck, 1);
});

test("[LCK-2] the cluster's checker finds turns that overlap, by the epoch of their lock and side by side", () => {
  const byEpoch = verdictOf(({ sightings }) => {
    // The second gets the lock before the first has spoken its last.
    const [locked] = sightings.splice(7, 1);
    sightings.splice(3, 0, locked as Sighting);
  });
  assert.ok(byEpoch.overlapped > 0, "by epoch");
  const sideBySide = verdictOf(({ runs }) => {
    const end = runs.find((entry) => entry.t === "end") as RunEntry;
    end.at = 2_900 + 1_000;
  });
  assert.equal(sideBySide.overlapped, 1);
});
