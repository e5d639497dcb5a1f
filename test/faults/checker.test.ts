/** The checker must be able to fail: a good run, and what becomes of it when something is taken away or doubled. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { check, type Verdict } from "./checker.ts";
import { type Entry, messageOf } from "./journal.ts";

const N = 5;
const SESSION = "sess_1";
const JOB = "job_1";
const LABEL = "work";

const incoming = (frame: object): Entry => ({ t: "in", c: 1, frame: JSON.stringify(frame) });
const outgoing = (frame: object): Entry => ({ t: "out", c: 1, frame: JSON.stringify(frame) });
const event = (seq: number, index = seq - 1): Entry =>
  incoming({
    type: "job.event",
    id: `${SESSION}.${seq}`,
    session_id: SESSION,
    job_id: JOB,
    event_seq: seq,
    payload: { kind: "log", ts: "2026-01-01T00:00:00.000Z", body: { message: messageOf(LABEL, index, 20) } },
  });
const result = { final_status: "success", result: { label: LABEL, n: N } } as const;
const terminal = (seq: number): Entry =>
  incoming({
    type: "job.result",
    id: `${SESSION}.${seq}`,
    session_id: SESSION,
    job_id: JOB,
    event_seq: seq,
    payload: result,
  });
const handedOut = (index: number): Entry => ({
  t: "event",
  h: 1,
  seq: index + 1,
  message: messageOf(LABEL, index, 20),
});
const indexes = Array.from({ length: N }, (_, index) => index);
const input = { label: LABEL, n: N, bytes: 20, everyMs: 0 };
const welcome = incoming({ type: "session.welcome", id: "m2", session_id: SESSION, payload: {} });

/** One job of five messages, all in order, in one connection. */
const goodRun = (): Entry[] => [
  { t: "start" },
  outgoing({ type: "session.hello", id: "m1", payload: {} }),
  welcome,
  { t: "submit", label: LABEL, submission: { agent: "counting", input } },
  outgoing({ type: "job.submit", id: "m3", payload: { agent: "counting", input } }),
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
  ...indexes.map((index) => event(index + 1)),
  terminal(N + 1),
  ...indexes.map(handedOut),
  { t: "terminal", h: 1, jobId: JOB, terminal: result },
  { t: "closed", reason: "closed" },
  { t: "done" },
];

function verdictOf(journal: Entry[], starts = [{ label: LABEL, jobId: JOB, attempt: 1 }]): Verdict {
  return check({ journals: new Map([["client", journal]]), starts, mayEnd: { nodeLost: false, shutdown: false } });
}

const indexOf = (journal: Entry[], wanted: Entry): number => {
  const found = journal.findIndex((entry) => JSON.stringify(entry) === JSON.stringify(wanted));
  assert.notEqual(found, -1);
  return found;
};
const without = (wanted: Entry): Entry[] => goodRun().toSpliced(indexOf(goodRun(), wanted), 1);
const counts = ({ events, lost, duplicated, reordered }: Verdict) => ({ events, lost, duplicated, reordered });

test("[RES-1] the faults' checker finds nothing in a run in which nothing went wrong", () => {
  assert.deepEqual(verdictOf(goodRun()), { events: N + 1, lost: 0, duplicated: 0, reordered: 0, findings: [] });
});

test("[RES-9] the faults' checker finds a number that is missing on the wire", () => {
  const verdict = verdictOf(without(event(3)));
  assert.ok(verdict.lost >= 1);
  assert.ok(verdict.findings.includes("client: event 4 came where 3 was due"));
});

test("[RES-9] the faults' checker finds a number that comes twice on one connection", () => {
  const journal = goodRun();
  journal.splice(indexOf(journal, event(3)), 0, event(3));
  assert.deepEqual(counts(verdictOf(journal)), { events: N + 1, lost: 0, duplicated: 1, reordered: 0 });
});

test("[RES-9] the faults' checker finds a number that comes late", () => {
  const journal = without(event(2));
  journal.splice(indexOf(journal, event(4)), 0, event(2));
  assert.deepEqual(counts(verdictOf(journal)), { events: N + 1, lost: 0, duplicated: 0, reordered: 1 });
});

test("[ENV-6] the faults' checker finds a number that comes as two different messages", () => {
  const journal = goodRun();
  journal.splice(indexOf(journal, terminal(N + 1)) + 1, 0, event(2, 4));
  assert.match(verdictOf(journal).findings.join("\n"), /event 2 came as two different messages/);
});

test("[RES-1] the faults' checker finds contents that are lost, doubled or in disorder under good numbers", () => {
  const shifted = (order: number[]): Verdict => {
    const journal = goodRun();
    const at = indexOf(journal, event(1));
    journal.splice(at, N + 1, ...order.map((index, place) => event(place + 1, index)), terminal(order.length + 1));
    return verdictOf(journal);
  };
  assert.ok(shifted([0, 1, 3, 4]).lost >= 1);
  assert.ok(shifted([0, 1, 2, 3]).lost >= 1);
  assert.equal(shifted([0, 1, 1, 2, 3, 4]).duplicated, 1);
  assert.ok(shifted([0, 2, 1, 3, 4]).reordered >= 1);
});

test("[JOB-1] the faults' checker finds a terminal message that never comes, and one that comes twice", () => {
  const lost = verdictOf(without(terminal(N + 1)));
  assert.equal(lost.lost, 1);
  assert.deepEqual(lost.findings, [`client: no terminal message of ${JOB} came`]);
  const journal = goodRun();
  journal.splice(indexOf(journal, terminal(N + 1)) + 1, 0, terminal(N + 2));
  assert.equal(verdictOf(journal).duplicated, 1);
});

test("[CLT-2] the faults' checker finds what the client did not hand out, or handed out twice", () => {
  assert.ok(verdictOf(without(handedOut(2))).lost >= 1);
  assert.ok(verdictOf(without(handedOut(N - 1))).lost >= 1);
  const journal = goodRun();
  journal.splice(indexOf(journal, handedOut(2)), 0, handedOut(2));
  assert.equal(verdictOf(journal).duplicated, 1);
});

test("[JOB-5] the faults' checker finds a submit that ran twice, and one that was refused and ran", () => {
  const twice = [
    { label: LABEL, jobId: JOB, attempt: 1 },
    { label: LABEL, jobId: "job_2", attempt: 1 },
  ];
  assert.match(verdictOf(goodRun(), twice).findings.join("\n"), /ran 2 times/);
  const journal = goodRun();
  journal.splice(journal.length - 1, 0, {
    t: "rejected",
    label: LABEL,
    code: "INTERNAL_ERROR",
    retryable: true,
    message: "the store does not answer",
  });
  assert.match(verdictOf(journal).findings.join("\n"), /was refused .* and ran/);
});

test("[JOB-15] the faults' checker finds a job that ends for a reason that the run does not give", () => {
  const failed = { final_status: "error", code: "INTERNAL_ERROR", retryable: true, details: { reason: "node_lost" } };
  const journal = goodRun();
  const at = indexOf(journal, terminal(N + 1));
  const frame = { ...(JSON.parse((journal[at] as { frame: string }).frame) as object), payload: failed };
  journal[at] = incoming({ ...frame, type: "job.error" });
  assert.match(verdictOf(journal).findings.join("\n"), /no server was killed or stopped/);
});

test("[CLT-4] the faults' checker finds a submit that is never settled, and a client that never ends", () => {
  const verdict = verdictOf(without({ t: "accepted", label: LABEL, jobId: JOB }).filter((entry) => entry.t !== "done"));
  assert.ok(verdict.findings.includes(`client: ${LABEL} was never settled`));
  assert.ok(verdict.findings.includes("client: did not come to its end"));
});

test("[JOB-2] the faults' checker finds an event that comes before its job's accepted", () => {
  const journal = without(event(1));
  journal.splice(indexOf(journal, welcome) + 1, 0, event(1));
  assert.match(verdictOf(journal).findings.join("\n"), /came before the job's accepted or subscribed/);
});
