/** SES: handshake, features, liveness, acks, goodbye. */
import { isNotice, logged, type Peer, type Received, record } from "./peer.ts";
import { type ConformanceCase, checkStream, type Stage } from "./stage.ts";
import { check } from "./verdict.ts";

/** As long as a runtime may wait for a hello. */
const HELLO_TIMEOUT_MS = 10_000;
/** An interval above this makes the heartbeat cases too long. */
const BEARABLE_HEARTBEAT_SEC = 2;

const checkInvalid = (answer: Received, what: string): void => {
  const { type, payload } = answer.envelope;
  check(
    (type === "session.error" || type === "job.error") && payload["code"] === "INVALID_REQUEST",
    `INVALID_REQUEST for ${what}`,
    answer,
  );
};

const welcome: ConformanceCase = {
  rule: "SES-1",
  title: "a hello is answered by a welcome that says all a client needs; what comes before it is dropped",
  async run(stage) {
    const peer = await stage.open();
    peer.tell("session.ping", { nonce: "early" });
    peer.tell("job.submit", { agent: "echo", input: "early" });
    peer.tell("session.list_jobs", {});
    const answer = await peer.hello({ token: stage.token });
    check(answer.index === 0, "what comes before the hello to be dropped", peer.received[0]);
    const { type, session_id: sessionId, payload } = answer.envelope;
    check(type === "session.welcome", "session.welcome in answer to session.hello", answer);
    check(typeof sessionId === "string" && sessionId !== "", "`session_id` at the top level of the welcome", answer);
    const runtime = record(payload["runtime"]);
    check(
      typeof runtime["name"] === "string" && typeof runtime["version"] === "string",
      "`runtime` with name and version",
      answer,
    );
    check(typeof payload["resume_token"] === "string" && payload["resume_token"] !== "", "`resume_token`", answer);
    check(Number(payload["resume_window_sec"]) > 0, "`resume_window_sec` above 0", answer);
    const { encodings, features, agents } = record(payload["capabilities"]);
    check(
      Array.isArray(encodings) && Array.isArray(features) && Array.isArray(agents),
      "`capabilities` with encodings, features and agents",
      answer,
    );
    if (features.includes("heartbeat"))
      check(Number(payload["heartbeat_interval_sec"]) > 0, "`heartbeat_interval_sec`, as heartbeat is agreed", answer);
    await peer.fence();
    const late = peer.received.find(({ envelope }) => ["session.pong", "job.accepted"].includes(envelope.type));
    check(late === undefined, "what comes before the hello never to be carried out", late);
  },
};

const helloTimeout: ConformanceCase = {
  rule: "SES-2",
  title: "a connection without a valid hello is closed within 10 s",
  long: true,
  async run(stage) {
    const peer = await stage.open();
    peer.tell("session.hello", { client: "nobody" });
    await peer.whenClosed("when no valid session.hello comes", HELLO_TIMEOUT_MS + stage.timeoutMs);
    check(peer.sessionId === "", "no welcome for an invalid hello", peer.received[0]);
  },
};

const secondHello: ConformanceCase = {
  rule: "SES-2",
  title: "a second hello is INVALID_REQUEST, and the session lives on",
  async run(stage) {
    const peer = await stage.connect();
    for (const form of ["session.hello", "session.resume"] as const) {
      const answer = await peer.hello({ token: stage.token, form, resume: peer.from() });
      checkInvalid(answer, `a second hello (${form})`);
    }
    await peer.checkAlive("a second hello");
  },
};

const wrongToken: ConformanceCase = {
  rule: "SES-3",
  title: "a wrong token is UNAUTHENTICATED, and the connection is closed",
  async run(stage) {
    for (const token of ["conformance-no-such-token", `${stage.token}x`, "__proto__"]) {
      const { peer, answer } = await stage.greet({ token });
      const { type, payload } = answer.envelope;
      check(
        type === "session.error" && payload["code"] === "UNAUTHENTICATED",
        "session.error UNAUTHENTICATED for a wrong token",
        answer,
      );
      await peer.whenClosed("after a wrong token");
    }
  },
};

const missingToken: ConformanceCase = {
  rule: "SES-3",
  title: "a hello without a token opens nothing",
  async run(stage) {
    const peer = await stage.open();
    const answer = await peer.ask("session.hello", { client: { name: "holdfast-conformance", version: "1" } });
    check(answer.envelope.type === "session.error", "session.error for a hello without a token", answer);
  },
};

const features: ConformanceCase = {
  rule: "SES-4",
  title: "a session has the features that both sides offer, and a resume cannot change them",
  async run(stage) {
    const offered = ["ack", "subscribe", "conformance.nonsense"];
    const peer = await stage.connect({ features: offered });
    const agreed = stage.facts.features.filter((feature) => offered.includes(feature)).toSorted();
    const same = (one: Peer) => JSON.stringify([...one.features].toSorted()) === JSON.stringify(agreed);
    check(same(peer), `the features that both offer: ${agreed.join(", ")}`, peer.received[0]);
    peer.cut();
    const back = await stage.resume(peer);
    check(same(back), `the features of the session's first welcome: ${agreed.join(", ")}`, back.received[0]);
    const plain = await stage.connect({ features: null });
    check(plain.features.length === 0, "no features for a hello without a list", plain.received[0]);
  },
};

const missingFeature: ConformanceCase = {
  rule: "SES-4",
  title: "a message that needs a feature which was not agreed is INVALID_REQUEST",
  async run(stage) {
    const peer = await stage.connect({ features: [] });
    checkInvalid(await peer.ask("session.list_jobs", {}), "session.list_jobs without the feature list_jobs");
    checkInvalid(await peer.ask("job.subscribe", { job_id: "job_x" }), "job.subscribe without the feature subscribe");
    checkInvalid(await peer.ask("session.ack", { last_processed_seq: 0 }), "session.ack without the feature ack");
  },
};

const noHoles: ConformanceCase = {
  rule: "SES-5",
  title: "a session without any feature has numbers without a hole",
  async run(stage) {
    const peer = await stage.connect({ features: null });
    const jobId = await peer.start("burst", { n: 50, bytes: 20 });
    await peer.terminal(jobId);
    checkStream(peer);
    check(peer.of(jobId).length === 51, "50 events and a result", `${peer.of(jobId).length} messages`);
  },
};

const hiddenKinds: ConformanceCase = {
  rule: "SES-5",
  title: "event kinds outside the features are left out before numbering",
  agents: ["survey"],
  async run(stage) {
    stage.needsFeatures("progress", "subscribe");
    const owner = await stage.connect();
    // A survey streams its result: without its chunks that would be another one.
    const narrow = await stage.connect({ features: ["subscribe", "result_chunk"] });
    const jobId = await owner.start("survey", {});
    await narrow.ask("job.subscribe", { job_id: jobId, history: true });
    // A survey may take long: some of its progress is enough.
    const kind = ({ envelope }: Received) => envelope.payload["kind"];
    await owner.until(
      () => owner.terminals(jobId).length > 0 || owner.of(jobId).some((one) => kind(one) === "progress"),
      "progress events of a survey",
    );
    if (owner.terminals(jobId).length === 0) await owner.ask("job.cancel", {}, { job_id: jobId });
    await Promise.all([owner.terminal(jobId), narrow.terminal(jobId)]);
    const content = (list: readonly Received[]) => list.map(({ envelope }) => JSON.stringify(envelope.payload));
    check(
      owner.of(jobId).some((one) => kind(one) === "progress"),
      "progress events of a survey",
      owner.of(jobId)[0],
    );
    const seen = narrow.of(jobId).find((one) => kind(one) === "progress");
    check(seen === undefined, "no progress event in a session without the feature", seen);
    checkStream(narrow);
    const others = content(owner.of(jobId).filter((one) => kind(one) !== "progress"));
    const difference = content(narrow.of(jobId)).findIndex((payload, index) => payload !== others[index]);
    check(
      difference === -1 && narrow.of(jobId).length === others.length,
      `the same ${others.length} events without progress as in the other session`,
      `${narrow.of(jobId).length}, different from number ${difference + 1} on`,
    );
  },
};

const pings: ConformanceCase = {
  rule: "SES-6",
  title: "every ping is answered by a pong of the same nonce, with the feature and without",
  async run(stage) {
    for (const agreed of [undefined, null]) {
      const peer = await stage.connect(agreed === undefined ? {} : { features: agreed });
      for (const nonce of ["one", "two", ""]) {
        const from = peer.received.length;
        peer.tell("session.ping", { nonce, sent_at: new Date(stage.clock.wall()).toISOString() });
        const pong = await peer.message("session.pong", from);
        check(pong.envelope.payload["ping_nonce"] === nonce, `ping_nonce ${JSON.stringify(nonce)}`, pong);
      }
    }
  },
};

function heartbeatMs(stage: Stage): number {
  const { heartbeatSec, features: offered } = stage.facts;
  if (!offered.includes("heartbeat") || heartbeatSec === undefined) stage.skip("the runtime offers no heartbeat");
  if (heartbeatSec > BEARABLE_HEARTBEAT_SEC) {
    stage.skip(`the heartbeat interval is ${heartbeatSec} s; it takes one of ${BEARABLE_HEARTBEAT_SEC} s or less`);
  }
  return heartbeatSec * 1_000;
}

const heartbeatLost: ConformanceCase = {
  rule: "SES-7",
  title: "an idle interval brings a ping, more than two HEARTBEAT_LOST; session and jobs stay",
  long: true,
  async run(stage) {
    const intervalMs = heartbeatMs(stage);
    const peer = await stage.connect({ silent: true });
    const jobId = await peer.start("ticker", { n: 13, every_ms: intervalMs / 4 });
    const since = stage.clock.monotonic();
    await peer.message("session.ping", 0, intervalMs * 2 + stage.timeoutMs);
    const idleMs = stage.clock.monotonic() - since;
    // What was sent to get here counts as life too, and may have arrived a little earlier.
    check(idleMs > intervalMs * 0.5, `no ping before ${intervalMs} ms without a message`, `one after ${idleMs} ms`);
    const lost = await peer.until(
      () => peer.received.find(({ envelope }) => envelope.type === "session.error"),
      `session.error HEARTBEAT_LOST after more than ${intervalMs * 2} ms without a message`,
      intervalMs * 2 + stage.timeoutMs,
    );
    const lostMs = stage.clock.monotonic() - since;
    check(lost.envelope.payload["code"] === "HEARTBEAT_LOST", "session.error HEARTBEAT_LOST", lost);
    check(lostMs > intervalMs * 1.5, `it after ${intervalMs * 2} ms, not before`, `HEARTBEAT_LOST after ${lostMs} ms`);
    await peer.whenClosed("after HEARTBEAT_LOST");
    const back = await stage.resume(peer);
    const end = await back.terminal(jobId);
    check(end.envelope.type === "job.result", "the job to go on without a connection", end);
    checkStream(peer, back);
  },
};

const anythingIsLife: ConformanceCase = {
  rule: "SES-7",
  title: "any inbound frame counts as life, even an invalid one",
  long: true,
  async run(stage) {
    const intervalMs = heartbeatMs(stage);
    const peer = await stage.connect({ silent: true });
    for (let round = 0; round < 8 && peer.open; round += 1) {
      peer.sendText("no envelope");
      await stage.pause(intervalMs / 2);
    }
    const lost = peer.received.find(({ envelope }) => envelope.payload["code"] === "HEARTBEAT_LOST");
    check(
      lost === undefined && peer.open,
      "a connection on which frames arrive to stay, even invalid ones",
      lost ?? peer.closed,
    );
  },
};

const acks: ConformanceCase = {
  rule: "SES-8",
  title: "an ack has no answer; a lower one and one above the newest are ignored",
  async run(stage) {
    stage.needsFeatures("ack");
    const peer = await stage.connect();
    await peer.terminal(await peer.start("burst", { n: 10, bytes: 10 }));
    const from = peer.received.length;
    for (const seq of [5, 11, 3, 1_000_000, 0]) peer.tell("session.ack", { last_processed_seq: seq });
    await peer.fence();
    const protest = peer.received.slice(from).find(({ envelope }) => envelope.type === "session.error");
    check(protest === undefined, "no answer to an ack, whatever its number", protest);
    peer.cut();
    const back = await stage.resume(peer);
    await back.terminal(await back.start("echo", 1));
    checkStream(peer, back);
    check(back.resumedFrom === 11, "11 numbers so far", `a newest number of ${back.resumedFrom}`);
  },
};

/** Ends a session in one of its ways while a job runs, and comes back. */
function goodbye(type: "session.close" | "session.bye"): ConformanceCase {
  const answered = type === "session.close";
  return {
    rule: "SES-9",
    title: `${type} is answered by ${answered ? "session.closed" : "closing"}; the job goes on, the session can be resumed`,
    async run(stage) {
      const peer = await stage.connect();
      const jobId = await peer.start("ticker", { n: 12, every_ms: 40 });
      await peer.reaches(3);
      if (answered) {
        const answer = await peer.ask(type, { reason: "done" });
        check(answer.envelope.type === "session.closed", "session.closed in answer to session.close", answer);
      } else {
        peer.tell(type, { reason: "done" });
      }
      await peer.whenClosed(`after ${type}`);
      const back = await stage.resume(peer);
      const end = await back.terminal(jobId);
      check(end.envelope.type === "job.result", `the job to go on after ${type}`, end);
      checkStream(peer, back);
    },
  };
}

/** As long as the suite waits for a token to expire that it was told expires soon. */
const EXPIRY_WAIT_MS = 60_000;

const tokenExpires: ConformanceCase = {
  rule: "SES-11",
  title: "a token that expires during a connection ends it with UNAUTHENTICATED",
  long: true,
  lacks: ({ expiringToken }) =>
    expiringToken === undefined ? "it takes a token that expires meanwhile (--expiring-token)" : undefined,
  async run(stage) {
    const { expiringToken: token = "" } = stage.means;
    const peer = await stage.connect({ token });
    const end = await peer.until(
      () => peer.received.find(({ envelope }) => envelope.type === "session.error"),
      "session.error UNAUTHENTICATED when the token expires",
      EXPIRY_WAIT_MS,
    );
    check(end.envelope.payload["code"] === "UNAUTHENTICATED", "session.error UNAUTHENTICATED", end);
    await peer.whenClosed("when its token has expired");
    const { answer } = await stage.greet({ token });
    check(answer.envelope.payload["code"] === "UNAUTHENTICATED", "UNAUTHENTICATED for an expired token", answer);
  },
};

/** Together more than a network holds for a reader that does not read. */
const UNREAD_MESSAGES = 3_000;
const UNREAD_BYTES = 4_096;

const nobodyWaits: ConformanceCase = {
  rule: "SES-12",
  title: "a session that does not read keeps neither its job nor another session waiting, and loses nothing",
  async run(stage) {
    stage.needsFeatures("subscribe");
    const n = Math.min(UNREAD_MESSAGES, stage.behind);
    const reader = await stage.connect({ features: [] });
    const follower = await stage.connect();
    const jobId = await reader.start("burst", { n, bytes: UNREAD_BYTES, delay_ms: 100 });
    reader.stopReading();
    const answer = await follower.ask("job.subscribe", { job_id: jobId, history: true });
    check(answer.envelope.type === "job.subscribed", "job.subscribed for a job of the same principal", answer);
    for (let seq = 500; seq < n; seq += 500) await follower.reaches(seq);
    const end = await follower.terminal(jobId);
    check(end.envelope.type === "job.result", "the job to end while its owner does not read", end);
    reader.readAgain();
    for (let seq = 500; seq < n; seq += 500) await reader.reaches(seq);
    await reader.terminal(jobId);
    checkStream(reader);
    const events = reader.of(jobId).filter(({ envelope }) => envelope.type === "job.event");
    const wrong = events.findIndex((event, index) => Number.parseInt(String(logged(event)), 10) !== index);
    check(wrong === -1 && events.length === n, `all ${n} events for who reads again`, events[wrong] ?? events.length);
  },
};

/** A burst of the first number is above the threshold of SPEC.md, one of the second above that of anybody. */
const FAR_BEHIND = [1_500, 12_000];

const backPressure: ConformanceCase = {
  rule: "SES-19",
  title: "who does not ack is told once that it is behind, and again after it had caught up; nobody else is",
  async run(stage) {
    stage.needsFeatures("ack", "subscribe");
    const [peer, other] = [await stage.connect(), await stage.connect({ features: ["subscribe"] })];
    const notices = (one: Peer) =>
      one.numbered.filter((received) => isNotice(received) && phaseOf(received) === "back_pressure");
    const burst = async (n: number) => {
      const jobId = await peer.start("burst", { n, bytes: 10, delay_ms: 100 });
      await other.ask("job.subscribe", { job_id: jobId, history: true });
      await Promise.all([peer.terminal(jobId), other.terminal(jobId)]);
      return jobId;
    };
    let n = 0;
    for (const many of FAR_BEHIND) {
      if (notices(peer).length > 0) break;
      n = many;
      const jobId = await burst(n);
      const [notice] = notices(peer);
      check(notice === undefined || notice.envelope.job_id === jobId, "the notice under the newest live job", notice);
    }
    check(notices(peer).length === 1, `one status event back_pressure for ${n} events that are not acked`, {
      notices: notices(peer).length,
    });
    // Caught up: the next time that it is behind is another one.
    peer.tell("session.ack", { last_processed_seq: peer.lastSeq });
    await peer.fence();
    await burst(n);
    check(notices(peer).length === 2, "one more back_pressure after the lag was gone and came again", {
      notices: notices(peer).length,
    });
    checkStream(peer);
    checkStream(other);
    check(notices(other).length === 0, "no back_pressure in another session", notices(other)[0]);
  },
};

const phaseOf = ({ envelope }: Received): unknown => record(envelope.payload["body"])["phase"];

const pingInBurst: ConformanceCase = {
  rule: "SES-13",
  title: "a job that emits without pause does not keep another session's ping waiting",
  async run(stage) {
    const [busy, other] = [await stage.connect(), await stage.connect()];
    const n = stage.behind * 10;
    const jobId = await busy.start("burst", { n, bytes: 50 });
    await busy.reaches(50);
    other.tell("session.ping", { nonce: "in the middle" });
    const pong = await other.message("session.pong");
    check(busy.terminals(jobId).length === 0, `the pong before a burst of ${n} is over`, pong);
    await busy.ask("job.cancel", {}, { job_id: jobId });
    await busy.terminal(jobId);
  },
};

export const SESSION_CASES: readonly ConformanceCase[] = [
  welcome,
  helloTimeout,
  secondHello,
  wrongToken,
  missingToken,
  features,
  missingFeature,
  noHoles,
  hiddenKinds,
  pings,
  heartbeatLost,
  anythingIsLife,
  acks,
  goodbye("session.close"),
  goodbye("session.bye"),
  pingInBurst,
  tokenExpires,
  nobodyWaits,
  backPressure,
];
