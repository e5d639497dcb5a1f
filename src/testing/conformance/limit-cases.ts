/**
 * What a runtime refuses because it is too much (SES-14 to SES-17, SES-20, JOB-17). A limit of the runtime
 * may be another than SPEC.md's default where its refusals tell it in `details.limit`; how far a case goes to
 * meet one is bounded by a constant here. A case that fills a limit of the principal's runs alone.
 */
import { detailsOf, type Peer, type Received, type Request } from "./peer.ts";
import type { ConformanceCase, Stage } from "./stage.ts";
import { check, Unmet } from "./verdict.ts";

const isLimited = (answer: Received): boolean => detailsOf(answer)["code"] === "LIMIT_EXCEEDED";

/** Fails unless the message is a refusal that says to come again, and when. */
function checkLimited(answer: Received, type: "job.error" | "session.error", what: string): void {
  const { payload } = answer.envelope;
  check(
    answer.envelope.type === type && payload["code"] === "INTERNAL_ERROR" && isLimited(answer),
    `${type} INTERNAL_ERROR with details.code "LIMIT_EXCEEDED" for ${what}`,
    answer,
  );
  check(payload["retryable"] === true, `\`retryable\` true for ${what}`, answer);
  check(Number(detailsOf(answer)["retry_after_ms"]) > 0, `details.retry_after_ms above 0 for ${what}`, answer);
}

/** The limit that a refusal tells, else that of SPEC.md. */
function limitOf(answer: Received | undefined, otherwise: number): number {
  const limit = answer === undefined ? undefined : detailsOf(answer)["limit"];
  return typeof limit === "number" && limit > 0 ? limit : otherwise;
}

/** Why a connection was ended for being too much, as far as that has arrived. */
const lastRefusal = (peer: Peer): Received | undefined => peer.received.findLast(isLimited);

// ------------------------------------------------------------------------------------------- sessions

const MOST_SESSIONS = 1_000;
const GREETED_AT_A_TIME = 40;
/** A window above this makes a principal wait too long for its next session. */
const BEARABLE_WINDOW_SEC = 5;

const manySessions: ConformanceCase = {
  rule: "SES-14",
  title: `of more than ${MOST_SESSIONS} sessions of one principal one is LIMIT_EXCEEDED, and there is room again later`,
  alone: true,
  long: true,
  lacks: ({ maxConnections }) =>
    maxConnections > MOST_SESSIONS
      ? undefined
      : `it takes ${MOST_SESSIONS + 1} connections at a time, and each is a process of its own here`,
  async run(stage) {
    const { resumeWindowSec } = stage.facts;
    if (resumeWindowSec === undefined || resumeWindowSec > BEARABLE_WINDOW_SEC) {
      stage.skip(`the resume window is ${resumeWindowSec} s; it takes one of ${BEARABLE_WINDOW_SEC} s or less`);
    }
    const peers: Peer[] = [];
    let refusal: Received | undefined;
    while (refusal === undefined && peers.length <= MOST_SESSIONS) {
      const greetings = await Promise.all(
        Array.from({ length: GREETED_AT_A_TIME }, () => stage.greet({ features: ["list_jobs"] })),
      );
      peers.push(...greetings.map(({ peer }) => peer));
      const refused = greetings.find(({ answer }) => answer.envelope.type !== "session.welcome");
      refusal = refused?.answer;
      await refused?.peer.whenClosed("after it refused a session");
    }
    check(refusal !== undefined, `one of ${peers.length} sessions of one principal to be refused`, "a welcome for all");
    checkLimited(refusal, "session.error", "one session too many");
    await (peers[0] as Peer).checkAlive("a refused session of the same principal");
    if (stage.hasOtherToken) await stage.connect({ token: stage.otherToken() });
    for (const peer of peers) peer.close();
    const retryAfterMs = Number(detailsOf(refusal)["retry_after_ms"]);
    await stage.pause(Math.min(retryAfterMs, BEARABLE_WINDOW_SEC * 1_000));
    // The runtime learns of the closes a little after we made them.
    const deadline = stage.clock.monotonic() + stage.timeoutMs;
    let answer = (await stage.greet()).answer;
    while (isLimited(answer) && stage.clock.monotonic() < deadline) {
      await stage.pause(250);
      answer = (await stage.greet()).answer;
    }
    check(answer.envelope.type === "session.welcome", "a session again after the others were over", answer);
  },
};

// ------------------------------------------------------------------------------------------- requests

const MOST_IN_FLIGHT = 4_096;
const FLOOD_REQUESTS = 6_000;
const REQUESTS_AT_A_TIME = 1_500;

/** Waits for every answer, or the end of the connection. As long as answers come the wait goes on. */
async function allAnswered(peer: Peer, requests: readonly Request[]): Promise<void> {
  for (const [index, request] of requests.entries()) {
    if (peer.closed !== undefined) return;
    if (request.answer !== undefined) continue;
    await peer.until(
      () => peer.closed !== undefined || request.answer !== undefined,
      `an answer to request ${index + 1} of ${requests.length}`,
    );
  }
}

/** Posts requests without waiting for answers until one is refused, the connection ends, or it is enough. */
async function floodWithRequests(stage: Stage, peer: Peer, most: number): Promise<Request[]> {
  const requests: Request[] = [];
  while (requests.length < most && peer.closed === undefined && lastRefusal(peer) === undefined) {
    const some = Array.from({ length: Math.min(REQUESTS_AT_A_TIME, most - requests.length) }, () =>
      peer.prepare("session.list_jobs", { limit: 1 }),
    );
    peer.post(...some);
    requests.push(...some);
    await stage.pause(0);
  }
  await allAnswered(peer, requests);
  return requests;
}

const requestsInFlight: ConformanceCase = {
  rule: "SES-15",
  title: "requests that pile up are answered or refused in their turn, and a refused one can be sent again",
  alone: true,
  async run(stage) {
    stage.needsFeatures("list_jobs");
    let peer = await stage.connect({ features: ["list_jobs"] });
    let requests = await floodWithRequests(stage, peer, FLOOD_REQUESTS);
    if (peer.closed !== undefined) {
      // Twice as much as that runtime takes: its last words say how much that is.
      const last = lastRefusal(peer);
      check(last !== undefined, "session.error LIMIT_EXCEEDED before a close for too many requests", peer.closed);
      checkLimited(last, "session.error", "requests that end the connection");
      peer = await stage.connect({ features: ["list_jobs"] });
      requests = await floodWithRequests(stage, peer, Math.ceil(limitOf(last, MOST_IN_FLIGHT) * 1.5));
    }
    check(peer.closed === undefined, "less than twice as many requests as may wait not to end it", peer.closed);
    let before = -1;
    for (const { answer } of requests) {
      check(answer !== undefined && answer.index > before, "the answers in the order of the requests", answer);
      before = answer.index;
      if (answer.envelope.type !== "session.jobs") checkLimited(answer, "session.error", "one request too many");
    }
    // A runtime that keeps up has refused none.
    const refused = requests.find(({ answer }) => answer?.envelope.type === "session.error");
    if (refused?.answer === undefined) return;
    await stage.pause(Number(detailsOf(refused.answer)["retry_after_ms"]));
    const again: Request = { ...refused, answer: undefined };
    peer.post(again);
    const answer = await peer.answerTo(again);
    check(answer.envelope.type === "session.jobs", "a refused request to be carried out when it comes again", answer);
  },
};

const MOST_IN_A_SECOND = 20_000;
const FLOOD_MESSAGES = 200_000;
const MESSAGES_AT_A_TIME = 500;
/** Stretches of a flood whose request was not answered yet: what the network holds is no runtime's second. */
const STRETCHES_AHEAD = 10;
/** What a measurement of another process's second may be wrong by. */
const RATE_SLACK = 1.25;

interface Flood {
  /** Messages, requests among them. */
  sent: number;
  requests: Request[];
  seconds: number;
}

/**
 * Sends messages that nobody answers, with a request among them now and then, as fast as they are taken,
 * until `enough`, the connection ends, or it is a lot.
 */
async function floodWithMessages(
  stage: Stage,
  peer: Peer,
  enough: () => boolean,
  atATime = MESSAGES_AT_A_TIME,
): Promise<Flood> {
  const since = stage.clock.monotonic();
  const pong = peer.prepare("session.pong", { ping_nonce: "unasked" }).frame;
  const pongs = Array.from({ length: atATime }, () => pong);
  const requests: Request[] = [];
  let sent = 0;
  while (sent < FLOOD_MESSAGES && peer.closed === undefined && !enough()) {
    await peer.sendTexts(pongs);
    const request = peer.prepare("job.submit", { agent: "conformance-no-such-agent", input: sent });
    peer.post(request);
    requests.push(request);
    sent += atATime + 1;
    const behind = requests.at(-STRETCHES_AHEAD);
    await peer.until(
      () => peer.closed !== undefined || behind === undefined || behind.answer !== undefined,
      "an answer to a request in a flood",
    );
  }
  await peer.until(
    () => peer.closed !== undefined || requests.at(-1)?.answer !== undefined,
    "an answer to the last request of a flood",
  );
  return { sent, requests, seconds: (stage.clock.monotonic() - since) / 1_000 };
}

/** A runtime that is slower than its limit meets none; one that took more than the limit allows has none. */
function checkTaken({ sent, seconds }: Flood, limit: number, bursts: number, expected: string): void {
  const most = Math.ceil(limit * (bursts + seconds) * RATE_SLACK);
  check(sent <= most, expected, `${sent} messages taken in ${seconds.toFixed(1)} s`);
}

const tooFast: ConformanceCase = {
  rule: "SES-16",
  title: "messages that come too fast are refused and not noted; a close is carried out even then",
  alone: true,
  async run(stage) {
    let peer = await stage.connect({ features: [] });
    let flood = await floodWithMessages(stage, peer, () => lastRefusal(peer) !== undefined);
    const limit = limitOf(lastRefusal(peer), MOST_IN_A_SECOND);
    if (peer.closed !== undefined && flood.sent > 2 * limit) {
      // That runtime takes less than we sent before its first refusal could arrive.
      const slow = await stage.connect({ features: [] });
      const atATime = Math.ceil(limit / (2 * STRETCHES_AHEAD));
      peer = slow;
      flood = await floodWithMessages(stage, slow, () => lastRefusal(slow) !== undefined, atATime);
    }
    const refused = flood.requests.find(({ answer }) => answer !== undefined && isLimited(answer));
    if (refused?.answer === undefined) {
      checkTaken(flood, MOST_IN_A_SECOND, 1, `no more than ${MOST_IN_A_SECOND} messages in a second to be taken`);
    } else {
      checkLimited(refused.answer, "job.error", "a submit that came too fast");
    }
    check(peer.closed === undefined, "a second's worth of messages too many not to end it", peer.closed);
    const close = peer.prepare("session.close", {});
    peer.post(close);
    const closed = await peer.answerTo(close);
    check(closed.envelope.type === "session.closed", "a session.close to be carried out in a flood", closed);
    if (refused === undefined) return;
    const back = await stage.resume(peer);
    const again: Request = { ...refused, answer: undefined };
    back.post(again);
    const answer = await back.answerTo(again);
    check(
      answer.envelope.payload["code"] === "AGENT_NOT_AVAILABLE",
      "a submit that was refused unseen to be looked at when it comes again",
      answer,
    );
  },
};

const goesOnRegardless: ConformanceCase = {
  rule: "SES-16",
  title: "who goes on sending too fast loses the connection; another session does not notice",
  alone: true,
  async run(stage) {
    const [peer, other] = [await stage.connect({ features: [] }), await stage.connect()];
    const flood = await floodWithMessages(stage, peer, () => false);
    const last = lastRefusal(peer);
    if (peer.closed === undefined) {
      checkTaken(flood, limitOf(last, MOST_IN_A_SECOND), 2, "a flood that is not heeded to end the connection");
    } else if (last !== undefined) {
      checkLimited(last, "session.error", "the flood that ended the connection");
    }
    await other.checkAlive("another session's flood");
  },
};

const MIB = 1024 * 1024;
/** How much is asked for without reading any of it: the limit of 8 MiB, and what the network itself holds. */
const UNREAD_BYTES = [2 * MIB, 24 * MIB];
const LISTED_JOBS = 100;
const MOST_LISTS = 3_000;
const LISTS_AT_A_TIME = 20;

const doesNotRead: ConformanceCase = {
  rule: "SES-17",
  title: "who goes on asking and does not read is cut off; another session does not notice",
  alone: true,
  async run(stage) {
    stage.needsFeatures("list_jobs");
    const [peer, other] = [await stage.connect({ features: ["list_jobs"] }), await stage.connect()];
    const submits = Array.from({ length: LISTED_JOBS }, (_, input) =>
      peer.prepare("job.submit", { agent: "echo", input }),
    );
    peer.post(...submits);
    for (const submit of submits) await peer.answerTo(submit);
    const page = async () => {
      const since = stage.clock.monotonic();
      const { frame } = await peer.ask("session.list_jobs", { limit: 1_000 });
      return { bytes: frame.length, ms: stage.clock.monotonic() - since };
    };
    await page();
    const { bytes, ms } = await page();
    for (const unread of UNREAD_BYTES) {
      const count = Math.min(MOST_LISTS, Math.ceil(unread / bytes));
      const lists = Array.from({ length: count }, () => peer.prepare("session.list_jobs", { limit: 1_000 }));
      peer.stopReading();
      for (let from = 0; from < count && peer.open; from += LISTS_AT_A_TIME) {
        peer.post(...lists.slice(from, from + LISTS_AT_A_TIME));
        await stage.pause(1);
      }
      await other.checkAlive("another session that does not read");
      // As long as it takes to make those pages, and a little more.
      await stage.pause(Math.min(stage.timeoutMs, count * ms * 1.5 + 200));
      peer.readAgain();
      await allAnswered(peer, lists);
      if (peer.closed !== undefined) return;
    }
    throw new Unmet(
      "a client that goes on asking and does not read to be cut off",
      `all the answers, ${(UNREAD_BYTES.at(-1) ?? 0) / MIB} MiB of them, after they had waited`,
    );
  },
};

// ---------------------------------------------------------------------------------- before the welcome

const MOST_EARLY_FRAMES = 100;
const MOST_EARLY_CHARS = 256 * 1024;

const earlyFrames: ConformanceCase = {
  rule: "SES-20",
  title: `more than ${MOST_EARLY_FRAMES} frames or ${MOST_EARLY_CHARS / 1024} Ki characters before the welcome end the connection`,
  async run(stage) {
    const early = (peer: Peer, nonce = "early") => peer.prepare("session.ping", { nonce }).frame;
    const patient = await stage.open();
    await patient.sendTexts(Array.from({ length: MOST_EARLY_FRAMES - 1 }, () => early(patient)));
    const welcome = await patient.hello({ token: stage.token });
    check(
      welcome.envelope.type === "session.welcome",
      `session.welcome for a hello behind ${MOST_EARLY_FRAMES - 1} other frames`,
      welcome,
    );
    // The one that says nothing would be the first to go for want of a hello (SES-2).
    const silent = await stage.open();
    const [many, large] = [await stage.open(), await stage.open()];
    await many.sendTexts(Array.from({ length: MOST_EARLY_FRAMES + 1 }, () => early(many)));
    await large.sendTexts([early(large, "x".repeat(MOST_EARLY_CHARS))]);
    await many.whenClosed(`after ${MOST_EARLY_FRAMES + 1} frames before a welcome`);
    await large.whenClosed(`after more than ${MOST_EARLY_CHARS / 1024} Ki characters before a welcome`);
    check(silent.closed === undefined, "an end for what was sent, not for want of a hello", silent.closed);
  },
};

// ----------------------------------------------------------------------------------------------- jobs

const MOST_RUNNING = 100;
/** A runtime that lets run more than SPEC.md's default is believed up to here. */
const FLOOD_JOBS = 1_000;
const JOBS_AT_A_TIME = 51;

const runningJobs: ConformanceCase = {
  rule: "JOB-17",
  title: `of more than ${MOST_RUNNING} running jobs of one principal one is LIMIT_EXCEEDED; an end makes room`,
  alone: true,
  async run(stage) {
    const peer = await stage.connect();
    const submit = () => peer.prepare("job.submit", { agent: "ticker", input: { n: 2, every_ms: 3_600_000 } });
    const running: string[] = [];
    let refusal: Received | undefined;
    while (refusal === undefined && running.length < FLOOD_JOBS) {
      const submits = Array.from({ length: JOBS_AT_A_TIME }, submit);
      peer.post(...submits);
      for (const request of submits) {
        const answer = await peer.answerTo(request);
        if (answer.envelope.type === "job.accepted") running.push(answer.envelope.job_id ?? "");
        else refusal ??= answer;
      }
    }
    check(refusal !== undefined, "one of so many running jobs to be refused", `${running.length} jobs accepted`);
    checkLimited(refusal, "job.error", "one running job too many");
    check(refusal.envelope.event_seq === undefined, "no event_seq on the refusal", refusal);
    const limit = limitOf(refusal, MOST_RUNNING);
    check(running.length <= limit, `at most ${limit} running jobs`, `${running.length} jobs accepted`);
    if (stage.hasOtherToken) {
      const stranger = await stage.connect({ token: stage.otherToken() });
      await stranger.terminal(await stranger.start("echo", "of another principal"));
    }
    const [first] = running;
    await peer.ask("job.cancel", {}, { job_id: first ?? "" });
    await peer.terminal(first ?? "");
    await peer.start("echo", "after an end");
    // The next case begins with none of them.
    const rest = running.slice(1).map((jobId) => peer.prepare("job.cancel", {}, { job_id: jobId }));
    peer.post(...rest);
    for (const jobId of running) await peer.terminal(jobId);
  },
};

export const LIMIT_CASES: readonly ConformanceCase[] = [
  requestsInFlight,
  tooFast,
  goesOnRegardless,
  doesNotRead,
  earlyFrames,
  runningJobs,
  manySessions,
];
