/** ENV: what frames look like, both ways. */
import {
  type Envelope,
  encodeMessage,
  IN_REPLY_TO,
  isErrorCode,
  newMessageId,
  newTraceId,
} from "../../protocol/index.ts";
import { detailsOf, type Peer, type Received, type Request } from "./peer.ts";
import { type ConformanceCase, checkStream } from "./stage.ts";
import { check } from "./verdict.ts";

const NUMBERED = ["job.event", "job.result", "job.error"];
const TRACE_ID = /^[0-9a-f]{32}$/;

/** Fails unless the frame is an envelope as ENV-1 has it; the text is checked, not our reading of it. */
function checkEnvelope(received: Received, sessionId: string): void {
  const { frame } = received;
  const raw = JSON.parse(frame) as Record<string, unknown>;
  const text = (value: unknown) => typeof value === "string" && value !== "";
  check(raw["arcp"] === "1.1", 'every frame to have arcp: "1.1"', received);
  check(text(raw["id"]), "every frame to have a non-empty `id`", received);
  check(text(raw["type"]), "every frame to have a `type`", received);
  const { payload, event_seq: seq, extensions } = raw;
  const isObject = (value: unknown) => typeof value === "object" && value !== null && !Array.isArray(value);
  check(isObject(payload), "every frame to have an object as `payload`", received);
  check(extensions === undefined || isObject(extensions), "`extensions` to be an object where it is", received);
  check(raw["session_id"] === sessionId, `every frame of session ${sessionId} to carry its session_id`, received);
  check(
    seq === undefined || (NUMBERED.includes(String(raw["type"])) && Number.isSafeInteger(seq) && Number(seq) >= 1),
    "`event_seq` to be a whole number from 1 on, and only on job.event, job.result and job.error",
    received,
  );
  check(
    !String(raw["type"]).startsWith("job.") || text(raw["job_id"]),
    "every job.* frame to carry `job_id`",
    received,
  );
}

/** Fails unless it is a `session.error` with that code. */
function checkSessionError(answer: Received, code: string, what: string): void {
  const { type, payload } = answer.envelope;
  check(type === "session.error" && payload["code"] === code, `session.error ${code} for ${what}`, answer);
}

/** Fails unless the error's message names the field as a word of its own. */
function checkNames(answer: Received, field: string): void {
  const message = String(answer.envelope.payload["message"]);
  check(new RegExp(`\\b${field}\\b`).test(message), `the message to name the field that is wrong, ${field}`, answer);
}

/** An envelope as a client sends it, with parts of it replaced. */
const frameWith = (peer: Peer, changes: Record<string, unknown>): string => {
  const whole = {
    arcp: "1.1",
    id: newMessageId(),
    type: "session.list_jobs",
    session_id: peer.sessionId,
    payload: {},
    ...changes,
  };
  return JSON.stringify(whole);
};

const unknownFields: ConformanceCase = {
  rule: "ENV-1",
  title: "unknown top-level fields are ignored",
  async run(stage) {
    const peer = await stage.connect();
    const answer = await peer.ask(
      "job.submit",
      { agent: "echo", input: 1 },
      { "x-unknown": { a: [1] }, priority: 7, signature: null },
    );
    check(answer.envelope.type === "job.accepted", "a submit with unknown top-level fields to be accepted", answer);
  },
};

const wholeFrames: ConformanceCase = {
  rule: "ENV-1",
  title: "every frame that the runtime sends is one envelope",
  async run(stage) {
    const peer = await stage.connect();
    await peer.terminal(await peer.start("burst", { n: 3, bytes: 10 }));
    await peer.terminal(await peer.start("echo", { text: "žluťoučký 🐎" }));
    await peer.submit("conformance-no-such-agent", null);
    if (peer.features.includes("list_jobs")) await peer.ask("session.list_jobs", {});
    await peer.askText("[]");
    check(peer.malformed.length === 0, "every frame to be one JSON object", peer.malformed[0]);
    for (const received of peer.received) checkEnvelope(received, peer.sessionId);
    const ids = peer.received.map(({ envelope }) => envelope.id);
    const twice = ids.find((id, index) => ids.indexOf(id) !== index);
    check(twice === undefined, "every message to have an id of its own", `two messages with the id ${twice}`);
  },
};

const notAnEnvelope: ConformanceCase = {
  rule: "ENV-2",
  title: "what is no envelope is answered INVALID_REQUEST, and the session lives on",
  async run(stage) {
    const peer = await stage.connect();
    const frames = [
      " ",
      "{",
      "hello",
      "[]",
      "null",
      "42",
      '"text"',
      "{}",
      frameWith(peer, { arcp: "1.0" }),
      frameWith(peer, { arcp: undefined }),
      frameWith(peer, { id: undefined }),
      frameWith(peer, { id: "" }),
      frameWith(peer, { id: 5 }),
      frameWith(peer, { type: undefined }),
      frameWith(peer, { payload: undefined }),
      frameWith(peer, { payload: [] }),
      frameWith(peer, { payload: null }),
      frameWith(peer, { event_seq: 0 }),
      frameWith(peer, { extensions: "x" }),
    ];
    for (const frame of frames) {
      const shown = frame === " " ? "an empty frame" : frame;
      checkSessionError(await peer.askText(frame, "", shown), "INVALID_REQUEST", shown);
    }
    await peer.checkAlive(`${frames.length} frames that are no envelopes`);
  },
};

const envelopeFields: ConformanceCase = {
  rule: "ENV-3",
  title: "a bad envelope is answered with the name of the field and of the request",
  async run(stage) {
    const peer = await stage.connect();
    const bad: [field: string, changes: Record<string, unknown>][] = [
      ["arcp", { arcp: "9.9" }],
      ["payload", { payload: [] }],
      ["event_seq", { event_seq: -1 }],
      ["job_id", { job_id: 5 }],
      ["extensions", { extensions: { optional: "yes" } }],
    ];
    for (const [field, changes] of bad) {
      const id = newMessageId();
      const frame = frameWith(peer, { id, ...changes });
      checkRefusal(await peer.askText(frame, id), field, id);
    }
  },
};

function checkRefusal(answer: Received, field: string, id: string): void {
  const { payload } = answer.envelope;
  check(payload["code"] === "INVALID_REQUEST", `INVALID_REQUEST for a bad ${field}`, answer);
  checkNames(answer, field);
  check(detailsOf(answer)["request_id"] === id, `details.request_id to be the request's id, ${id}`, answer);
  if (answer.envelope.type === "session.error") {
    check(payload["request_id"] === id, `payload.request_id to be the request's id, ${id}`, answer);
  }
}

const payloadFields: ConformanceCase = {
  rule: "ENV-3",
  title: "a bad payload is answered with the name of the field and of the request",
  async run(stage) {
    const peer = await stage.connect();
    const bad: [type: string, field: string, payload: object, feature?: string][] = [
      ["job.submit", "agent", { input: 1 }],
      ["job.submit", "agent", { agent: 5, input: 1 }],
      ["job.submit", "max_runtime_sec", { agent: "echo", input: 1, max_runtime_sec: -1 }],
      ["job.submit", "idempotency_key", { agent: "echo", input: 1, idempotency_key: 5 }],
      ["job.submit", "expires_at", { agent: "echo", input: 1, lease_constraints: { expires_at: "soon" } }],
      ["job.submit", "lease_request", { agent: "echo", input: 1, lease_request: [] }],
      ["job.cancel", "job_id", {}],
      ["job.subscribe", "job_id", {}, "subscribe"],
      ["job.subscribe", "from_event_seq", { job_id: "job_x", from_event_seq: -1 }, "subscribe"],
      ["session.list_jobs", "limit", { limit: 0 }, "list_jobs"],
      ["session.list_jobs", "status", { filter: { status: ["sleeping"] } }, "list_jobs"],
      ["session.ack", "last_processed_seq", { last_processed_seq: -1 }, "ack"],
      ["session.ping", "nonce", {}],
    ];
    for (const [type, field, payload, feature] of bad) {
      if (feature !== undefined && !peer.features.includes(feature)) continue;
      const id = newMessageId();
      checkRefusal(await peer.ask(type, payload, { id }), field, id);
    }
  },
};

const unknownTypes: ConformanceCase = {
  rule: "ENV-4",
  title: "unknown types, and those that only runtimes send, are INVALID_REQUEST with details.type",
  async run(stage) {
    const peer = await stage.connect();
    const types = [
      ...["session.conformance", "job.conformance", "conformance", "system.reboot"],
      ...["session.welcome", "session.error", "session.jobs", "session.closed", "job.accepted", "job.event"],
      ...["job.result", "job.error", "job.cancelled", "job.subscribed"],
    ];
    for (const type of types) {
      const id = newMessageId();
      const frame = frameWith(peer, { id, type });
      const answer = await peer.askText(frame, id, `a message of type ${type}`);
      checkSessionError(answer, "INVALID_REQUEST", `a message of type ${type}`);
      check(detailsOf(answer)["type"] === type, `details.type to be ${type}`, answer);
    }
    await peer.checkAlive("messages of unknown types");
  },
};

const vendorTypes: ConformanceCase = {
  rule: "ENV-5",
  title: "an unknown vendor type is dropped in silence when optional, and refused otherwise",
  async run(stage) {
    const peer = await stage.connect();
    const type = "x-vendor.conformance.wave";
    const quietFrom = peer.received.length;
    peer.tell(type, {}, { extensions: { optional: true } });
    await peer.fence();
    const protest = peer.received.slice(quietFrom).find(({ envelope }) => envelope.type === "session.error");
    check(protest === undefined, "no answer to a vendor message that is optional", protest);
    for (const extensions of [undefined, { optional: false }]) {
      const id = newMessageId();
      const answer = await peer.askText(frameWith(peer, { id, type, extensions }), id, "a vendor message");
      checkSessionError(answer, "INVALID_REQUEST", "a vendor message that is not optional");
    }
  },
};

const sameBytes: ConformanceCase = {
  rule: "ENV-6",
  title: "an event's id is <session_id>.<event_seq>, and every sending of it is the same to the byte",
  async run(stage) {
    const first = await stage.connect();
    await first.terminal(await first.start("burst", { n: 20, bytes: 40 }));
    await first.terminal(
      await first.start("echo", { text: "žluťoučký 🐎 \u0000 \u2028", deep: [[[{}]]], number: 1e21 }),
    );
    for (const received of first.numbered) {
      const id = `${first.sessionId}.${received.envelope.event_seq}`;
      check(received.envelope.id === id, `the event's id to be ${id}`, received);
    }
    first.cut();
    const sent = new Map(first.numbered.map(({ frame, envelope }) => [envelope.event_seq, frame]));
    for (const seq of [0, 7]) {
      const again = await stage.resume(first, { seq });
      await again.reaches(first.lastSeq);
      for (const received of again.numbered) {
        const before = sent.get(received.envelope.event_seq);
        check(before === received.frame, `the same bytes as at the first sending: ${before}`, received);
      }
      again.cut();
    }
  },
};

const namesRequest: ConformanceCase = {
  rule: "ENV-7",
  title: `every reply carries the request's id in extensions["${IN_REPLY_TO}"]`,
  async run(stage) {
    const peer = await stage.connect();
    const ask = async (type: string, payload: object, rest: Partial<Envelope> = {}) => {
      const id = newMessageId();
      const answer = await peer.ask(type, payload, { ...rest, id });
      check(
        answer.envelope.extensions?.[IN_REPLY_TO] === id,
        `extensions["${IN_REPLY_TO}"] to be ${id}, the id of the ${type}`,
        answer,
      );
      return answer;
    };
    const { envelope } = await ask("job.submit", { agent: "ticker", input: { n: 200, every_ms: 20 } });
    await ask("job.submit", { agent: "conformance-no-such-agent", input: 1 });
    if (peer.features.includes("subscribe")) {
      await ask("job.subscribe", { job_id: envelope.job_id });
      await ask("job.subscribe", { job_id: "job_conformance" });
    }
    if (peer.features.includes("list_jobs")) await ask("session.list_jobs", {});
    await ask("job.cancel", {}, { job_id: envelope.job_id ?? "" });
    await ask("job.cancel", {}, { job_id: "job_conformance" });
    await ask("session.conformance", {});
  },
};

const echoesTrace: ConformanceCase = {
  rule: "ENV-7",
  title: "a submit's trace_id is echoed on its answer; without one the runtime makes one",
  async run(stage) {
    const peer = await stage.connect();
    for (const agent of ["echo", "conformance-no-such-agent"]) {
      const traceId = newTraceId();
      const answer = await peer.submit(agent, 1, {}, { trace_id: traceId });
      check(answer.envelope.trace_id === traceId, `trace_id ${traceId} on the answer to a submit with it`, answer);
    }
    const made = [
      await peer.submit("echo", 1, {}, { trace_id: undefined }),
      await peer.submit("echo", 1, {}, { trace_id: undefined }),
    ];
    for (const answer of made) {
      check(TRACE_ID.test(answer.envelope.trace_id ?? ""), "a trace_id of 32 hex digits that the runtime made", answer);
    }
    check(made[0]?.envelope.trace_id !== made[1]?.envelope.trace_id, "another trace_id for each submit", made[1]);
  },
};

const onceOnly: ConformanceCase = {
  rule: "ENV-8",
  title: "a request that comes again under its id is not carried out again, and gets the stored reply",
  async run(stage) {
    const peer = await stage.connect();
    const id = newMessageId();
    const submit = (to: Peer) => to.submit("echo", 1, {}, { id, trace_id: "0123456789abcdef0123456789abcdef" });
    const first = await submit(peer);
    await peer.terminal(first.envelope.job_id ?? "");
    const again = await submit(peer);
    check(again.frame === first.frame, `the stored reply to a repeat, ${first.frame}`, again);
    peer.cut();
    const back = await stage.resume(peer);
    const later = await submit(back);
    check(later.frame === first.frame, `the stored reply to a repeat after a resume, ${first.frame}`, later);
    // Had one of the repeats been carried out, its result would come before that of a later job.
    const second = await back.start("echo", 2);
    await back.terminal(second);
    checkStream(peer, back);
    const ends = [peer, back].reduce((sum, one) => sum + one.terminals(first.envelope.job_id ?? "").length, 0);
    check(ends === 1, "the job to run once", `${ends} terminal messages`);
    const ofAThird = back.numbered.find(({ envelope }) => ![first.envelope.job_id, second].includes(envelope.job_id));
    check(ofAThird === undefined, "no other job than the two", ofAThird);
  },
};

const exemptIds: ConformanceCase = {
  rule: "ENV-8",
  title: "an invalid envelope does not use up its id, and pings are exempt",
  async run(stage) {
    const peer = await stage.connect();
    const id = newMessageId();
    await peer.askText(frameWith(peer, { id, payload: [] }), id);
    const bad = await peer.ask("job.submit", { agent: "echo", input: 1, max_runtime_sec: -1 }, { id });
    check(bad.envelope.payload["code"] === "INVALID_REQUEST", "INVALID_REQUEST for a bad max_runtime_sec", bad);
    const good = await peer.submit("echo", 1, {}, { id });
    check(good.envelope.type === "job.accepted", "job.accepted for a good submit under an id of invalid ones", good);
    const answered = () => peer.received.filter(({ envelope }) => envelope.type === "session.pong").length;
    for (let round = 1; round <= 2; round += 1) {
      peer.tell("session.ping", { nonce: "again" }, { id });
      await peer.until(() => answered() === round, `session.pong to ping ${round} under the same id`);
    }
  },
};

const errorWords: ConformanceCase = {
  rule: "ENV-9",
  title: "an error has one of the fifteen codes, says whether to retry, and shows neither path nor stack",
  async run(stage) {
    const peer = await stage.connect();
    const jobId = await peer.start("burst", { n: "many" });
    const errors = [
      await peer.terminal(jobId),
      await peer.submit("conformance-no-such-agent", 1),
      await peer.submit("echo", 1, { lease_request: { "no such": [] } }),
      await peer.ask("job.cancel", {}, { job_id: "job_conformance" }),
      await peer.askText("{"),
    ];
    for (const received of errors) {
      const { code, message, retryable } = received.envelope.payload;
      check(isErrorCode(code), "a `code` of the draft's fifteen", received);
      check(typeof retryable === "boolean", "`retryable` to be true or false", received);
      check(typeof message === "string" && message !== "", "a `message`", received);
      check(
        !/\n\s+at |(^|[\s("'])\/(?:\w+\/){2,}|node_modules/.test(message),
        "no stack and no path in the message",
        received,
      );
    }
  },
};

const traceIds: ConformanceCase = {
  rule: "ENV-10",
  title: "a trace_id is 32 lowercase hex digits, or a whole traceparent that holds one",
  async run(stage) {
    const peer = await stage.connect();
    const traceId = newTraceId();
    const answer = await peer.submit("echo", 1, {}, { trace_id: `00-${traceId}-00f067aa0ba902b7-01` });
    check(answer.envelope.type === "job.accepted", "job.accepted for a submit whose trace_id is a traceparent", answer);
    check(answer.envelope.trace_id === traceId, `trace_id ${traceId}, out of the traceparent`, answer);
    const bad = newMessageId();
    const frame = frameWith(peer, {
      id: bad,
      type: "job.submit",
      trace_id: "xyz",
      payload: { agent: "echo", input: 1 },
    });
    const refusal = await peer.askText(frame, bad);
    check(refusal.envelope.payload["code"] === "INVALID_REQUEST", "INVALID_REQUEST for the trace_id xyz", refusal);
    checkNames(refusal, "trace_id");
  },
};

const foreignSession: ConformanceCase = {
  rule: "ENV-11",
  title: "a session_id other than the session's own is INVALID_REQUEST, and nothing is done",
  async run(stage) {
    const peer = await stage.connect();
    const id = newMessageId();
    const frame = encodeMessage({
      id,
      type: "job.submit",
      session_id: `${peer.sessionId}x`,
      payload: { agent: "echo", input: 1 },
    });
    const answer = await peer.askText(frame, id, "a submit that names another session");
    checkSessionError(answer, "INVALID_REQUEST", "a submit that names another session");
    checkNames(answer, "session_id");
    const jobId = await peer.start("echo", 2);
    await peer.terminal(jobId);
    const other = peer.numbered.find(({ envelope }) => envelope.job_id !== jobId);
    check(other === undefined, "the submit that named another session not to be carried out", other);
  },
};

/** More levels than an input may have (ENV-12). */
const TOO_DEEP = 300;

const goodText: ConformanceCase = {
  rule: "ENV-12",
  title: "a name that is no Unicode, and an input of more than 256 levels, are INVALID_REQUEST",
  async run(stage) {
    const peer = await stage.connect();
    const input = JSON.parse(`${"[".repeat(TOO_DEEP)}${"]".repeat(TOO_DEEP)}`) as unknown;
    const submits: [what: string, payload: object][] = [
      ["an agent's name with half a surrogate pair", { agent: "echo\ud800", input: 1 }],
      ["an idempotency key with half a surrogate pair", { agent: "echo", input: 1, idempotency_key: "k\udc00" }],
      [`an input of ${TOO_DEEP} levels`, { agent: "echo", input }],
    ];
    for (const [what, payload] of submits) {
      const answer = await peer.ask("job.submit", payload);
      check(answer.envelope.payload["code"] === "INVALID_REQUEST", `INVALID_REQUEST for ${what}`, answer);
    }
    await peer.checkAlive("names that are no Unicode");
  },
};

/** Long, and well below what a frame may have. */
const LONG = "x".repeat(200_000);
/** Some times what an error needs to name the field, the value's beginning and the remedy. */
const MOST_ERROR_CHARS = 4_096;

const shortErrors: ConformanceCase = {
  rule: "ENV-13",
  title: "what is wrong with a large frame is said in a small answer",
  async run(stage) {
    const peer = await stage.connect();
    const frames: [what: string, id: string, frame: string][] = [
      ["text that is no JSON", "", LONG],
      ["an id", "", frameWith(peer, { id: LONG })],
      ["a type", "long-1", frameWith(peer, { id: "long-1", type: LONG })],
      ["a session_id", "long-2", frameWith(peer, { id: "long-2", session_id: LONG })],
      ["an extension's name", "long-3", frameWith(peer, { id: "long-3", extensions: { [LONG]: 1 } })],
    ];
    const checkShort = (answer: Received, what: string) => {
      check(String(answer.envelope.payload["code"]) !== "undefined", `an error for ${what} of 200,000 letters`, answer);
      check(
        answer.frame.length <= MOST_ERROR_CHARS,
        `an answer of at most ${MOST_ERROR_CHARS} characters to ${what} of 200,000 letters`,
        `${answer.frame.length} characters: ${answer.frame.slice(0, 100)}`,
      );
    };
    for (const [what, id, frame] of frames) checkShort(await peer.askText(frame, id, what), what);
    const submits: [what: string, payload: object][] = [
      ["an agent's name", { agent: LONG, input: 1 }],
      ["an idempotency key", { agent: "echo", input: 1, idempotency_key: LONG }],
      ["a capability", { agent: "echo", input: 1, lease_request: { [LONG]: [] } }],
    ];
    for (const [what, payload] of submits) checkShort(await peer.ask("job.submit", payload), what);
    await peer.checkAlive("large frames");
  },
};

/** What no field takes for granted. */
const ODD_VALUES: readonly unknown[] = [
  ...[null, true, -1, 1e308, 0.5, "", "\u0000", "__proto__", "9".repeat(400)],
  ...[[], {}, [[[[]]]], { __proto__: null, constructor: { prototype: 1 } }, [null, 1, "a"]],
];
/** Values that are no text and no whole number. */
const NEITHER_TEXT_NOR_NUMBER = ODD_VALUES.filter((value) => typeof value === "object" || typeof value === "boolean");

const onceEach: ConformanceCase = {
  rule: "ENV-14",
  title: "of many odd frames each is answered once and in kind, and another session hears nothing of it",
  async run(stage) {
    const [peer, other] = [await stage.connect(), await stage.connect({ features: ["list_jobs"] })];
    const requests: Request[] = [];
    const add = (type: string, payload: Record<string, unknown>, fields: readonly string[], values = ODD_VALUES) => {
      for (const field of fields) {
        for (const value of values) requests.push(peer.prepare(type, { ...payload, [field]: value }));
      }
    };
    add("job.submit", { agent: "echo", input: 1 }, ["agent", "idempotency_key", "max_runtime_sec", "lease_request"]);
    add("job.cancel", { job_id: "job_conformance" }, ["job_id", "reason"]);
    if (peer.features.includes("subscribe")) {
      add("job.subscribe", { job_id: "job_conformance" }, ["job_id", "history", "from_event_seq"]);
    }
    if (peer.features.includes("list_jobs")) add("session.list_jobs", {}, ["filter", "limit", "cursor"]);
    if (peer.features.includes("ack")) add("session.ack", {}, ["last_processed_seq"], NEITHER_TEXT_NOR_NUMBER);
    add("session.ping", {}, ["nonce"], NEITHER_TEXT_NOR_NUMBER);
    for (const type of ["job.submit", "session.list_jobs", "session.ping"]) {
      for (const value of ODD_VALUES.filter((one) => typeof one !== "object" || one === null || Array.isArray(one))) {
        const id = newMessageId();
        const frame = frameWith(peer, { id, type, payload: value });
        requests.push({ id, type: "", frame, traceId: undefined, answer: undefined });
      }
    }
    const whole = frameWith(peer, { type: "job.submit", payload: { agent: "echo", input: 1 } });
    for (let length = 1; length < whole.length; length += 7) {
      requests.push({ id: "", type: "", frame: whole.slice(0, length), traceId: undefined, answer: undefined });
    }
    const from = peer.received.length;
    peer.post(...requests);
    for (const request of requests) await peer.answerTo(request);
    await peer.checkAlive(`${requests.length} odd frames`);
    const unasked = ["session.ping", "session.pong"];
    const answers = peer.received
      .slice(from)
      .filter((one) => !peer.numbered.includes(one) && !unasked.includes(one.envelope.type));
    const given = new Set([...requests.map(({ answer }) => answer), answers.at(-1)]);
    const surplus = answers.find((one) => !given.has(one));
    check(surplus === undefined, "one answer to each frame", surplus);
    other.tell("session.ping", { nonce: "still here" });
    await other.message("session.pong");
    const heard = other.received.find(({ envelope }) => !["session.welcome", "session.pong"].includes(envelope.type));
    check(heard === undefined, "another session to hear nothing of it", heard);
  },
};

export const ENVELOPE_CASES: readonly ConformanceCase[] = [
  unknownFields,
  wholeFrames,
  notAnEnvelope,
  envelopeFields,
  payloadFields,
  unknownTypes,
  vendorTypes,
  sameBytes,
  namesRequest,
  echoesTrace,
  onceOnly,
  exemptIds,
  errorWords,
  traceIds,
  foreignSession,
  goodText,
  shortErrors,
  onceEach,
];
