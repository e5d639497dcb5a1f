/**
 * Frames that mean harm, sent into a real runtime on a real file (ENV-14). What each one is answered with is
 * judged from its text alone, with nothing of the runtime's own. `npm run test:hostile` sends a million.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Envelope, ERROR_TABLE, IN_REPLY_TO } from "../../src/protocol/index.ts";
import { type RuntimeFixture, runtimeFixture, type TestClient, turns } from "../runtime-fixture.ts";
import { heapInUse } from "./collect-garbage.ts";
import { helloFrame, sessionFrame } from "./hostile-frames.ts";

const FRAMES = Number(process.env["HOSTILE_FRAMES"] ?? 10_000);
const SEED = Number(process.env["HOSTILE_SEED"] ?? 20_26);
/** Of one property run; a runtime and its file serve several. */
const BATCH = 250;
const RUNS_PER_RUNTIME = 40;

/** No limit but those under test elsewhere is in the way here. */
const LIMITS = { maxMessagesPerSecond: 1e9, maxSessionsPerPrincipal: 1e9, maxUnreadBytes: 1e9, maxCharsInFlight: 1e9 };

const MAX_ANSWER_CHARS = 16_384;
const LEAKS =
  /\n\s+at |node_modules|file:\/\/|node:internal|\.ts:\d+|RangeError|TypeError|SyntaxError|\/work\/|\/home\//;

/** What the text says when JSON alone is asked. */
function read(frame: string): Record<string, unknown> | undefined {
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    return undefined;
  }
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

const isId = (value: unknown): value is string =>
  typeof value === "string" && value.length >= 1 && value.length <= 256 && value.isWellFormed();

const ANSWERS: Record<string, readonly string[]> = {
  "session.list_jobs": ["session.jobs", "session.error"],
  "job.submit": ["job.accepted", "job.error", "session.error"],
  "job.cancel": ["job.cancelled", "job.error", "session.error"],
  "job.subscribe": ["job.subscribed", "session.error"],
  "x-vendor.holdfast.answer": ["x-vendor.holdfast.answered", "session.error"],
};
/** An answer that names its request only where something is wrong. */
const SILENT: readonly unknown[] = ["session.ping", "session.ack", "session.pong", "job.unsubscribe"];

/** What a frame may be answered with, how often at least and at most. */
function expectation(frame: string): { id: string | undefined; types: readonly string[]; least: number } {
  const value = read(frame);
  if (value === undefined) return { id: undefined, types: ["session.error"], least: 1 };
  const id = isId(value["id"]) ? value["id"] : undefined;
  const { type } = value;
  const answers = typeof type === "string" && Object.hasOwn(ANSWERS, type) ? ANSWERS[type] : undefined;
  const isVendors = typeof type === "string" && type.startsWith("x-vendor.");
  const silent = SILENT.includes(type) || (isVendors && answers === undefined);
  const types = answers ?? ["session.error"];
  return { id, types, least: silent ? 0 : 1 };
}

/** A close or a bye that is good ends the connection: those are for another test. */
const isGoodbye = (frame: string): boolean => {
  const type = read(frame)?.["type"];
  return type === "session.close" || type === "session.bye";
};

/** Every error is of the table, tells nothing of the inside, and none is the runtime's own failure. */
function checkAnswer(envelope: Envelope, text: string): void {
  assert.equal(envelope.arcp, "1.1");
  if (!text.includes('"code"') || envelope.event_seq !== undefined) return;
  if (envelope.type !== "session.error" && envelope.type !== "job.error") return;
  const { code, message, retryable, details } = envelope.payload as Record<string, unknown>;
  assert(typeof code === "string" && Object.hasOwn(ERROR_TABLE, code), text);
  assert(typeof message === "string" && message !== "" && typeof retryable === "boolean", text);
  assert(text.length <= MAX_ANSWER_CHARS, `${text.length} characters: ${text.slice(0, 500)}`);
  assert.doesNotMatch(text, LEAKS);
  if (code === "INTERNAL_ERROR") {
    assert.equal((details as { code?: unknown } | undefined)?.code, "LIMIT_EXCEEDED", `the runtime failed: ${text}`);
  }
}

const snapshot = (): string =>
  [Object, Array, String, Number, Function, Promise, Map, JSON]
    .map((one) =>
      Reflect.ownKeys("prototype" in one ? one.prototype : one)
        .map(String)
        .join(),
    )
    .join(";");

/** Nothing worse than a warning was logged: an error there is a bug of ours, whatever was answered. */
const failures = (fixture: RuntimeFixture) => fixture.log.splice(0).filter(({ level }) => level === "error");

async function sendAll(client: TestClient, frames: readonly string[], round: number): Promise<Envelope[]> {
  const before = client.received.length;
  for (const frame of frames) client.sendRaw(frame);
  // Answers go in the order of their requests, so with this one's all have come.
  await client.ask("session.list_jobs", { limit: 1 }, { id: `last-of-${round}` });
  await client.alive();
  return client.received.slice(before).map(({ frame, envelope }) => {
    checkAnswer(envelope, frame);
    return envelope;
  });
}

function judge(frames: readonly string[], answers: readonly Envelope[]): void {
  const given = new Map<string | undefined, string[]>();
  for (const { type, extensions, event_seq, payload } of answers) {
    if (event_seq !== undefined || type === "session.pong" || type === "session.ping") continue;
    const id = extensions?.[IN_REPLY_TO] as string | undefined;
    assert(id === undefined || payload["request_id"] === undefined || payload["request_id"] === id);
    given.set(id, [...(given.get(id) ?? []), type]);
  }
  const wanted = new Map<string | undefined, { types: Set<string>; least: number; most: number }>();
  for (const frame of frames) {
    const { id, types, least } = expectation(frame);
    const sum = wanted.get(id) ?? { types: new Set(), least: 0, most: 0 };
    for (const type of types) sum.types.add(type);
    wanted.set(id, { types: sum.types, least: sum.least + least, most: sum.most + 1 });
  }
  for (const [id, types] of given) {
    if (id?.startsWith("last-of-")) continue;
    const { types: allowed, most } = wanted.get(id) ?? { types: new Set<string>(), most: 0 };
    for (const type of types) assert(allowed.has(type), `${id} was answered with ${type}`);
    assert(types.length <= most, `${id} was answered ${types.length} times`);
  }
  for (const [id, { least }] of wanted) {
    if (id !== undefined) assert((given.get(id)?.length ?? 0) >= least, `${id} was not answered`);
  }
}

async function withRuntime(work: (fixture: RuntimeFixture) => Promise<void>): Promise<void> {
  await using fixture = await runtimeFixture(LIMITS);
  const other = await fixture.connect({ token: "bob" });
  const untouched = snapshot();
  await work(fixture);
  assert.deepEqual(failures(fixture), []);
  assert.equal(snapshot(), untouched);
  assert.deepEqual(Object.keys({}), []);
  // The neighbour heard nothing of it, and is served.
  assert.equal(other.closed, undefined);
  assert.deepEqual(
    other.received.map(({ envelope }) => envelope.type),
    ["session.welcome"],
  );
  await other.terminal(await other.start("echo", "still here"));
}

test(`[ENV-14] ${FRAMES} broken frames: each answered in kind, the session lives, nothing leaks or stays`, async () => {
  let sent = 0;
  const heap: number[] = [];
  for (let seed = SEED; sent < FRAMES; seed += 1) {
    await withRuntime(async (fixture) => {
      await fc.assert(
        fc.asyncProperty(fc.array(sessionFrame, { minLength: 1, maxLength: BATCH, size: "max" }), async (draws) => {
          if (sent >= FRAMES) return;
          const frames = draws.map((draw, serial) => draw.text(serial)).filter((frame) => !isGoodbye(frame));
          const client = await fixture.connect();
          judge(frames, await sendAll(client, frames, sent));
          assert.equal(client.closed, undefined);
          assert.deepEqual(failures(fixture), []);
          client.pair.cut();
          sent += frames.length;
        }),
        { numRuns: RUNS_PER_RUNTIME, seed },
      );
    });
    heap.push(heapInUse());
  }
  const grown = ((heap.at(-1) ?? 0) - (heap[0] ?? 0)) / 1024 / 1024;
  assert(grown < 4, `the heap grew by ${grown.toFixed(1)} MiB over ${heap.length} runtimes`);
});

test(`[ENV-14] ${Math.ceil(FRAMES / 20)} broken hellos: welcome, an error, or nothing, and the next one is served`, async () => {
  const most = Math.ceil(FRAMES / 20);
  let sent = 0;
  for (let seed = SEED; sent < most; seed += 1) {
    await withRuntime(async (fixture) => {
      await fc.assert(
        fc.asyncProperty(fc.array(helloFrame, { minLength: 1, maxLength: 20, size: "max" }), async (draws) => {
          if (sent >= most) return;
          const line = fixture.line();
          const frames = draws.map((draw, serial) => draw.text(serial));
          for (const frame of frames) line.sendRaw(frame);
          sent += frames.length;
          await turns(3);
          line.hello({ token: "alice" });
          await line.until(() => line.closed !== undefined || line.sessionId !== undefined, "a welcome or the end");
          if (line.closed === undefined) await line.alive();
          for (const { envelope, frame } of line.received) checkAnswer(envelope, frame);
          assert.deepEqual(failures(fixture), []);
          line.pair.cut();
        }),
        { numRuns: RUNS_PER_RUNTIME, seed },
      );
    });
  }
});
