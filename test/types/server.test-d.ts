/** What the compiler makes of the package's main entry, `/sqlite`, `/agents` and `/testing` (`npm run check:consumer`). */
import {
  type AgentHandler,
  ArcpError,
  type Authenticator,
  type Clock,
  type ErrorCode,
  type HoldfastServer,
  type JobContext,
  Runtime,
  type RuntimeOptions,
  type Store,
  serve,
  systemClock,
  tokensFromFile,
} from "holdfast";
import { burst, registerDemoAgents } from "holdfast/agents";
import { sqlite } from "holdfast/sqlite";
import { ManualClock } from "holdfast/testing";
import { expectType } from "./expect-type.ts";

const store = sqlite("holdfast.db", { durability: "power" });
expectType<Store>()(store);
// @ts-expect-error there are two durabilities
sqlite("holdfast.db", { durability: "maybe" });

const auth: Authenticator = { authenticate: async (token) => (token === "t" ? { principal: "alice" } : undefined) };
const runtime = new Runtime({ store, auth, clock: new ManualClock() });
// @ts-expect-error a runtime needs a store
new Runtime({ auth });
// @ts-expect-error a misspelt option is no option
new Runtime({ store, auth, resumeWindowSecs: 60 });
// @ts-expect-error an option is left out, not set to undefined
({ store, auth, name: undefined }) satisfies RuntimeOptions;

expectType<Runtime>()(runtime.agent("a", () => ({ any: "result" })).agent("b", async () => undefined));
runtime.agent("typed", async (input, job) => {
  expectType<unknown>()(input);
  expectType<JobContext>()(job);
  expectType<AbortSignal>()(job.signal);
  expectType<Promise<void>>()(job.progress({ current: 1, total: 3 }));
  await job.emit("log", { level: "info", message: "hello" });
  await job.emit("x-vendor.mine", { anything: [1] });
  const out = job.stream({ contentType: "text/plain" });
  expectType<Promise<void>>()(out.write("text").then(() => out.write(new Uint8Array())));
  await new ReadableStream<string>().pipeTo(out.writable);
  expectType<Promise<unknown>>()(job.ask({ message: "Go on?", schema: { type: "boolean" }, timeoutMs: 1, to: "bob" }));
  // @ts-expect-error a question says something
  await job.ask({ schema: true });
  // @ts-expect-error there are two encodings
  job.stream({ encoding: "hex" });
  // @ts-expect-error a log has a message
  await job.emit("log", { level: "info" });
  // @ts-expect-error no such level
  await job.log("hello", { level: "loud" });
  // @ts-expect-error a kind of one's own starts with x-vendor.
  await job.emit("mine", {});
  // @ts-expect-error what a job may do was settled when it was accepted
  job.lease = {};
});
// @ts-expect-error an agent is a function
runtime.agent("c", { run: () => 1 });

const Thing = { parse: (value: unknown): { n: number } => ({ n: Number(value) }) };
runtime.extension("x-vendor.acme.thing", {
  schema: Thing,
  handle: ({ n }, context) => {
    expectType<number>()(n);
    expectType<string>()(context.principal);
    return { twice: 2 * n };
  },
  reply: "x-vendor.acme.thing_done",
});
runtime.extension("x-vendor.acme.plain", {
  handle: (payload) => expectType<Record<string, unknown>>()(payload),
});
runtime.eventKind("x-vendor.acme.thing", { schema: Thing });
// @ts-expect-error a message of one's own starts with x-vendor.
runtime.extension("acme.thing", { handle: () => ({}) });
// @ts-expect-error a kind is registered for its schema
runtime.eventKind("x-vendor.acme.other", {});

expectType<AgentHandler>()(burst);
registerDemoAgents(runtime, { directory: "." });
// @ts-expect-error `survey` has to be told where it may read
registerDemoAgents(runtime);

const server = await serve(runtime, { port: 0, tls: { cert: "", key: "" } });
expectType<HoldfastServer>()(server);
expectType<string>()(server.url);
// @ts-expect-error TLS needs a key too
await serve(runtime, { tls: { cert: "" } });
await using _disposable = server;

expectType<Clock>()(systemClock);
expectType<Promise<Authenticator>>()(tokensFromFile("tokens"));
const error = new ArcpError("TIMEOUT", "too long");
expectType<ErrorCode>()(error.code);
expectType<boolean>()(error.retryable);
// @ts-expect-error the wire has fifteen codes
new ArcpError("TEAPOT", "short and stout");
