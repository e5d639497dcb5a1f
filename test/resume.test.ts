/**
 * The rules of resume (SPEC.md, RES), one by one, over memory transports and a clock that stands still
 * unless it is moved. The same rules over every interleaving are resume-race.test.ts's affair, over real
 * sockets websocket.test.ts's.
 */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { CLIENT_INSTANCE, type Envelope, IN_REPLY_TO } from "../src/protocol/index.ts";
import type { AgentHandler } from "../src/runtime/index.ts";
import { type Store, StoreRefusal } from "../src/store/store.ts";
import {
  count,
  isTerminal,
  type Line,
  logsOf,
  type MemoryRuntime,
  memoryRuntime,
  type ResumeFrom,
  resumeOf,
  settled,
  submit,
  terminalOf,
  upTo,
} from "./memory-runtime.ts";
import { skippedOverPostgres } from "./test-store.ts";
import type { WireClient } from "./wire-client.ts";

const numbers = (from: number, to: number): string[] => count(from, to).map(String);

/** Emits that many logs, and ends. */
const burst: AgentHandler = async (input, job) => {
  const { n } = input as { n: number };
  for (let index = 0; index < n; index += 1) await job.log(String(index));
  return { n };
};

/** Resolves once the store knows that nobody is connected: the resume window has begun. */
async function drop({ pair, client }: Line, fixture: MemoryRuntime): Promise<void> {
  pair.cut();
  await client.whenClosed();
  await fixture.clock.advance(0);
}

/** A resume that must be refused, and how. */
async function refusal(fixture: MemoryRuntime, resume: ResumeFrom, token = "alice"): Promise<Envelope> {
  const { client } = fixture.hello({ token, resume });
  const error = await client.message("session.error");
  await client.whenClosed();
  assert(!client.received.some(({ envelope }) => envelope.type === "session.welcome"));
  return error;
}

const typesOf = (client: WireClient): string[] => client.received.map(({ envelope }) => envelope.type);

/** A store whose next answer to a resume can be held back: it is carried out, and nobody knows yet. */
function holdingStore() {
  let waiting: Promise<void> | undefined;
  const carriedOut = Promise.withResolvers<void>();
  const wrap = (store: Store): Store => ({
    ...store,
    sessions: {
      ...store.sessions,
      attach: async (request) => {
        const release = waiting;
        waiting = undefined;
        const attached = await store.sessions.attach(request);
        if (release !== undefined) carriedOut.resolve();
        await release;
        return attached;
      },
    },
  });
  const hold = (): (() => void) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    waiting = promise;
    return resolve;
  };
  return { wrap, hold, carriedOut: carriedOut.promise };
}

test("[RES-1] every event above last_event_seq arrives once and in order, the live ones right behind", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 20);
  await upTo(first.client, 20);
  await drop(first, fixture);

  const second = await fixture.connect({ resume: resumeOf(first.client, 7) });
  await puppet.log(20, 30);
  puppet.end();
  await terminalOf(second.client, jobId);
  await settled(second.client);
  assert.deepEqual(second.client.seqs(), count(8, 31));
  assert.deepEqual(logsOf(second.client), numbers(7, 29));
});

test("[RES-1] several jobs: each in its own order, together without a hole", async () => {
  await using fixture = await memoryRuntime();
  const puppets = ["one", "two", "three"].map((name) => fixture.puppet(name));
  const first = await fixture.connect();
  const jobs = [];
  for (const name of ["one", "two", "three"]) jobs.push(await submit(first.client, name));
  for (let round = 0; round < 5; round += 1) {
    await Promise.all(puppets.map((puppet) => puppet.log(round * 3, round * 3 + 3)));
  }
  await upTo(first.client, 45);
  await drop(first, fixture);
  for (const puppet of puppets) {
    await puppet.log(15, 20);
    puppet.end();
  }

  const second = await fixture.connect({ resume: resumeOf(first.client, 11) });
  for (const jobId of jobs) await terminalOf(second.client, jobId);
  await settled(second.client);
  assert.deepEqual(second.client.seqs(), count(12, 63));
  const all = [...first.client.numbered().slice(0, 11), ...second.client.numbered()];
  for (const jobId of jobs) {
    const messages = all
      .filter(({ job_id, type }) => job_id === jobId && type === "job.event")
      .map(({ payload }) => (payload["body"] as { message: string }).message);
    assert.deepEqual(messages, numbers(0, 19));
  }
});

test("[RES-1] a session without a feature resumes over events that it never sees, without a hole", async () => {
  await using fixture = await memoryRuntime();
  fixture.agent("mixed", async (_input, job) => {
    for (let index = 0; index < 1_500; index += 1) {
      await job.progress({ current: index });
      if (index % 10 === 0) await job.log(String(index / 10));
    }
  });
  const first = await fixture.connect({ features: ["heartbeat", "ack"] });
  const jobId = await submit(first.client, "mixed");
  await terminalOf(first.client, jobId);
  await drop(first, fixture);

  const second = await fixture.connect({ resume: resumeOf(first.client, 33) });
  await terminalOf(second.client, jobId);
  assert.deepEqual(second.client.seqs(), count(34, 151));
  assert.deepEqual(logsOf(second.client), numbers(33, 149));
});

test("[RES-2] a resume that is fully caught up works, with and without an event so far", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  await drop(first, fixture);
  const second = await fixture.connect({ resume: resumeOf(first.client) });
  const jobId = await submit(second.client, "puppet");
  await puppet.log(0, 5);
  await upTo(second.client, 5);
  await drop(second, fixture);

  const third = await fixture.connect({ resume: resumeOf(second.client, 5) });
  await settled(third.client);
  assert.deepEqual(third.client.seqs(), []);
  puppet.end();
  await terminalOf(third.client, jobId);
  assert.deepEqual(third.client.seqs(), [6]);
});

test("[RES-2] a resume from the very beginning, many pages behind, replays the same frames", async () => {
  await using fixture = await memoryRuntime();
  fixture.agent("burst", burst);
  const first = await fixture.connect();
  const jobId = await submit(first.client, "burst", { n: 6_000 });
  await terminalOf(first.client, jobId);
  await drop(first, fixture);

  const second = await fixture.connect({ resume: resumeOf(first.client, 0) });
  await upTo(second.client, 6_001);
  const frames = (client: WireClient) =>
    client.received.filter(({ envelope }) => envelope.event_seq !== undefined).map(({ frame }) => frame);
  assert.deepEqual(frames(second.client), frames(first.client));
});

test("[RES-3] events emitted while nobody is connected are replayed, the terminal message included", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 3);
  await upTo(first.client, 3);
  await drop(first, fixture);
  await puppet.log(3, 2_000);
  puppet.end({ done: true });
  // It ends without anybody there.
  while (fixture.runtime.runningJobs > 0) await fixture.clock.advance(0);

  const second = await fixture.connect({ resume: resumeOf(first.client) });
  const terminal = await terminalOf(second.client, jobId);
  await settled(second.client);
  assert.deepEqual(terminal.payload["result"], { done: true });
  assert.deepEqual(second.client.seqs(), count(4, 2_001));
  assert.deepEqual(logsOf(second.client), numbers(3, 1_999));
});

test("[RES-3] a resumed session may cancel the job that it submitted before the drop", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.job;
  await drop(first, fixture);

  const second = await fixture.connect({ resume: resumeOf(first.client) });
  const reply = await second.client.reply(second.client.send("job.cancel", {}, { job_id: jobId }));
  assert.equal(reply.type, "job.cancelled");
  const terminal = await terminalOf(second.client, jobId);
  assert.equal(terminal.payload["code"], "CANCELLED");
});

test("[RES-4] session.resume as the first message resumes like a hello with `resume`", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 9);
  await upTo(first.client, 9);
  await drop(first, fixture);

  const { sessionId, token } = resumeOf(first.client);
  const second = fixture.line();
  second.client.send("session.resume", {
    session_id: sessionId,
    resume_token: token,
    last_event_seq: 4,
    auth: { scheme: "bearer", token: "alice" },
  });
  const welcome = await second.client.message("session.welcome");
  assert.equal(welcome.session_id, sessionId);
  puppet.end();
  await terminalOf(second.client, jobId);
  assert.deepEqual(second.client.seqs(), count(5, 10));

  const refused = fixture.line();
  refused.client.send("session.resume", {
    session_id: sessionId,
    resume_token: "not-a-token",
    last_event_seq: 4,
    auth: { scheme: "bearer", token: "alice" },
  });
  assert.equal((await refused.client.message("session.error")).payload["code"], "RESUME_WINDOW_EXPIRED");
});

test("[RES-5] a last_event_seq above the newest, an unknown session and an unknown token are refused", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  await submit(first.client, "puppet");
  await puppet.log(0, 3);
  await upTo(first.client, 3);
  await drop(first, fixture);
  const good = resumeOf(first.client);

  for (const wrong of [{ seq: 4 }, { sessionId: "sess_unknown" }, { token: "not-a-token" }]) {
    const error = await refusal(fixture, { ...good, ...wrong });
    assert.equal(error.payload["code"], "RESUME_WINDOW_EXPIRED", JSON.stringify(wrong));
    assert.equal(error.payload["retryable"], false);
  }
  // None of them used anything up.
  await fixture.connect({ resume: good });
});

test("[RES-5] a session can be resumed until its window is over, counted from the drop", async () => {
  await using fixture = await memoryRuntime({ settings: { resumeWindowSec: 600, heartbeatIntervalSec: 100_000 } });
  const first = await fixture.connect();
  await fixture.clock.advance(3_600_000);
  await drop(first, fixture);
  await fixture.clock.advance(600_000);
  const second = await fixture.connect({ resume: resumeOf(first.client) });
  await drop(second, fixture);
  await fixture.clock.advance(600_001);
  const error = await refusal(fixture, resumeOf(second.client));
  assert.equal(error.payload["code"], "RESUME_WINDOW_EXPIRED");
});

test("[RES-5] a last_event_seq below what is kept is refused", async () => {
  const wrap = (store: Store): Store => ({
    ...store,
    sessions: {
      ...store.sessions,
      attach: (request) =>
        request.lastEventSeq < 5
          ? Promise.reject(new StoreRefusal("below_floor", "numbers up to 5 are gone"))
          : store.sessions.attach(request),
    },
  });
  await using fixture = await memoryRuntime({ wrap });
  const first = await fixture.connect();
  const error = await refusal(fixture, { ...resumeOf(first.client), seq: 4 });
  assert.equal(error.payload["code"], "RESUME_WINDOW_EXPIRED");
});

test("[RES-6] a token is good until a newer one is presented: a lost welcome costs nothing", async () => {
  await using fixture = await memoryRuntime();
  const first = await fixture.connect();
  const oldest = resumeOf(first.client);
  // Three welcomes that the client never got: it comes back with the same token each time.
  const lost: ResumeFrom[] = [];
  for (let round = 0; round < 3; round += 1) lost.push(resumeOf((await fixture.connect({ resume: oldest })).client));
  assert.equal(new Set([oldest, ...lost].map(({ token }) => token)).size, 4, "every welcome issues a new one");

  const [one, two, three] = lost as [ResumeFrom, ResumeFrom, ResumeFrom];
  const fourth = resumeOf((await fixture.connect({ resume: two })).client);
  for (const retired of [oldest, one]) {
    assert.equal((await refusal(fixture, retired)).payload["code"], "RESUME_WINDOW_EXPIRED");
  }
  // The one that was presented, and all that were issued since it was: good, again and again.
  for (const good of [two, two]) await fixture.connect({ resume: good });
  await fixture.connect({ resume: three });
  assert.equal((await refusal(fixture, two)).payload["code"], "RESUME_WINDOW_EXPIRED");
  await fixture.connect({ resume: fourth });
  assert.equal((await refusal(fixture, three)).payload["code"], "RESUME_WINDOW_EXPIRED");
});

test("[RES-6] of the tokens issued since the last one presented, the newest seven are good", async () => {
  await using fixture = await memoryRuntime();
  const presented = resumeOf((await fixture.connect()).client);
  const issued: ResumeFrom[] = [];
  for (let round = 0; round < 9; round += 1)
    issued.push(resumeOf((await fixture.connect({ resume: presented })).client));
  for (const forgotten of issued.slice(0, 2)) {
    assert.equal((await refusal(fixture, forgotten)).payload["code"], "RESUME_WINDOW_EXPIRED");
  }
  // Refusals issue nothing, so the eldest of the seven is still good; presenting it retires the presented one.
  await fixture.connect({ resume: issued[2] as ResumeFrom });
  assert.equal((await refusal(fixture, presented)).payload["code"], "RESUME_WINDOW_EXPIRED");
  await fixture.connect({ resume: issued[8] as ResumeFrom });
});

test("[RES-6] no token is in the store's files", { skip: skippedOverPostgres("it looks into the file") }, async () => {
  await using fixture = await memoryRuntime();
  const first = await fixture.connect();
  const { client } = await fixture.connect({ resume: resumeOf(first.client) });
  await fixture.stop();
  const files = Buffer.concat([
    await readFile(fixture.file),
    await readFile(`${fixture.file}-wal`).catch(() => Buffer.alloc(0)),
  ]);
  assert(files.includes(client.sessionId as string), "the session is there");
  for (const token of [first.client.resumeToken, client.resumeToken]) {
    assert(!files.includes(token as string));
  }
});

test("[RES-7] another principal with a good token is refused, and the session is undisturbed", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 3);
  await upTo(first.client, 3);

  const error = await refusal(fixture, resumeOf(first.client), "bob");
  assert.equal(error.payload["code"], "UNAUTHENTICATED");
  await puppet.log(3, 6);
  await upTo(first.client, 6);
  assert.equal(first.client.closed, undefined);

  // The token is not used up either, and belongs to the principal rather than to the bearer token.
  await drop(first, fixture);
  const again = await fixture.connect({ token: "alice-2", resume: resumeOf(first.client) });
  puppet.end();
  await terminalOf(again.client, jobId);
  assert.deepEqual(again.client.seqs(), [7]);
});

test("[RES-8] a resume takes over: the older connection is told so and closed", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 5);
  await upTo(first.client, 5);

  const second = await fixture.connect({ resume: resumeOf(first.client, 2) });
  const error = await first.client.message("session.error");
  assert.equal(error.payload["code"], "INVALID_REQUEST");
  assert.deepEqual(error.payload["details"], { reason: "superseded" });
  await first.client.whenClosed();
  await puppet.log(5, 8);
  puppet.end();
  await terminalOf(second.client, jobId);
  assert.deepEqual(first.client.seqs(), count(1, 5), "nothing goes to the older connection any more");
  assert.deepEqual(second.client.seqs(), count(3, 9));
});

test("[RES-8] from the moment the store has given the session away, nothing the older connection does has an effect", async () => {
  const { wrap, hold, carriedOut } = holdingStore();
  await using fixture = await memoryRuntime({ wrap });
  const puppet = fixture.puppet("puppet");
  fixture.agent("burst", burst);
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 4);
  await upTo(first.client, 4);

  // The takeover is decided, and the older connection has not heard of it.
  const release = hold();
  const second = fixture.hello({ resume: resumeOf(first.client, 1) });
  await carriedOut;
  first.client.send("session.ack", { last_processed_seq: 4 });
  first.client.send("job.cancel", {}, { job_id: jobId });
  first.client.send("job.submit", { agent: "burst", input: { n: 1 } });
  const error = await first.client.message("session.error");
  assert.deepEqual(error.payload["details"], { reason: "superseded" });
  await first.client.whenClosed();
  assert(!typesOf(first.client).includes("job.cancelled"));
  release();

  await second.client.message("session.welcome");
  await puppet.log(4, 6);
  puppet.end("untouched");
  const terminal = await terminalOf(second.client, jobId);
  assert.equal(terminal.payload["result"], "untouched");
  assert.deepEqual(second.client.seqs(), count(2, 7));
  const listed = await second.client.reply(second.client.send("session.list_jobs", {}));
  assert.equal((listed.payload["jobs"] as unknown[]).length, 1);
});

test("[RES-8] an event that comes between a takeover and its welcome goes to the newer connection alone", async () => {
  const { wrap, hold, carriedOut } = holdingStore();
  await using fixture = await memoryRuntime({ wrap });
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 2);
  await upTo(first.client, 2);
  const release = hold();
  const second = fixture.hello({ resume: resumeOf(first.client) });
  await carriedOut;
  await puppet.log(2, 5);
  await first.client.whenClosed();
  release();
  puppet.end();
  await terminalOf(second.client, jobId);
  assert.deepEqual(first.client.seqs(), [1, 2]);
  assert.deepEqual(second.client.seqs(), count(3, 6));
});

test("[RES-8] of one client instance a lower attempt is refused and disturbs nobody", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const as = (instance: string, attempt: number) => ({ [CLIENT_INSTANCE]: { instance, attempt } });
  const first = await fixture.connect({ extensions: as("tab", 1) });
  const jobId = await submit(first.client, "puppet");
  const third = await fixture.connect({ extensions: as("tab", 3), resume: resumeOf(first.client, 0) });

  // The second attempt was delayed on its way: it comes after its own successor.
  const delayed = fixture.hello({ extensions: as("tab", 2), resume: resumeOf(first.client, 0) });
  const error = await delayed.client.message("session.error");
  assert.equal(error.payload["code"], "INVALID_REQUEST");
  assert.deepEqual(error.payload["details"], { reason: "superseded" });
  await delayed.client.whenClosed();
  await puppet.log(0, 2);
  await upTo(third.client, 2);
  assert.equal(third.client.closed, undefined);

  // Another instance starts its own count.
  const other = await fixture.connect({ extensions: as("other tab", 1), resume: resumeOf(third.client) });
  await third.client.whenClosed();
  puppet.end();
  await terminalOf(other.client, jobId);
});

test("[RES-8] of two takeovers that race the later epoch stays, in whichever order the answers come", async () => {
  const { wrap, hold } = holdingStore();
  await using fixture = await memoryRuntime({ wrap });
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  const resume = resumeOf(first.client, 0);

  const release = hold();
  const second = fixture.hello({ resume });
  const third = await fixture.connect({ resume });
  release();
  const error = await second.client.message("session.error");
  assert.deepEqual(error.payload["details"], { reason: "superseded" });
  await second.client.whenClosed();
  await puppet.log(0, 3);
  puppet.end();
  await terminalOf(third.client, jobId);
  assert.equal(third.client.closed, undefined);
  assert.deepEqual(third.client.seqs(), count(1, 4));
  assert.deepEqual(second.client.seqs(), []);
});

test("[RES-9] a number that was stored and never sent is not given again", async () => {
  await using fixture = await memoryRuntime({ manual: true });
  const puppet = fixture.puppet("puppet");
  let frames: string[] = [];
  let line = fixture.hello();
  const pump = async (done: () => boolean) => {
    while (!done()) {
      line.pair.flush();
      await fixture.clock.advance(0);
    }
  };
  await pump(() => line.client.sessionId !== undefined);
  line.client.send("job.submit", { agent: "puppet", input: null });
  await pump(() => typesOf(line.client).includes("job.accepted"));
  // Each time a different part of what was sent arrives before the wire breaks.
  for (let round = 0; round < 8; round += 1) {
    await puppet.log(round * 10, round * 10 + 10);
    await fixture.clock.advance(0);
    line.pair.cut({ deliver: { toA: round } });
    frames = [
      ...frames,
      ...line.client.received.filter(({ envelope }) => envelope.event_seq).map(({ frame }) => frame),
    ];
    const seq = frames.length;
    assert.equal(seq, new Set(frames).size);
    const previous = line;
    line = fixture.hello({ resume: resumeOf(previous.client, seq) });
    await pump(() => line.client.sessionId !== undefined);
  }
  puppet.end();
  await pump(() => line.client.numbered().some(isTerminal));
  frames = [...frames, ...line.client.received.filter(({ envelope }) => envelope.event_seq).map(({ frame }) => frame)];
  const received = frames.map((frame) => JSON.parse(frame) as Envelope);
  assert.deepEqual(
    received.map(({ event_seq }) => event_seq),
    count(1, 81),
  );
  assert.deepEqual(
    received.slice(0, 80).map(({ payload }) => (payload["body"] as { message: string }).message),
    numbers(0, 79),
  );
});

test("[RES-10] replies that nothing proves to have arrived come again, the same, before any event", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const submitId = first.client.send("job.submit", { agent: "puppet", input: null });
  const accepted = await first.client.reply(submitId);
  const rejectedId = first.client.send("job.submit", { agent: "nobody", input: null });
  await first.client.reply(rejectedId);
  const frameOf = (client: WireClient, id: string) =>
    client.received.filter(({ envelope }) => envelope.extensions?.[IN_REPLY_TO] === id).map(({ frame }) => frame);
  await puppet.log(0, 3);
  await upTo(first.client, 3);
  await drop(first, fixture);

  // By the client's word event 0 is the newest it has: that proves no reply.
  const second = await fixture.connect({ resume: resumeOf(first.client, 0) });
  await upTo(second.client, 3);
  assert.deepEqual(typesOf(second.client).slice(0, 4), ["session.welcome", "job.accepted", "job.error", "job.event"]);
  assert.deepEqual(frameOf(second.client, submitId), frameOf(first.client, submitId));
  assert.deepEqual(frameOf(second.client, rejectedId), frameOf(first.client, rejectedId));
  await drop(second, fixture);

  // An event above both: they must have arrived.
  const third = await fixture.connect({ resume: resumeOf(second.client, 1) });
  await upTo(third.client, 3);
  await settled(third.client);
  assert.deepEqual(
    typesOf(third.client).filter((type) => type !== "session.pong"),
    ["session.welcome", "job.event", "job.event"],
  );
  puppet.end();
  await terminalOf(third.client, accepted.job_id as string);
});

test("[RES-10] an ack proves a reply as a resume does, one at the reply's own number does not", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  await submit(first.client, "puppet");
  await puppet.log(0, 3);
  await upTo(first.client, 3);
  const listening = first.client.send("job.subscribe", { job_id: (await first.client.message("job.accepted")).job_id });
  await first.client.reply(listening);
  first.client.send("session.ack", { last_processed_seq: 3 });
  await settled(first.client);
  await drop(first, fixture);

  // The ack of 3 proves the accepted (stored at 0), not the subscribed (stored at 3); nor does a resume at 3.
  const second = await fixture.connect({ resume: resumeOf(first.client, 3) });
  await settled(second.client);
  assert.deepEqual(
    typesOf(second.client).filter((type) => type !== "session.pong"),
    ["session.welcome", "job.subscribed"],
  );
  await puppet.log(3, 4);
  await upTo(second.client, 4);
  second.client.send("session.ack", { last_processed_seq: 4 });
  await settled(second.client);
  await drop(second, fixture);

  // Resumed from the beginning, and yet: what was acked was received.
  const third = await fixture.connect({ resume: resumeOf(second.client, 0) });
  await upTo(third.client, 4);
  await settled(third.client);
  assert(!typesOf(third.client).some((type) => type === "job.accepted" || type === "job.subscribed"));
  puppet.end();
});

test("[RES-10] a reply that was lost with its connection comes after the resume, its request sent once", async () => {
  await using fixture = await memoryRuntime({ manual: true });
  const puppet = fixture.puppet("puppet");
  const first = fixture.hello();
  while (first.client.sessionId === undefined) {
    first.pair.flush();
    await fixture.clock.advance(0);
  }
  const submitId = first.client.send("job.submit", { agent: "puppet", input: null });
  while (first.pair.pending("toA") === 0) {
    first.pair.flushOne("toB");
    await fixture.clock.advance(0);
  }
  await puppet.log(0, 2);
  first.pair.cut();

  const second = fixture.hello({ resume: resumeOf(first.client, 0) });
  while (second.client.seqs().length < 2) {
    second.pair.flush();
    await fixture.clock.advance(0);
  }
  const [, reply] = second.client.received;
  assert.equal(reply?.envelope.type, "job.accepted");
  assert.equal(reply?.envelope.extensions?.[IN_REPLY_TO], submitId);
  // Sending it again, as a client may that never saw the answer, gives the same answer and no second job.
  second.client.send("job.submit", { agent: "puppet", input: null }, { id: submitId });
  const answers = () =>
    second.client.received.filter(({ envelope }) => envelope.extensions?.[IN_REPLY_TO] === submitId);
  while (answers().length < 2) {
    second.pair.flush();
    await fixture.clock.advance(0);
  }
  assert.equal(answers()[1]?.frame, answers()[0]?.frame);
  assert.equal(puppet.starts, 1);
  puppet.end();
});

test("[RES-11] session, token, events and replies survive a restart on the same file", async () => {
  await using fixture = await memoryRuntime();
  fixture.agent("burst", burst);
  const first = await fixture.connect();
  const submitId = first.client.send("job.submit", { agent: "burst", input: { n: 1_200 }, idempotency_key: "k" });
  const accepted = await first.client.reply(submitId);
  const jobId = accepted.job_id as string;
  await terminalOf(first.client, jobId);
  await drop(first, fixture);
  await fixture.restart();

  const second = await fixture.connect({ resume: resumeOf(first.client, 0) });
  await terminalOf(second.client, jobId);
  const numbered = (client: WireClient) =>
    client.received.filter(({ envelope }) => envelope.event_seq !== undefined).map(({ frame }) => frame);
  assert.deepEqual(numbered(second.client), numbered(first.client));
  assert.equal(second.client.received[1]?.envelope.id, accepted.id, "the unproven reply, under the same id");

  // The envelope, the key and the job are known, in this session and in another one.
  const again = second.client.send("job.submit", { agent: "burst", input: { n: 1_200 }, idempotency_key: "k" });
  assert.equal((await second.client.reply(again)).job_id, jobId);
  const other = await fixture.connect();
  const elsewhere = other.client.send("job.submit", { agent: "burst", input: { n: 1_200 }, idempotency_key: "k" });
  assert.deepEqual((await other.client.reply(elsewhere)).payload, accepted.payload);
  await terminalOf(other.client, jobId);
  assert.equal(logsOf(other.client).length, 1_200);
});

test("[RES-11] the resume window goes on over a restart", async () => {
  await using fixture = await memoryRuntime({ settings: { resumeWindowSec: 600 } });
  const first = await fixture.connect();
  await drop(first, fixture);
  await fixture.clock.advance(300_000);
  await fixture.restart();
  await fixture.clock.advance(250_000);
  const second = await fixture.connect({ resume: resumeOf(first.client) });
  await drop(second, fixture);
  await fixture.clock.advance(300_000);
  await fixture.restart();
  await fixture.clock.advance(310_000);
  assert.equal((await refusal(fixture, resumeOf(second.client))).payload["code"], "RESUME_WINDOW_EXPIRED");
});

test("[RES-11] a runtime that stops says in the stream how its jobs ended, and a later one replays it", async () => {
  await using fixture = await memoryRuntime();
  const puppet = fixture.puppet("puppet");
  const first = await fixture.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 5);
  await upTo(first.client, 5);
  await drop(first, fixture);
  await fixture.restart();

  const second = await fixture.connect({ resume: resumeOf(first.client) });
  const terminal = await terminalOf(second.client, jobId);
  assert.equal(terminal.payload["code"], "INTERNAL_ERROR");
  assert.equal(terminal.payload["retryable"], true);
  assert.equal((terminal.payload["details"] as { reason: string }).reason, "shutdown");
  assert.deepEqual(second.client.seqs(), [6]);
  assert.equal(puppet.starts, 1);
});
