/** RES: connections that end, sessions that do not. */
import { CLIENT_INSTANCE, newMessageId } from "../../protocol/index.ts";
import { detailsOf, logged, type Peer, type Request, type ResumeFrom } from "./peer.ts";
import { type ConformanceCase, checkStream, type Stage } from "./stage.ts";
import { check } from "./verdict.ts";

/** A window above this makes the case that waits for its end too long. */
const BEARABLE_WINDOW_SEC = 10;
/** The runtime learns of a cut a little after we made it. */
const WINDOW_SLACK_MS = 500;
/** The welcome's runtime name of Holdfast: its own extensions are asked of nobody else. */
const OURS = "holdfast";

/** Message `index` of a burst begins with its number in eight digits. */
const burstNumber = (index: number): string => String(index).padStart(8, "0");

/**
 * Fails unless the connections of one session, together, have all n messages of a burst in order, and its
 * result. They may overlap.
 */
export function checkBurst(jobId: string, n: number, ...peers: readonly Peer[]): void {
  checkStream(...peers);
  const bySeq = new Map(peers.flatMap((peer) => peer.of(jobId)).map((one) => [one.envelope.event_seq as number, one]));
  const all = [...bySeq].toSorted(([a], [b]) => a - b).map(([, received]) => received);
  const events = all.filter(({ envelope }) => envelope.type === "job.event");
  for (const [index, received] of events.entries()) {
    check(
      String(logged(received)).startsWith(burstNumber(index)),
      `message ${burstNumber(index)} of the burst next`,
      received,
    );
  }
  check(events.length === n, `all ${n} messages of the burst`, `${events.length} of them`);
  check(all.at(-1)?.envelope.type === "job.result", "job.result behind the last message", all.at(-1));
}

const inOrder: ConformanceCase = {
  rule: "RES-1",
  title: "after a cut in mid-stream every event comes once and in order, then the live ones",
  async run(stage) {
    const n = Math.max(400, stage.behind / 10);
    const first = await stage.connect();
    const jobId = await first.start("burst", { n, bytes: 200 });
    await first.reaches(20);
    first.cut();
    const second = await stage.resume(first);
    if (first.terminals(jobId).length === 0) await second.terminal(jobId);
    checkBurst(jobId, n, first, second);
    const live = await second.start("ticker", { n: 3, every_ms: 1 });
    await second.terminal(live);
    checkStream(first, second);
  },
};

const severalJobs: ConformanceCase = {
  rule: "RES-1",
  title: "several jobs at a time: each in its own order, together without a hole",
  async run(stage) {
    const first = await stage.connect();
    const jobs: string[] = [];
    for (let index = 0; index < 4; index += 1) jobs.push(await first.start("ticker", { n: 15, every_ms: 10 }));
    await first.reaches(20);
    first.cut();
    const second = await stage.resume(first);
    for (const jobId of jobs) {
      // On a slow machine a job may have ended before the cut.
      if (first.terminals(jobId).length === 0) await second.terminal(jobId);
      const ticks = [...first.of(jobId), ...second.of(jobId)];
      for (const [index, received] of ticks.slice(0, -1).entries())
        check(logged(received) === `tick ${index}`, `tick ${index} of ${jobId} next`, received);
      check(ticks.length === 16, "15 ticks and a result of each job", `${ticks.length} messages of ${jobId}`);
    }
    checkStream(first, second);
  },
};

const caughtUp: ConformanceCase = {
  rule: "RES-2",
  title: "a resume that is fully caught up works, with and without an event so far",
  async run(stage) {
    const first = await stage.connect();
    first.cut();
    const second = await stage.resume(first);
    await second.terminal(await second.start("echo", 1));
    second.cut();
    const third = await stage.resume(second);
    await third.terminal(await third.start("echo", 2));
    checkStream(first, second, third);
    check(third.numbered.length >= 1, "the live events right behind a resume", third.received.at(-1));
  },
};

const farBehind: ConformanceCase = {
  rule: "RES-2",
  title: "a resume from the very beginning, many thousands of events behind, replays all of them",
  long: true,
  async run(stage) {
    const first = await stage.connect();
    const jobId = await first.start("burst", { n: stage.behind, bytes: 64 });
    // Progress is what counts: as long as events come, the wait goes on.
    for (let seq = 1_000; seq < stage.behind; seq += 1_000) await first.reaches(seq);
    await first.terminal(jobId);
    first.cut();
    const second = await stage.resume(first, { seq: 0 });
    for (let seq = 1_000; seq < stage.behind; seq += 1_000) await second.reaches(seq);
    await second.terminal(jobId);
    checkBurst(jobId, stage.behind, first, second);
    checkBurst(jobId, stage.behind, second);
  },
};

const whileAway: ConformanceCase = {
  rule: "RES-3",
  title: "what jobs emit while nobody is connected is replayed, their terminal messages included",
  async run(stage) {
    const first = await stage.connect();
    const ticking = await first.start("ticker", { n: 30, every_ms: 10 });
    const bursting = await first.start("burst", { n: 500, bytes: 50, delay_ms: 100 });
    await first.reaches(2);
    first.cut();
    await stage.pause(700);
    const second = await stage.resume(first);
    for (const jobId of [ticking, bursting]) {
      const end = await second.terminal(jobId);
      check(end.envelope.type === "job.result", "the job to go on while nobody is connected", end);
    }
    checkStream(first, second);
    checkBurst(bursting, 500, first, second);
    const ticks = [...first.of(ticking), ...second.of(ticking)];
    check(ticks.length === 31, "30 ticks and a result", `${ticks.length} messages`);
  },
};

const keepsCancel: ConformanceCase = {
  rule: "RES-3",
  title: "a job submitted before the drop can be cancelled after it",
  async run(stage) {
    const first = await stage.connect();
    const jobId = await first.start("ticker", { n: 1_000, every_ms: 100 });
    first.cut();
    const second = await stage.resume(first);
    const answer = await second.ask("job.cancel", {}, { job_id: jobId });
    check(answer.envelope.type === "job.cancelled", "job.cancelled for a cancel from the resumed session", answer);
    await second.terminal(jobId);
    checkStream(first, second);
  },
};

const draftForm: ConformanceCase = {
  rule: "RES-4",
  title: "session.resume as the first message does the same as a hello with `resume`",
  async run(stage) {
    const first = await stage.connect();
    const jobId = await first.start("burst", { n: 100, bytes: 20 });
    await first.reaches(40);
    first.cut();
    const second = await stage.resume(first, { seq: 10 }, { form: "session.resume" });
    await second.terminal(jobId);
    checkBurst(jobId, 100, first, second);
  },
};

const notFromThere: ConformanceCase = {
  rule: "RES-5",
  title: "a number above the newest, an unknown session and an unknown token are RESUME_WINDOW_EXPIRED",
  async run(stage) {
    const peer = await stage.connect();
    await peer.terminal(await peer.start("echo", 1));
    const bad: [why: string, from: ResumeFrom][] = [
      ["a last_event_seq above the newest", peer.from(peer.lastSeq + 1)],
      ["an unknown session", { ...peer.from(), sessionId: "sess_conformance" }],
      ["an unknown token", peer.from(peer.lastSeq, "conformance-no-such-token")],
    ];
    for (const [why, from] of bad) await stage.refused(from, "RESUME_WINDOW_EXPIRED", `a resume with ${why}`);
    check(peer.open, "a refused resume to disturb nobody", peer.closed);
    await peer.checkAlive("refused resumes");
  },
};

function bearableWindowMs(stage: Stage): number {
  const { resumeWindowSec } = stage.facts;
  if (resumeWindowSec === undefined || resumeWindowSec > BEARABLE_WINDOW_SEC) {
    stage.skip(`the resume window is ${resumeWindowSec} s; it takes one of ${BEARABLE_WINDOW_SEC} s or less`);
  }
  return resumeWindowSec * 1_000;
}

const windowOver: ConformanceCase = {
  rule: "RES-5",
  title: "a resume after the window is RESUME_WINDOW_EXPIRED",
  long: true,
  async run(stage) {
    const windowMs = bearableWindowMs(stage);
    const peer = await stage.connect();
    peer.cut();
    await stage.pause(windowMs + WINDOW_SLACK_MS);
    await stage.refused(peer.from(), "RESUME_WINDOW_EXPIRED", "a resume after the window");
  },
};

const tokens: ConformanceCase = {
  rule: "RES-6",
  title: "a token is good until a newer one is presented: a lost welcome costs nothing",
  async run(stage) {
    const first = await stage.connect();
    const oldest = first.from();
    first.cut();
    // Three welcomes that were lost, as the client has it: it comes back with the token that it knows.
    const lost: ResumeFrom[] = [];
    for (let round = 0; round < 3; round += 1) {
      const peer = await stage.connect({ resume: oldest });
      lost.push(peer.from());
      peer.cut();
    }
    const [one, two, three] = lost as [ResumeFrom, ResumeFrom, ResumeFrom];
    const known = [oldest, ...lost].map(({ token }) => token);
    check(new Set(known).size === known.length, "a new resume_token in every welcome", "one that came twice");
    const current = await stage.connect({ resume: two });
    for (const [from, what] of [
      [oldest, "before"],
      [one, "just before"],
    ] as const) {
      await stage.refused(from, "RESUME_WINDOW_EXPIRED", `a token that was issued ${what} the one presented since`);
    }
    check(current.open, "a retired token to disturb nobody", current.closed);
    (await stage.connect({ resume: two })).cut();
    const newest = await stage.connect({ resume: three });
    await stage.refused(two, "RESUME_WINDOW_EXPIRED", "a token that was presented before a newer one");
    newest.cut();
    await stage.connect({ resume: current.from() });
  },
};

const sevenTokens: ConformanceCase = {
  rule: "RES-6",
  title: "of the tokens issued since the last one presented, the newest seven are good",
  async run(stage) {
    const first = await stage.connect();
    const presented = first.from();
    first.cut();
    const issued: ResumeFrom[] = [];
    for (let round = 0; round < 8; round += 1) {
      const peer = await stage.connect({ resume: presented });
      issued.push(peer.from());
      // The last one stays: no window is to run out while a connection is opened that will be refused.
      if (round < 7) peer.cut();
    }
    await stage.refused(issued[0] as ResumeFrom, "RESUME_WINDOW_EXPIRED", "the eighth newest token");
    await stage.connect({ resume: issued[1] as ResumeFrom });
  },
};

const otherPrincipal: ConformanceCase = {
  rule: "RES-7",
  title: "another principal with a valid resume token is UNAUTHENTICATED, and the session is undisturbed",
  async run(stage) {
    const token = stage.otherToken();
    const owner = await stage.connect();
    const jobId = await owner.start("ticker", { n: 30, every_ms: 10 });
    await owner.reaches(2);
    await stage.refused(owner.from(0), "UNAUTHENTICATED", "another principal's resume", { token });
    await owner.terminal(jobId);
    checkStream(owner);
    owner.cut();
    await stage.refused(owner.from(0), "UNAUTHENTICATED", "another principal's resume while nobody is connected", {
      token,
    });
    await stage.resume(owner);
  },
};

const takeover: ConformanceCase = {
  rule: "RES-8",
  title: "a resume while a connection is attached takes over; the older one is told so and closed",
  async run(stage) {
    const older = await stage.connect();
    const jobId = await older.start("ticker", { n: 20, every_ms: 30 });
    await older.reaches(3);
    const newer = await stage.resume(older);
    // It still speaks: nothing that it says has an effect any more.
    const key = newMessageId();
    older.tell("job.submit", { agent: "echo", input: "from the older one", idempotency_key: key });
    const told = await older.until(
      () => older.received.find(({ envelope }) => envelope.type === "session.error"),
      "session.error on the older connection, with details.reason superseded",
    );
    check(
      told.envelope.payload["code"] === "INVALID_REQUEST" && detailsOf(told)["reason"] === "superseded",
      'session.error INVALID_REQUEST with details.reason "superseded" on the older connection',
      told,
    );
    await older.whenClosed("that was taken over");
    const answer = await newer.submit("echo", "from the newer one", { idempotency_key: key });
    check(
      answer.envelope.type === "job.accepted",
      "a submit of the older connection after the takeover to have no effect (its idempotency key is still free)",
      answer,
    );
    await newer.terminal(jobId);
    checkStream(older, newer);
  },
};

const lowerAttempt: ConformanceCase = {
  rule: "RES-8",
  title: "of one client instance a lower attempt is refused and disturbs nobody",
  async run(stage) {
    if (stage.facts.name !== OURS) {
      stage.skip(`the extension "${CLIENT_INSTANCE}" is Holdfast's own, and this runtime is ${stage.facts.name}`);
    }
    const attempt = (number: number) => ({
      extensions: { [CLIENT_INSTANCE]: { instance: "conformance", attempt: number } },
    });
    const first = await stage.connect(attempt(1));
    const third = await stage.resume(first, {}, attempt(3));
    const late = await stage.refused(
      first.from(),
      "INVALID_REQUEST",
      "a delayed hello of an earlier attempt",
      attempt(2),
    );
    check(detailsOf(late)["reason"] === "superseded", 'details.reason "superseded"', late);
    check(third.open, "a delayed hello to disturb nobody", third.closed);
    await third.checkAlive("a delayed hello of an earlier attempt");
  },
};

const noNumberTwice: ConformanceCase = {
  rule: "RES-9",
  title: "over cuts and takeovers at any point no number is used twice and none is left out",
  long: true,
  async run(stage) {
    const n = Math.max(600, stage.behind / 10);
    let peer = await stage.connect();
    const peers = [peer];
    const jobId = await peer.start("burst", { n, bytes: 100 });
    for (let round = 0; round < 8 && peer.terminals(jobId).length === 0; round += 1) {
      const enough = peer.resumedFrom + 1 + ((round * 131) % 300);
      const current = peer;
      await peer.until(
        () => current.lastSeq >= enough || current.terminals(jobId).length > 0,
        `events up to event_seq ${enough}, or the job's end`,
      );
      // Every other time the older connection is still open.
      if (round % 2 === 0) peer.cut();
      const behind = (round * 37) % 50;
      peer = await stage.resume(peer, { seq: Math.max(0, peer.lastSeq - behind) });
      peers.push(peer);
    }
    await peer.terminal(jobId);
    await peer.fence();
    checkBurst(jobId, n, ...peers);
    check(peer.terminals(jobId).length === 1, "one terminal message", peer.terminals(jobId)[1]);
  },
};

const unproven: ConformanceCase = {
  rule: "RES-10",
  title: "replies that nothing proves to have arrived come again after the welcome, before any event",
  async run(stage) {
    const first = await stage.connect();
    const accepted = await first.submit("burst", { n: 3, bytes: 10, delay_ms: 50 });
    const rejected = await first.submit("conformance-no-such-agent", 1);
    const jobId = accepted.envelope.job_id ?? "";
    await first.terminal(jobId);
    first.cut();
    const second = await stage.resume(first, { seq: 0 });
    await second.terminal(jobId);
    for (const reply of [accepted, rejected]) {
      const again = second.received.find(({ envelope }) => envelope.id === reply.envelope.id);
      check(again !== undefined, `${reply.envelope.type} again, under its id ${reply.envelope.id}`, second.received[1]);
      check(again.frame === reply.frame, `the same reply again: ${reply.frame}`, again);
      check(again.index < (second.numbered[0]?.index ?? 0), "the replies before any event", second.numbered[0]);
    }
  },
};

const afterRestart: ConformanceCase = {
  rule: "RES-11",
  title: "sessions, tokens, jobs, replies and idempotency keys survive a restart of the runtime",
  alone: true,
  lacks: ({ restart }) =>
    restart === undefined ? "it takes a restart of the runtime (--serve, or --stdio)" : undefined,
  async run(stage) {
    const first = await stage.connect();
    const key = newMessageId();
    const parameters = { agent: "burst", input: { n: 200, bytes: 50 }, idempotency_key: key };
    const submit = first.prepare("job.submit", parameters);
    first.post(submit);
    const accepted = await first.answerTo(submit);
    const jobId = accepted.envelope.job_id ?? "";
    await first.terminal(jobId);
    first.close();
    await first.whenClosed("that the client closed");
    await stage.means.restart?.();

    const back = await stage.resume(first, { seq: 100 });
    await back.terminal(jobId);
    checkBurst(jobId, 200, first, back);
    const again: Request = { ...submit, answer: undefined };
    back.post(again);
    const reply = await back.answerTo(again);
    check(reply.frame === accepted.frame, `the stored reply to a repeat, ${accepted.frame}`, reply);

    const other = await stage.connect();
    const sameKey = await other.ask("job.submit", parameters);
    const expected = JSON.stringify(accepted.envelope.payload);
    check(
      sameKey.envelope.type === "job.accepted" && JSON.stringify(sameKey.envelope.payload) === expected,
      `the same job.accepted payload for an idempotency key from before the restart: ${expected}`,
      sameKey,
    );
    await other.terminal(jobId);
    checkBurst(jobId, 200, other);
    await back.terminal(await back.start("echo", "after the restart"));
    checkStream(first, back);
  },
};

export const RESUME_CASES: readonly ConformanceCase[] = [
  inOrder,
  severalJobs,
  caughtUp,
  farBehind,
  whileAway,
  keepsCancel,
  draftForm,
  notFromThere,
  windowOver,
  tokens,
  sevenTokens,
  otherPrincipal,
  takeover,
  lowerAttempt,
  noNumberTwice,
  unproven,
  afterRestart,
];
