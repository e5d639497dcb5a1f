/**
 * One run of the conformance cases in this process: against our own runtime over a carrier, or against one that is
 * broken on purpose. The clock is a manual one, so that a run costs what its work does and waits for nothing.
 */
import { join } from "node:path";
import { Transform } from "node:stream";
import { approve, burst, echo, meter, relay, spool, ticker } from "../src/agents/index.ts";
import type { Clock } from "../src/clock.ts";
import {
  type AgentHandler,
  type Authenticator,
  type CredentialProvisioner,
  DEFAULT_GRANTS,
  type Grants,
  Runtime,
} from "../src/runtime/index.ts";
import { bearerTokens } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import {
  type ConformanceSummary,
  conformanceRules,
  runConformance,
  type Wire,
} from "../src/testing/conformance/index.ts";
import { ManualClock } from "../src/testing/manual-clock.ts";
import { memoryPair } from "../src/transport/memory.ts";
import { stdioTransport } from "../src/transport/stdio.ts";
import type { TransportEvents } from "../src/transport/transport.ts";
import { type BrokenRuntime, Link } from "./broken-runtimes.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** alice and bob, and a token of alice's that is good for so long from now on. */
export function tokens(clock: Clock, expiringMs: number): Authenticator {
  const lasting = bearerTokens({ alice: "alice", bob: "bob" });
  const expiresAt = clock.wall() + expiringMs;
  return {
    authenticate: (token) =>
      token === "expiring" ? Promise.resolve({ principal: "alice", expiresAt }) : lasting.authenticate(token),
  };
}

/** Stands for the agent of that name where no time passes while files are read. */
const survey: AgentHandler = async (_input, job) => {
  for (let current = 0; current < 10; current += 1) {
    await job.progress({ current, total: 10 });
    await job.log(`file ${current}`);
  }
  return null;
};

/** Issues what nobody could guess from what it issued before. */
const provisioner: CredentialProvisioner = {
  issue: ({ credentialId }) =>
    Promise.resolve({ scheme: "bearer", value: `secret-of-${credentialId}`, endpoint: "https://gateway.example/v1" }),
  revoke: () => Promise.resolve(),
};

/** What the cases about paths, URLs and models need to be granted. */
export const GRANTS = {
  "fs.read": ["/conformance/**"],
  "net.fetch": ["https://conformance.example/docs/**"],
  "model.use": ["conformance/one"],
};

/** A runtime of which nothing is skipped and nothing left out. */
export const COMPLETE = {
  models: GRANTS["model.use"],
  policy: (): Grants => ({ ...DEFAULT_GRANTS, ...GRANTS }),
  provisioner,
};

/**
 * Time goes on while work is under way: a wait in vain takes turns of the event loop, not seconds. It stands
 * still while `still` says so: what happens then is real work, which must not cost anybody his time.
 */
async function under<T>(clock: ManualClock, work: Promise<T>, still: () => boolean): Promise<T> {
  let over = false;
  const done = work.finally(() => {
    over = true;
  });
  done.catch(() => undefined);
  while (!over) await clock.advance(still() ? 0 : 5);
  return await done;
}

/** Tells of every frame that goes over a wire, either way. */
function watched(wire: Wire, onFrame: () => void): Wire {
  const [start, send] = [wire.start.bind(wire), wire.send.bind(wire)];
  return Object.assign(wire, {
    start: (events: TransportEvents) =>
      start({
        ...events,
        onFrame: (frame) => {
          onFrame();
          events.onFrame(frame);
        },
      }),
    send: (frames: readonly string[]) => {
      onFrame();
      send(frames);
    },
  });
}

/** A connection to the runtime, from this process. */
export type Carrier = (runtime: Runtime) => Wire;

export const overMemory: Carrier = (runtime) => {
  const pair = memoryPair({ auto: true });
  runtime.accept(pair.b);
  return Object.assign(pair.a, {
    cut: () => pair.cut(),
    stopReading: () => pair.stall("toA"),
    readAgain: () => pair.unstall("toA"),
  });
};

/** As a pipe of the system does, it hands on what is written in a later turn of the event loop. */
const pipe = () =>
  new Transform({ transform: (chunk: Buffer, _encoding, done) => void setImmediate(() => done(null, chunk)) });

export const overStdio: Carrier = (runtime) => {
  const [toRuntime, toClient] = [pipe(), pipe()];
  runtime.accept(stdioTransport({ input: toRuntime, output: toClient }, { clock: runtime.clock }));
  const client = stdioTransport({ input: toClient, output: toRuntime }, { clock: runtime.clock });
  const cut = () => {
    toRuntime.destroy();
    toClient.destroy();
  };
  return Object.assign(client, {
    cut,
    stopReading: () => void toClient.pause(),
    readAgain: () => void toClient.resume(),
  });
};

/**
 * Rules whose cases flood a runtime or start it again. They are half the cost of a run, and most faults are nothing
 * that such a case could notice: who is broken there says so by its `fails`. A good runtime runs them all.
 */
const HEAVY: readonly string[] = ["SES-14", "SES-15", "SES-16", "SES-17", "RES-11", "JOB-17"];

/** What a broken runtime is put to. */
const rulesFor = ({ fails }: BrokenRuntime): string[] =>
  conformanceRules().filter((rule) => fails.includes(rule) || !HEAVY.includes(rule));

/** Small, so that a run which meets every limit is a short one. */
const LIMITS = {
  maxSessionsPerPrincipal: 400,
  maxMessagesPerSecond: 3_000,
  maxRequestsInFlight: 400,
  maxUnreadBytes: 512 * 1024,
};

export async function runWith(carrier: Carrier, broken?: BrokenRuntime): Promise<ConformanceSummary> {
  const clock = new ManualClock();
  await using folder = await temporaryFolder();
  const auth = tokens(clock, 1_500);
  const settings = { heartbeatIntervalSec: 0.2, resumeWindowSec: 5, helloTimeoutMs: 500, ...LIMITS };
  let starts = 0;
  const start = async (): Promise<Runtime> => {
    const file = broken?.forgetful === true ? `holdfast-${starts}.db` : "holdfast.db";
    starts += 1;
    const store = sqlite(join(folder.path, file), { clock });
    const runtime = new Runtime({ store, auth, clock, ...settings, ...COMPLETE });
    runtime.agent("echo", echo).agent("burst", burst).agent("ticker", ticker).agent("survey", survey);
    runtime.agent("approve", approve).agent("relay", relay).agent("meter", meter).agent("spool", spool);
    runtime.tool("echo", (args) => args);
    await runtime.start();
    return runtime;
  };
  let runtime = await start();
  let starting = false;
  const restart = async () => {
    const before = clock.wall();
    await runtime.stop({ drainMs: 1 });
    starting = true;
    runtime = await start();
    starting = false;
    // Real work, of whatever length: it is not to cost a session its window.
    clock.stepWall(before - clock.wall());
  };
  const connect = broken?.begin();
  let isTalking = false;
  const open = async (): Promise<Wire> => {
    const wire = watched(carrier(runtime), () => {
      isTalking = true;
    });
    return connect === undefined ? wire : new Link(wire, connect());
  };
  // As long as frames come, nobody waits in vain, however long it takes to make them.
  const still = () => {
    const before = isTalking;
    isTalking = false;
    return starting || before;
  };
  const identities = { token: "alice", otherToken: "bob", expiringToken: "expiring" };
  const only = broken === undefined ? undefined : rulesFor(broken);
  const options = { ...identities, only, restart, behind: 300, concurrency: 12, timeoutMs: 15_000 };
  try {
    return await under(clock, runConformance({ open, clock, ...options }), still);
  } finally {
    await under(clock, runtime.stop({ drainMs: 1 }), () => false);
  }
}
