/** The checker must be able to fail: a good run of turns, and what becomes of it when something in it is wrong. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { messageOf } from "../journal.ts";
import { checkTurns, type TurnEvidence, type TurnVerdict } from "./checker.ts";
import type { Answer, Correspondence, RunEntry } from "./journal.ts";
import type { Sighting, StoredJob } from "./watch.ts";

const PLACE = "cli_1";
const N = 2;

/** What a test may doctor: the evidence, with its lists open. */
interface Doctored {
  messages: { label: string; onBusy: "enqueue" | "interrupt"; input: Input }[];
  correspondence: Correspondence[];
  journals: Map<string, RunEntry[]>;
  stored: {
    conversations: TurnEvidence["stored"]["conversations"];
    turns: TurnEvidence["stored"]["turns"];
    jobs: StoredJob[];
    sightings: Sighting[];
  };
  disturbances: { worker: string; did: "kill" | "pause" | "drain"; from: number; to: number }[];
}

type Input = { label: string; n: number; everyMs: number; fails: boolean; deaf: boolean };

const labelOf = (job: number) => `m${job}`;
const idOf = (job: number) => `job_${job}`;
const accepted = (job: number): Answer => ({
  said: "accepted",
  jobId: idOf(job),
});
const event = (job: number, n: number, kind = "log"): Sighting => ({ what: "event", job, n, runEpoch: 1, kind });
const lock = (epoch: number, job: number | null): Sighting => ({
  what: "lock",
  conversation: 1,
  epoch,
  holder: job === null ? null : idOf(job),
  job,
});
const turn = (job: number, state: string, epoch: number | null = null, ahead = false): Sighting => ({
  what: "turn",
  conversation: 1,
  job,
  ahead,
  state,
  epoch,
});
const logged = (label: string, index: number) =>
  JSON.stringify({ kind: "log", body: { message: messageOf(label, index, 20) } });
const success = JSON.stringify({ final_status: "success" });
const failure = (details: object) => JSON.stringify({ final_status: "error", code: "INTERNAL_ERROR", details });

/** Three messages of one conversation, each with its turn, one after the other on two workers. */
function goodRun(): Doctored {
  const jobs = [1, 2, 3];
  const ran = (job: number): Sighting[] => [
    event(job, 1),
    event(job, 2),
    event(job, 3, "job.result"),
    turn(job, "ended", job),
    lock(job, null),
  ];
  return {
    messages: jobs.map((job) => ({
      label: labelOf(job),
      onBusy: "enqueue",
      input: { label: labelOf(job), n: N, everyMs: 0, fails: false, deaf: false },
    })),
    correspondence: jobs.flatMap((job): Correspondence[] => [
      { t: "sent", label: labelOf(job) },
      { t: "answered", label: labelOf(job), answer: accepted(job) },
    ]),
    journals: new Map([
      ["one", [...worked(1), ...worked(3)]],
      ["two", worked(2)],
    ]),
    stored: {
      conversations: [{ key: 1, id: PLACE, holder: null, queued: 0 }],
      turns: jobs.map((job) => ({
        conversation: 1,
        conversationId: PLACE,
        job,
        messageId: labelOf(job),
        ahead: false,
        state: "ended",
        epoch: job,
      })),
      jobs: jobs.map((job) => ({
        key: job,
        jobId: idOf(job),
        label: labelOf(job),
        state: "success",
        endedAt: job * 1_000 + 900,
        events: [
          { n: 1, runEpoch: 1, kind: "log", payload: logged(labelOf(job), 0) },
          { n: 2, runEpoch: 1, kind: "log", payload: logged(labelOf(job), 1) },
          { n: 3, runEpoch: 1, kind: "job.result", payload: success },
        ],
      })),
      sightings: [
        turn(1, "running", 1),
        lock(1, 1),
        turn(2, "queued"),
        turn(3, "queued"),
        ...ran(1),
        lock(2, 2),
        turn(2, "running", 2),
        ...ran(2),
        lock(3, 3),
        turn(3, "running", 3),
        ...ran(3),
      ],
    },
    disturbances: [],
  };
}

/** A handler's life, of 800 ms from the job's second on. */
const worked = (job: number): RunEntry[] => [
  { t: "begin", jobId: idOf(job), at: job * 1_000, label: labelOf(job), conversationId: PLACE, lockEpoch: job },
  { t: "end", jobId: idOf(job), at: job * 1_000 + 800, how: "done" },
];

function verdictOf(doctor: (run: Doctored) => void): TurnVerdict {
  const run = goodRun();
  doctor(run);
  return checkTurns(run);
}

const jobOf = (run: Doctored, key: number): StoredJob => run.stored.jobs[key - 1] as StoredJob;
const indexOf = (run: Doctored, wanted: Sighting): number => {
  const found = run.stored.sightings.findIndex((seen) => JSON.stringify(seen) === JSON.stringify(wanted));
  assert.notEqual(found, -1);
  return found;
};
/** Ends the job's log with another terminal event. */
function endWith(run: Doctored, key: number, payload: string): void {
  const job = jobOf(run, key);
  job.state = "error";
  job.events.splice(-1, 1, { n: 3, runEpoch: 2, kind: "job.error", payload });
}

test("[TRN-2] the turns' checker finds nothing in a run in which nothing went wrong", () => {
  const verdict = verdictOf(() => undefined);
  assert.deepEqual(verdict, {
    turns: 3,
    overlapped: 0,
    lost: 0,
    doubled: 0,
    reordered: 0,
    stuck: 0,
    findings: [],
    ends: {},
  });
});

test("[LCK-2] the turns' checker finds an event of an older epoch among those of a newer one", () => {
  const verdict = verdictOf((run) => run.stored.sightings.splice(indexOf(run, event(2, 2)), 0, event(1, 3)));
  assert.equal(verdict.overlapped, 1);
  assert.match(verdict.findings.join("\n"), /log 3 of m1 .*, of epoch 1, was stored while job_2 holds it/);
});

test("[LCK-2] the turns' checker finds an event that nobody's lock covers, and a turn that speaks unbegun", () => {
  assert.equal(verdictOf((run) => run.stored.sightings.push(event(3, 4))).overlapped, 1);
  assert.equal(
    verdictOf((run) => run.stored.sightings.splice(indexOf(run, event(1, 1)), 0, event(3, 9))).overlapped,
    1,
  );
});

test("[LCK-1] the turns' checker finds a lock that is given twice, and an epoch that is", () => {
  const twice = verdictOf((run) => run.stored.sightings.splice(indexOf(run, lock(1, null)), 1));
  assert.equal(twice.overlapped, 1);
  assert.match(twice.findings.join("\n"), /job_2 got the lock of 1 while job_1 held it/);
  const again = verdictOf((run) => run.stored.sightings.push(lock(3, 3), lock(3, null)));
  assert.match(again.findings.join("\n"), /under epoch 3, which was used/);
});

test("[LCK-4] the turns' checker finds handlers side by side of whom the older one was told nothing", () => {
  const long = (run: Doctored) => {
    const [, end] = run.journals.get("one") as RunEntry[];
    (end as RunEntry).at = 2_900;
  };
  assert.equal(verdictOf(long).overlapped, 1);
  const told = verdictOf((run) => {
    long(run);
    run.journals.get("one")?.splice(1, 0, { t: "told", jobId: idOf(1), at: 1_900, code: "LOCK_LOST" });
  });
  assert.equal(told.overlapped, 0);
  const stopped = verdictOf((run) => {
    long(run);
    run.disturbances.push({ worker: "one", did: "pause", from: 1_100, to: 2_800 });
  });
  assert.equal(stopped.overlapped, 0);
});

test("[LCK-1] the turns' checker finds two handlers under one epoch", () => {
  const verdict = verdictOf((run) => {
    const [begin] = run.journals.get("two") as RunEntry[];
    if (begin?.t === "begin") begin.lockEpoch = 1;
  });
  assert.match(verdict.findings.join("\n"), /ran under one epoch/);
});

test("[TRN-5] the turns' checker finds a message with two turns, two runs or two answers", () => {
  const twoTurns = verdictOf((run) => {
    jobOf(run, 2).label = "m1";
    for (const stored of jobOf(run, 2).events) stored.payload = stored.payload.replace("m2:", "m1:");
  });
  assert.match(twoTurns.findings.join("\n"), /doubled: m1 has the turns job_1, job_2/);
  const twoRuns = verdictOf((run) => run.journals.get("two")?.push(...worked(1)));
  assert.equal(twoRuns.doubled, 1);
  const begunAgain = verdictOf((run) => run.stored.sightings.push(turn(2, "running", 4)));
  assert.equal(begunAgain.doubled, 1);
  const twoAnswers = verdictOf((run) => run.correspondence.push({ t: "answered", label: "m1", answer: accepted(2) }));
  assert.equal(twoAnswers.doubled, 1);
  const twoAttempts = verdictOf((run) => {
    const [, second] = jobOf(run, 1).events;
    if (second !== undefined) second.runEpoch = 2;
  });
  assert.equal(twoAttempts.doubled, 1);
});

test("[TRN-1] the turns' checker finds a message that was refused and has a turn", () => {
  const verdict = verdictOf((run) => {
    run.correspondence[1] = { t: "answered", label: "m1", answer: { said: "refused", code: "CONVERSATION_BUSY" } };
  });
  assert.equal(verdict.doubled, 1);
  assert.match(verdict.findings.join("\n"), /m1 was refused and has the turn job_1/);
});

test("[TRN-2] the turns' checker finds a message that was taken and is not there, or never answered", () => {
  const gone = verdictOf((run) => {
    run.stored.jobs.splice(1, 1);
    run.stored.turns.splice(1, 1);
  });
  assert.match(gone.findings.join("\n"), /lost: m2 was accepted as job_2, which is not there/);
  assert.equal(verdictOf((run) => run.correspondence.splice(1, 1)).lost, 1);
  assert.match(verdictOf((run) => run.stored.turns.splice(1, 1)).findings.join("\n"), /m2 .* is no turn/);
});

test("[TRN-6] the turns' checker finds a turn without an end, with two, and one that goes on after it", () => {
  const none = verdictOf((run) => jobOf(run, 1).events.pop());
  assert.equal(none.lost, 1);
  const two = verdictOf((run) =>
    jobOf(run, 1).events.push({ n: 4, runEpoch: 2, kind: "job.error", payload: failure({ reason: "node_lost" }) }),
  );
  assert.equal(two.doubled, 1);
  const after = verdictOf((run) => run.stored.sightings.splice(indexOf(run, turn(1, "ended", 1)), 0, event(1, 4)));
  assert.equal(after.doubled, 1);
});

test("[TRN-6] the turns' checker finds a turn that ends for a reason that the run does not give", () => {
  const killed = (run: Doctored) => {
    run.journals.get("two")?.pop();
    endWith(run, 2, failure({ reason: "node_lost" }));
  };
  assert.match(verdictOf(killed).findings.join("\n"), /m2 .* ended with node_lost, for no reason/);
  const forAReason = verdictOf((run) => {
    killed(run);
    run.disturbances.push({ worker: "two", did: "kill", from: 2_100, to: 2_600 });
  });
  assert.deepEqual(forAReason.findings, []);
  assert.deepEqual(forAReason.ends, { node_lost: 1 });
  const unknown = verdictOf((run) => endWith(run, 2, failure({ reason: "who knows" })));
  assert.equal(unknown.lost, 1);
  const cancelled = JSON.stringify({ final_status: "cancelled", code: "CANCELLED" });
  assert.equal(verdictOf((run) => endWith(run, 2, cancelled)).lost, 1);
});

test("[LCK-2] the turns' checker finds an agent that was not told that its lock was lost", () => {
  const told = (code: string) =>
    verdictOf((run) => {
      run.journals.get("two")?.splice(1, 1, { t: "told", jobId: idOf(2), at: 2_700, code });
      endWith(run, 2, failure({ code: "LOCK_LOST" }));
    });
  assert.deepEqual(told("LOCK_LOST").findings, []);
  assert.match(told("INTERNAL_ERROR").findings.join("\n"), /m2 .* ended with LOCK_LOST, .* was told INTERNAL_ERROR/);
});

test("[TRN-6] the turns' checker finds a success without a run, or with events missing", () => {
  assert.equal(verdictOf((run) => run.journals.get("two")?.splice(0, 2)).lost, 1);
  const short = verdictOf((run) => jobOf(run, 1).events.splice(1, 1));
  assert.match(short.findings.join("\n"), /m1 .* succeeded with 1 of its 2 events/);
  const twice = verdictOf((run) => {
    const [first, second] = jobOf(run, 1).events;
    if (first !== undefined && second !== undefined) second.payload = first.payload;
  });
  assert.equal(twice.doubled, 1);
});

test("[TRN-2] the turns' checker finds a turn that overtakes, as the store did it and as the sender sees it", () => {
  const inStore = verdictOf((run) => {
    const { sightings } = run.stored;
    const [second, third] = [indexOf(run, turn(2, "running", 2)), indexOf(run, turn(3, "running", 3))];
    sightings[second] = turn(3, "running", 2);
    sightings[third] = turn(2, "running", 3);
  });
  assert.equal(inStore.reordered, 1);
  assert.match(inStore.findings.join("\n"), /m3 .* was begun while m2 .* was due/);
  const asSent = verdictOf((run) => {
    for (const stored of run.stored.turns) if (stored.job > 1) stored.epoch = 5 - stored.job;
  });
  assert.match(asSent.findings.join("\n"), /m3 ran before m2, which had been accepted first/);
});

test("[TRN-3] the turns' checker takes a turn that interrupts ahead of those that wait, and no other", () => {
  const interrupting = (run: Doctored) => {
    const { sightings } = run.stored;
    sightings[indexOf(run, turn(3, "queued"))] = turn(3, "queued", null, true);
    const third = run.stored.turns[2];
    if (third !== undefined) third.ahead = true;
  };
  assert.match(verdictOf(interrupting).findings.join("\n"), /m2 .* was begun while m3 .* was due/);
});

test("[TRN-6] the turns' checker finds what is still busy at the end", () => {
  const held = verdictOf((run) => {
    const [place] = run.stored.conversations;
    if (place !== undefined) place.holder = "job_3";
  });
  assert.equal(held.stuck, 1);
  const waiting = verdictOf((run) => {
    const [place] = run.stored.conversations;
    if (place !== undefined) place.queued = 1;
  });
  assert.equal(waiting.stuck, 1);
  const running = verdictOf((run) => {
    const third = run.stored.turns[2];
    if (third !== undefined) third.state = "running";
    jobOf(run, 3).endedAt = null;
  });
  assert.equal(running.stuck, 2);
});

/** The third turn's node is killed behind its first event, and another one runs it again. */
function givenBack(run: Doctored): void {
  const { sightings } = run.stored;
  sightings.splice(
    sightings.indexOf(sightings.findLast(({ what }) => what === "event") as Sighting) - 2,
    Number.POSITIVE_INFINITY,
    event(3, 1),
    event(3, 2, "status"),
    turn(3, "queued", null, true),
    lock(3, null),
    lock(4, 3),
    turn(3, "running", 4, true),
    event(3, 3, "status"),
    event(3, 4),
    event(3, 5),
    event(3, 6, "job.result"),
    turn(3, "ended", 4, true),
    lock(4, null),
  );
  const status = (phase: string) => JSON.stringify({ kind: "status", body: { phase } });
  const again = (index: number) =>
    JSON.stringify({ kind: "log", body: { message: messageOf(labelOf(3), index, 20, 2) } });
  jobOf(run, 3).events = [
    { n: 1, runEpoch: 1, kind: "log", payload: logged(labelOf(3), 0) },
    { n: 2, runEpoch: 2, kind: "status", payload: status("node_lost") },
    { n: 3, runEpoch: 3, kind: "status", payload: status("restarted") },
    { n: 4, runEpoch: 3, kind: "log", payload: again(0) },
    { n: 5, runEpoch: 3, kind: "log", payload: again(1) },
    { n: 6, runEpoch: 3, kind: "job.result", payload: success },
  ];
  const [begin, end] = worked(3) as [RunEntry, RunEntry];
  run.journals.set("one", [...worked(1), begin]);
  run.journals.set("two", [...worked(2), { ...begin, at: 3_400, lockEpoch: 4 } as RunEntry, end]);
  run.disturbances.push({ worker: "one", did: "kill", from: 3_100, to: 3_300 });
  const [, , stored] = run.stored.turns;
  if (stored !== undefined) Object.assign(stored, { epoch: 4, ahead: true });
}

test("[CLU-6] the turns' checker takes a turn that was given back and is run again, and no other second run", () => {
  assert.deepEqual(verdictOf(givenBack).findings, []);
  const kept = verdictOf((run) => {
    givenBack(run);
    const { sightings } = run.stored;
    sightings.splice(indexOf(run, turn(3, "queued", null, true)), 1);
  });
  assert.match(kept.findings.join("\n"), /was begun again/);
  const unsaid = verdictOf((run) => {
    givenBack(run);
    const { events } = jobOf(run, 3);
    events.splice(1, 1, { n: 2, runEpoch: 1, kind: "log", payload: logged(labelOf(3), 1) });
  });
  assert.match(unsaid.findings.join("\n"), /was begun by one and by two/);
  assert.match(unsaid.findings.join("\n"), /two attempts/);
  const missing = verdictOf((run) => {
    givenBack(run);
    jobOf(run, 3).events.splice(3, 1);
  });
  assert.ok(missing.lost > 0);
});
