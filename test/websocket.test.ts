/**
 * What other implementations get wrong (the table in the design's page on the wire), each line against a
 * real server over real sockets. Nothing here is timed: what must not wait is measured in events.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { burstMessage } from "../src/agents/index.ts";
import { type Envelope, IN_REPLY_TO, MAX_FRAME_BYTES } from "../src/protocol/index.ts";
import type { AgentHandler } from "../src/runtime/index.ts";
import { count, isTerminal, logsOf, Puppet, resumeOf, settled, submit, terminalOf, upTo } from "./memory-runtime.ts";
import { type SocketLine, socketServer } from "./socket-server.ts";
import type { WireClient } from "./wire-client.ts";

const burstMessages = (n: number, bytes: number): string[] =>
  Array.from({ length: n }, (_, index) => burstMessage(index, bytes));

const numberedFrames = (client: WireClient): string[] =>
  client.received.filter(({ envelope }) => envelope.event_seq !== undefined).map(({ frame }) => frame);

const messageOf = ({ payload }: Envelope): string => (payload["body"] as { message: string }).message;

/** Emits until it is told to stop, or has emitted `most`; the test reads how far it is. */
class Flood {
  emitted = 0;
  /** How many were emitted when its signal fired. */
  emittedAtAbort: number | undefined;
  readonly most: number;
  readonly #running = Promise.withResolvers<void>();

  constructor(most: number) {
    this.most = most;
  }

  readonly handler: AgentHandler = async (_input, job) => {
    job.signal.addEventListener("abort", () => {
      this.emittedAtAbort = this.emitted;
    });
    while (this.emitted < this.most) {
      job.signal.throwIfAborted();
      await job.log("x".repeat(100));
      this.emitted += 1;
      if (this.emitted === 5_000) this.#running.resolve();
    }
  };

  /** Resolves when the flood is in full spate. */
  get running(): Promise<void> {
    return this.#running.promise;
  }
}

test("[JOB-18] a socket that dies while a job emits is no affair of the job's, and no event is lost", async () => {
  await using server = await socketServer();
  const n = 20_000;
  let line = await server.connect();
  const jobId = await submit(line.client, "burst", { n, bytes: 100 });
  const messages: Envelope[] = [];
  // Cut in the middle of what is on its way, again and again, while the job goes on.
  let cuts = 0;
  for (const more of [1, 700, 1, 1_500, 3_000, 100]) {
    if (messages.length + more > n) break;
    await upTo(line.client, messages.length + more);
    line.cut();
    cuts += 1;
    await line.client.whenClosed();
    messages.push(...line.client.numbered());
    line = await server.connect({ resume: resumeOf(line.client, messages.length) });
  }
  assert(cuts >= 2);
  const terminal = await terminalOf(line.client, jobId);
  messages.push(...line.client.numbered());
  assert.equal(terminal.type, "job.result");
  assert.deepEqual(terminal.payload["result"], { n });
  assert.deepEqual(
    messages.map(({ event_seq }) => event_seq),
    count(1, n + 1),
  );
  assert.deepEqual(messages.slice(0, n).map(messageOf), burstMessages(n, 100));
});

test("[RES-3] a job whose only reader has gone ends as if nothing had happened", async () => {
  await using server = await socketServer();
  const puppet = new Puppet();
  server.agent("puppet", puppet.handler);
  const first = await server.connect();
  const jobId = await submit(first.client, "puppet");
  await puppet.log(0, 5);
  await upTo(first.client, 5);
  first.cut();
  await first.client.whenClosed();
  await puppet.log(5, 3_000);
  puppet.end("unharmed");
  while (server.runtime.runningJobs > 0) await turn();

  const second = await server.connect({ resume: resumeOf(first.client) });
  assert.equal((await terminalOf(second.client, jobId)).payload["result"], "unharmed");
  assert.deepEqual(second.client.seqs(), count(6, 3_001));
});

test("[RES-2] a resume that is fully caught up works", async () => {
  await using server = await socketServer();
  const first = await server.connect();
  const jobId = await submit(first.client, "burst", { n: 300, bytes: 20 });
  await terminalOf(first.client, jobId);
  first.cut();
  const second = await server.connect({ resume: resumeOf(first.client, 301) });
  assert.deepEqual(
    await terminalOf(second.client, await submit(second.client, "echo", "hi")).then(({ payload }) => payload["result"]),
    "hi",
  );
  assert.deepEqual(second.client.seqs(), [302]);
});

test("[RES-2] a resume 30,000 events behind works, and every sending of an event is the same to the byte", async () => {
  await using server = await socketServer();
  const n = 30_000;
  const first = await server.connect();
  const jobId = await submit(first.client, "burst", { n, bytes: 60 });
  first.cut();
  while (server.runtime.runningJobs > 0) await turn();

  const second = await server.connect({ resume: resumeOf(first.client, 0) });
  await terminalOf(second.client, jobId);
  assert.deepEqual(second.client.seqs(), count(1, n + 1));
  assert.deepEqual(logsOf(second.client), burstMessages(n, 60));
  second.cut();
  const third = await server.connect({ resume: resumeOf(second.client, 0) });
  await terminalOf(third.client, jobId);
  assert.deepEqual(numberedFrames(third.client), numberedFrames(second.client));
});

test("[ENV-6] an event has the same bytes live, at its replay, and after a restart", async () => {
  await using server = await socketServer();
  server.agent("colourful", async (_input, job) => {
    await job.log('quotes " and \\, line\nbreaks, ünïcödé 🦊, \u2028', {
      attributes: { nested: { deep: [1, 2.5, null] } },
    });
    await job.progress({ current: 1, total: 3, message: "reading" });
    await job.emit("x-vendor.test.thing", { any: "thing" });
    return { ü: "\u0000" };
  });
  const first = await server.connect();
  const jobId = await submit(first.client, "colourful");
  await terminalOf(first.client, jobId);
  const again = await server.connect({ resume: resumeOf(first.client, 0) });
  await terminalOf(again.client, jobId);
  await server.restart();
  const later = await server.connect({ resume: resumeOf(again.client, 0) });
  await terminalOf(later.client, jobId);
  assert.equal(numberedFrames(first.client).length, 4);
  assert.deepEqual(numberedFrames(again.client), numberedFrames(first.client));
  assert.deepEqual(numberedFrames(later.client), numberedFrames(first.client));
  for (const { id, session_id, event_seq } of first.client.numbered()) assert.equal(id, `${session_id}.${event_seq}`);
});

/** Takes a session over and checks that each number means one thing, on whichever socket it came. */
function assertOneStream(lines: readonly SocketLine[], last: number): void {
  const frames = new Map<number, string>();
  for (const { client } of lines) {
    for (const { frame, envelope } of client.received) {
      if (envelope.event_seq === undefined) continue;
      assert.equal(frames.get(envelope.event_seq) ?? frame, frame, "one number, two events");
      frames.set(envelope.event_seq, frame);
    }
  }
  assert.deepEqual(
    [...frames.keys()].sort((a, b) => a - b),
    count(1, last),
  );
}

test("[RES-8] a takeover while the old socket is open and a job emits: one connection, each number once", async () => {
  await using server = await socketServer();
  const n = 15_000;
  const first = await server.connect();
  const jobId = await submit(first.client, "burst", { n, bytes: 80 });
  await upTo(first.client, 1_000);
  const second = await server.connect({ resume: resumeOf(first.client, 500) });
  await first.client.whenClosed();
  const last = first.client.received.at(-1)?.envelope;
  assert.equal(last?.type, "session.error");
  assert.equal(last.payload["code"], "INVALID_REQUEST");
  assert.deepEqual(last.payload["details"], { reason: "superseded" });
  await upTo(second.client, 4_000);
  const third = await server.connect({ resume: resumeOf(second.client, 3_999) });
  await terminalOf(third.client, jobId);
  assert.deepEqual(second.client.seqs(), count(501, 500 + second.client.seqs().length));
  assert.deepEqual(third.client.seqs(), count(4_000, n + 1));
  assert.deepEqual(logsOf(third.client), burstMessages(n, 80).slice(3_999));
  assertOneStream([first, second, third], n + 1);
});

test("[RES-8] a takeover from a socket that is full: nobody waits for it, and what it held comes again", async () => {
  await using server = await socketServer();
  const n = 8_000;
  const first = await server.connect();
  const jobId = await submit(first.client, "burst", { n, bytes: 2_000 });
  // More than the buffers of both sockets take: the old connection stands in the middle of the log.
  first.stopReading();
  while (server.runtime.runningJobs > 0) await turn();
  const second = await server.connect({ resume: resumeOf(first.client, 0) });
  await terminalOf(second.client, jobId);
  assert.deepEqual(second.client.seqs(), count(1, n + 1));
  first.goOnReading();
  await first.client.whenClosed();
  assert(first.client.seqs().length < n, "the old socket was full");
  assertOneStream([first, second], n + 1);
});

test("[RES-8] takeovers that race end with one connection that works, and lose nothing", async () => {
  await using server = await socketServer();
  const n = 20_000;
  const first = await server.connect();
  const jobId = await submit(first.client, "burst", { n, bytes: 50 });
  await upTo(first.client, 10);
  const resume = resumeOf(first.client, 0);
  const racers = await Promise.all([1, 2, 3, 4].map(() => server.line()));
  for (const { client } of racers) {
    client.hello({
      token: "alice",
      rest: { resume: { session_id: resume.sessionId, resume_token: resume.token, last_event_seq: 0 } },
    });
  }
  // Whoever was last has it: the others are closed, each with a reason.
  const ended = await Promise.all(
    racers.map(async ({ client }) => {
      const over = () => client.closed !== undefined || client.received.at(-1)?.envelope.event_seq === n + 1;
      await client.until(over, "a racer to lose or to see the job's end");
      return client.closed === undefined;
    }),
  );
  const winners = racers.filter((_, index) => ended[index]);
  assert.equal(winners.length, 1);
  for (const { client } of [first, ...racers].filter((line) => line !== winners[0])) {
    await client.whenClosed();
    assert.deepEqual(client.received.at(-1)?.envelope.payload["details"], { reason: "superseded" });
  }
  const winner = winners[0] as SocketLine;
  await terminalOf(winner.client, jobId);
  assert.deepEqual(winner.client.seqs(), count(1, n + 1));
  assertOneStream([first, ...racers], n + 1);
});

test("[RES-7] another principal that holds the resume token is refused, and the session goes on", async () => {
  await using server = await socketServer();
  const first = await server.connect();
  const { sessionId, token } = resumeOf(first.client);
  const thief = await server.line();
  thief.client.hello({
    token: "bob",
    rest: { resume: { session_id: sessionId, resume_token: token, last_event_seq: 0 } },
  });
  assert.equal((await thief.client.message("session.error")).payload["code"], "UNAUTHENTICATED");
  assert.equal((await thief.client.whenClosed()).code, 4401);
  await terminalOf(first.client, await submit(first.client, "echo", 1));
  assert.deepEqual(first.client.seqs(), [1]);
});

test("[RES-9] a session goes on past 10,000 events, whether they are acked or not", async () => {
  await using server = await socketServer();
  const { client } = await server.connect();
  for (let round = 0; round < 3; round += 1) {
    const jobId = await submit(client, "burst", { n: 5_000, bytes: 40 });
    await terminalOf(client, jobId);
    if (round === 0) client.send("session.ack", { last_processed_seq: 2_500 });
  }
  await settled(client);
  assert.deepEqual(client.seqs(), count(1, 15_003));
  assert.equal(client.closed, undefined);
});

test("[SES-12] a subscriber that stops reading stalls neither the job nor its owner, and gets all of it later", async () => {
  await using server = await socketServer();
  const n = 10_000;
  const owner = await server.connect();
  const subscriber = await server.connect();
  const jobId = await submit(owner.client, "burst", { n, bytes: 2_000, delay_ms: 50 });
  await subscriber.client.reply(subscriber.client.send("job.subscribe", { job_id: jobId, history: true }));
  subscriber.stopReading();
  const terminal = await terminalOf(owner.client, jobId);
  assert.equal(terminal.type, "job.result");
  assert.deepEqual(owner.client.seqs(), count(1, n + 1));
  assert(!subscriber.client.numbered().some(isTerminal), "the subscriber did not read");
  subscriber.goOnReading();
  await terminalOf(subscriber.client, jobId);
  assert.deepEqual(logsOf(subscriber.client), burstMessages(n, 2_000));
});

test("[SES-12] a subscriber that is cut disturbs neither the job nor its owner, and resumes", async () => {
  await using server = await socketServer();
  const n = 10_000;
  const owner = await server.connect();
  const subscriber = await server.connect();
  const jobId = await submit(owner.client, "burst", { n, bytes: 200, delay_ms: 50 });
  await subscriber.client.reply(subscriber.client.send("job.subscribe", { job_id: jobId, history: true }));
  await upTo(subscriber.client, 100);
  subscriber.cut();
  await subscriber.client.whenClosed();
  assert.equal((await terminalOf(owner.client, jobId)).type, "job.result");
  assert.deepEqual(owner.client.seqs(), count(1, n + 1));

  const before = subscriber.client.numbered();
  const again = await server.connect({ resume: resumeOf(subscriber.client, before.length) });
  await terminalOf(again.client, jobId);
  const messages = [...before, ...again.client.numbered()];
  assert.deepEqual(messages.slice(0, n).map(messageOf), burstMessages(n, 200));
});

/** Between a ping in mid-burst and its pong, the burst may do a few commits; a starved loop would do all of it. */
const SEVERAL_PAGES = 20 * 512;

test("[SES-13] a job that emits without pause keeps no other session's ping waiting", async () => {
  await using server = await socketServer();
  const flood = new Flood(400_000);
  server.agent("flood", flood.handler);
  const owner = await server.connect();
  const other = await server.connect({ token: "bob" });
  const jobId = await submit(owner.client, "flood");
  await flood.running;
  for (let round = 0; round < 5; round += 1) {
    const before = flood.emitted;
    other.client.send("session.ping", { nonce: `ping-${round}`, sent_at: "2026-01-01T00:00:00Z" });
    await other.client.waitFor(({ payload }) => payload["ping_nonce"] === `ping-${round}`, "the pong");
    const meanwhile = flood.emitted - before;
    assert(meanwhile <= SEVERAL_PAGES, `${meanwhile} events were emitted between a ping and its pong`);
  }
  assert(flood.emitted < flood.most, "the burst was over before it could be in the way");
  owner.client.send("job.cancel", {}, { job_id: jobId });
  await terminalOf(owner.client, jobId);
});

test("[SES-13] a cancel in mid-burst is acted on at once", async () => {
  await using server = await socketServer();
  const flood = new Flood(400_000);
  server.agent("flood", flood.handler);
  const { client } = await server.connect();
  const jobId = await submit(client, "flood");
  await flood.running;
  const before = flood.emitted;
  const reply = await client.reply(client.send("job.cancel", { reason: "enough" }, { job_id: jobId }));
  assert.equal(reply.type, "job.cancelled");
  const terminal = await terminalOf(client, jobId);
  assert.equal(terminal.payload["code"], "CANCELLED");
  assert(flood.emittedAtAbort !== undefined);
  const meanwhile = flood.emittedAtAbort - before;
  assert(meanwhile <= SEVERAL_PAGES, `${meanwhile} events were emitted between a cancel and the signal`);
});

test("[SES-13] a long stretch of events that a session does not see keeps nobody waiting", async () => {
  await using server = await socketServer();
  const n = 60_000;
  server.agent("progressing", async (_input, job) => {
    for (let index = 0; index < n; index += 1) await job.progress({ current: index });
    await job.log("done");
  });
  const owner = await server.connect({ features: [] });
  const jobId = await submit(owner.client, "progressing");
  await terminalOf(owner.client, jobId);
  const reader = await server.connect({ features: ["subscribe"] });
  const other = await server.connect({ token: "bob" });
  const order: string[] = [];
  const end = terminalOf(reader.client, jobId).then(() => order.push("end"));
  await reader.client.reply(reader.client.send("job.subscribe", { job_id: jobId, history: true }));
  other.client.send("session.ping", { nonce: "meanwhile", sent_at: "2026-01-01T00:00:00Z" });
  const pong = other.client.message("session.pong").then(() => order.push("pong"));
  await Promise.all([end, pong]);
  assert.deepEqual(order, ["pong", "end"]);
  assert.deepEqual(reader.client.seqs(), [1, 2]);
});

test("[JOB-11] subscribing with history to a job that has ended replays it to its end", async () => {
  await using server = await socketServer();
  const owner = await server.connect();
  const jobId = await submit(owner.client, "burst", { n: 2_000, bytes: 30 });
  await terminalOf(owner.client, jobId);
  owner.cut();
  const late = await server.connect();
  const reply = await late.client.reply(late.client.send("job.subscribe", { job_id: jobId, history: true }));
  assert.equal(reply.type, "job.subscribed");
  assert.equal(reply.payload["current_status"], "success");
  assert.deepEqual((await terminalOf(late.client, jobId)).payload["result"], { n: 2_000 });
  assert.deepEqual(logsOf(late.client), burstMessages(2_000, 30));
});

test("[RES-11] idempotency keys, resume tokens and jobs survive a restart of the server", async () => {
  await using server = await socketServer();
  let runs = 0;
  server.agent("counted", () => {
    runs += 1;
    return runs;
  });
  const first = await server.connect();
  const key = { idempotency_key: "only-once" };
  const submitted = first.client.send("job.submit", { agent: "counted", input: { a: 1, b: 2 }, ...key });
  const accepted = await first.client.reply(submitted);
  const jobId = accepted.job_id as string;
  await terminalOf(first.client, jobId);
  await server.restart();

  const second = await server.connect({ resume: resumeOf(first.client) });
  const listed = await second.client.reply(second.client.send("session.list_jobs", {}));
  assert.deepEqual(
    (listed.payload["jobs"] as { job_id: string; status: string }[]).map(({ job_id, status }) => [job_id, status]),
    [[jobId, "success"]],
  );
  const again = second.client.send("job.submit", { agent: "counted", input: { b: 2, a: 1 }, ...key });
  assert.deepEqual((await second.client.reply(again)).payload, accepted.payload);
  const other = second.client.send("job.submit", { agent: "counted", input: { a: 2, b: 2 }, ...key });
  assert.equal((await second.client.reply(other)).payload["code"], "DUPLICATE_KEY");
  assert.equal(runs, 1);
});

test("[ENV-7] every answer names its request, in the order of the requests", async () => {
  await using server = await socketServer();
  const { client } = await server.connect();
  const jobId = await submit(client, "echo", 1);
  await terminalOf(client, jobId);
  const trace = "0123456789abcdef0123456789abcdef";
  const asked = [
    client.send("job.submit", { agent: "echo", input: 1 }, { trace_id: trace }),
    client.send("job.submit", { agent: "nobody", input: 1 }, { trace_id: trace }),
    client.send("job.submit", { agent: "echo@9", input: 1 }),
    client.send("job.submit", { input: 1 }),
    client.send("job.subscribe", { job_id: jobId, history: true }),
    client.send("job.subscribe", { job_id: "job_unknown" }),
    client.send("job.cancel", {}, { job_id: jobId }),
    client.send("job.cancel", {}, { job_id: "job_unknown" }),
    client.send("session.list_jobs", { limit: 1 }),
    client.send("session.list_jobs", { limit: 0 }),
    client.send("session.close", {}),
  ];
  await client.whenClosed();
  const answers = client.received
    .map(({ envelope }) => envelope)
    .filter(({ extensions }) => asked.includes(extensions?.[IN_REPLY_TO] as string));
  assert.deepEqual(
    answers.map(({ extensions, type, payload }) => [extensions?.[IN_REPLY_TO], type, payload["code"]]),
    [
      [asked[0], "job.accepted", undefined],
      [asked[1], "job.error", "AGENT_NOT_AVAILABLE"],
      [asked[2], "job.error", "AGENT_VERSION_NOT_AVAILABLE"],
      [asked[3], "job.error", "INVALID_REQUEST"],
      [asked[4], "job.subscribed", undefined],
      [asked[5], "session.error", "JOB_NOT_FOUND"],
      [asked[6], "job.cancelled", undefined],
      [asked[7], "job.error", "JOB_NOT_FOUND"],
      [asked[8], "session.jobs", undefined],
      [asked[9], "session.error", "INVALID_REQUEST"],
      [asked[10], "session.closed", undefined],
    ],
  );
  assert.equal(answers[0]?.trace_id, trace);
  assert.equal(answers[1]?.trace_id, trace);
  assert(answers.every(({ event_seq }) => event_seq === undefined));
});

test("[SES-9] session.close and session.bye end the connection, no job, and the session can be resumed", async () => {
  await using server = await socketServer();
  for (const form of ["session.close", "session.bye"]) {
    const puppet = new Puppet();
    server.agent(`puppet/${form}`, puppet.handler);
    const first = await server.connect();
    const jobId = await submit(first.client, `puppet/${form}`);
    await puppet.log(0, 2);
    await upTo(first.client, 2);
    first.client.send(form, form === "session.bye" ? { reason: "lunch" } : {});
    assert.equal((await first.client.whenClosed()).code, 1000);
    const answer = first.client.received.at(-1)?.envelope.type;
    assert.equal(answer, form === "session.close" ? "session.closed" : "job.event");
    await puppet.log(2, 4);

    const second = await server.connect({ resume: resumeOf(first.client) });
    puppet.end("still here");
    assert.equal((await terminalOf(second.client, jobId)).payload["result"], "still here");
    assert.deepEqual(second.client.seqs(), [3, 4, 5]);
  }
});

test("[RES-4] the draft's session.resume is understood as the first message", async () => {
  await using server = await socketServer();
  const first = await server.connect();
  const jobId = await submit(first.client, "burst", { n: 50, bytes: 20 });
  await terminalOf(first.client, jobId);
  first.cut();
  const { sessionId, token } = resumeOf(first.client);
  const second = await server.line();
  second.client.send("session.resume", {
    session_id: sessionId,
    resume_token: token,
    last_event_seq: 40,
    auth: { scheme: "bearer", token: "alice" },
    client: { name: "draft", version: "1" },
  });
  await terminalOf(second.client, jobId);
  assert.deepEqual(second.client.seqs(), count(41, 51));
});

test("[SRV-6] an oversized frame closes its own connection, whose session can be resumed", async () => {
  await using server = await socketServer();
  const other = await server.connect();
  const line = await server.connect();
  const puppet = new Puppet();
  server.agent("puppet", puppet.handler);
  const jobId = await submit(line.client, "puppet");
  line.client.sendRaw("x".repeat(MAX_FRAME_BYTES + 1));
  assert.equal((await line.client.whenClosed()).code, 1009);
  await settled(other.client);

  const again = await server.connect({ resume: resumeOf(line.client) });
  // The largest that is allowed is a frame like any other: not JSON, and the session lives on.
  again.client.sendRaw("x".repeat(MAX_FRAME_BYTES));
  assert.equal((await again.client.message("session.error")).payload["code"], "INVALID_REQUEST");
  puppet.end();
  await terminalOf(again.client, jobId);
});

test("[SRV-6] binary frames are ignored, before the hello and after it", async () => {
  await using server = await socketServer();
  const line = await server.line();
  line.ws.send(Buffer.from([0, 1, 2, 255]));
  line.client.hello({ token: "alice" });
  await line.client.message("session.welcome");
  const ping = JSON.stringify({ arcp: "1.1", id: "binary", type: "session.ping", payload: { nonce: "binary" } });
  line.ws.send(Buffer.from(ping));
  line.ws.send(Buffer.alloc(100_000));
  await settled(line.client);
  assert.deepEqual([...new Set(line.client.received.map(({ envelope }) => envelope.type))].sort(), [
    "session.pong",
    "session.welcome",
  ]);
  assert(!line.client.received.some(({ envelope }) => envelope.payload["ping_nonce"] === "binary"));
});
