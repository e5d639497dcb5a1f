/**
 * What one seed does, as plain data: which processes there are, and which work and which faults come
 * when. Only the timing of the real processes is not in it, so a seed that fails is worth running again.
 */
import { Random } from "../random.ts";

/** Something that a client does. `pick` chooses among the jobs that are known by then, in [0, 1). */
export type Work =
  | { do: "submit"; client: number; label: string; n: number; bytes: number; everyMs: number; keyed: boolean }
  /** The same key by two clients at once. */
  | { do: "twins"; label: string; n: number; bytes: number; everyMs: number }
  | { do: "subscribe"; client: number; pick: number; history: boolean }
  | { do: "cancel"; client: number; pick: number };

export type Direction = "up" | "down";

export type Fault =
  | { do: "cut"; client: number }
  | { do: "cut after"; client: number; direction: Direction; bytes: number }
  /** What the server says is lost, until the connection is cut; what the client says arrives. */
  | { do: "deaf"; client: number; forMs: number }
  /** Cuts, and cuts the next connection after so many bytes: in its upgrade, its hello, its welcome. */
  | { do: "cut next"; client: number; direction: Direction; bytes: number }
  /** The client's side is gone, and the server does not learn of it. */
  | { do: "half open"; client: number; forMs: number }
  | { do: "stall"; client: number; forMs: number }
  | { do: "lose welcomes"; client: number; count: number }
  /** A hello that arrives behind the one that was said after it. */
  | { do: "late hello"; client: number; byMs: number }
  /** To the other server, by a cut or by a takeover. */
  | { do: "hop"; client: number; server: number; takeover: boolean }
  | { do: "kill server"; server: number; downMs: number }
  | { do: "stop server"; server: number; forMs: number }
  | { do: "drain server"; server: number; downMs: number }
  | { do: "kill client"; client: number; downMs: number }
  | { do: "stop client"; client: number; forMs: number }
  | { do: "fill disk"; forMs: number }
  | { do: "lock file"; forMs: number }
  | { do: "step clock"; server: number; byMs: number };

export interface Step {
  /** After the step before it. */
  afterMs: number;
  op: Work | Fault;
}

export interface Plan {
  seed: number;
  name: ScenarioName;
  servers: number;
  /** What each client offers, and how it reads. */
  clients: { features: "all" | "no progress" | "no ack"; slow: boolean }[];
  /** Whether the file lies on a small disk of its own, where that can be had. */
  ownDisk: boolean;
  /** How the proxies cut the byte stream into pieces. */
  chop: "none" | "split" | "merge";
  /** Whether a newcomer reads every job from its start when all is over. */
  audit: boolean;
  steps: Step[];
}

type FaultKind = Fault["do"];
type Weights = Partial<Record<FaultKind, number>>;

const SOCKETS: Weights = { cut: 3, "cut after": 5, "cut next": 2, deaf: 2, "half open": 2, stall: 1 };

type Range = readonly [least: number, most: number];

interface Kind {
  servers: Range;
  /** @default 1 to 3 */
  clients?: Range;
  faults: Weights;
}

/** Each scenario: how many processes it may have, and how likely each fault is. */
const SCENARIOS = {
  cuts: { servers: [1, 1], faults: { cut: 3, "cut after": 6, "cut next": 3, "half open": 2 } },
  welcome: { servers: [1, 2], faults: { "lose welcomes": 5, "cut next": 3, "cut after": 2, hop: 1 } },
  "late-hello": { servers: [1, 2], faults: { "late hello": 5, cut: 1, "half open": 1 } },
  stall: { servers: [1, 1], faults: { stall: 4, cut: 1, "half open": 2 } },
  "server-kill": { servers: [1, 2], faults: { "kill server": 3, "drain server": 1, cut: 1, "cut after": 1 } },
  "server-stop": { servers: [1, 2], faults: { "stop server": 3, hop: 1, "cut after": 1 } },
  "client-kill": { servers: [1, 1], faults: { "kill client": 4, "cut after": 1 } },
  "client-stop": { servers: [1, 1], faults: { "stop client": 4, "cut after": 1 } },
  hop: { servers: [2, 2], faults: { hop: 8, "cut after": 2, "cut next": 1, deaf: 1 } },
  keys: {
    servers: [1, 2],
    clients: [2, 3],
    faults: { "cut after": 3, "cut next": 1, deaf: 2, hop: 2, "kill client": 1, "kill server": 1 },
  },
  "full-disk": { servers: [1, 2], faults: { "fill disk": 3, cut: 1, hop: 1 } },
  lock: { servers: [1, 2], faults: { "lock file": 3, cut: 1, hop: 1 } },
  clock: { servers: [1, 2], faults: { "step clock": 5, cut: 1, hop: 1, "kill server": 1 } },
  storm: {
    servers: [2, 2],
    faults: {
      ...SOCKETS,
      "lose welcomes": 2,
      hop: 4,
      "kill server": 2,
      "stop server": 1,
      "drain server": 1,
      "kill client": 2,
      "stop client": 1,
      "fill disk": 1,
      "lock file": 1,
      "step clock": 1,
    },
  },
} as const satisfies Record<string, Kind>;

export type ScenarioName = keyof typeof SCENARIOS;
export const SCENARIO_NAMES = Object.keys(SCENARIOS) as ScenarioName[];

const HOUR_MS = 3_600_000;
const HIT_STORE: readonly FaultKind[] = ["fill disk", "lock file"];

/** @param only the scenario to be; by default the seed takes its turn among all */
export function planFor(seed: number, only?: ScenarioName): Plan {
  const random = new Random(seed);
  const name = only ?? (SCENARIO_NAMES[seed % SCENARIO_NAMES.length] as ScenarioName);
  const { servers: serverRange, clients: clientRange = [1, 3], faults } = SCENARIOS[name] as Kind;
  const servers = random.int(...serverRange);
  const clients = Array.from({ length: random.int(...clientRange) }, () => ({
    features: random.weighted({ all: 6, "no progress": 2, "no ack": 1 }),
    slow: random.next() < 0.2,
  }));
  const steps: Step[] = [];
  for (const [client] of clients.entries()) {
    steps.push({ afterMs: 0, op: submit(random, client, `s${seed}c${client}`) });
  }
  const count = random.int(5, 10);
  for (let index = 0; index < count; index += 1) {
    const afterMs = random.int(0, random.next() < 0.3 ? 700 : 250);
    const label = `s${seed}w${index}`;
    if (random.next() < 0.45) {
      const ops = work(random, clients.length, label, "cut after" in faults);
      steps.push(...ops.map((op, place) => ({ afterMs: place === 0 ? afterMs : 0, op })));
      continue;
    }
    const op = fault(random, random.weighted(faults as Record<FaultKind, number>), servers, clients.length);
    steps.push({ afterMs, op });
    // What is asked while the store is out of reach is where answers and deeds may part.
    const client = random.int(0, clients.length - 1);
    if (HIT_STORE.includes(op.do)) steps.push({ afterMs: random.int(20, 400), op: submit(random, client, label) });
  }
  if (!steps.some(({ op }) => op.do in faults)) {
    const kind = random.weighted(faults as Record<FaultKind, number>);
    steps.push({ afterMs: random.int(0, 250), op: fault(random, kind, servers, clients.length) });
  }
  return {
    seed,
    name,
    servers,
    clients,
    ownDisk: steps.some(({ op }) => op.do === "fill disk") && random.next() < 0.5,
    chop: random.weighted({ none: 3, split: 2, merge: 1 }),
    audit: random.next() < 0.4,
    steps,
  };
}

function submit(random: Random, client: number, label: string): Work {
  const burst = random.next() < 0.5;
  return {
    do: "submit",
    client,
    label,
    n: burst ? random.int(100, 1_500) : random.int(5, 80),
    bytes: random.int(10, 300),
    everyMs: burst ? 0 : random.int(5, 40),
    keyed: random.next() < 0.4,
  };
}

/** One piece of work; the answer to a submit may get lost. */
function work(random: Random, clients: number, label: string, mayBeLost: boolean): (Work | Fault)[] {
  const client = random.int(0, clients - 1);
  const deaf: Fault = { do: "deaf", client, forMs: random.int(20, 300) };
  const first = mayBeLost && random.next() < 0.4 ? [deaf] : [];
  switch (random.weighted({ submit: 5, twins: clients > 1 ? 2 : 0, subscribe: 3, cancel: 2 })) {
    case "submit":
      return [...first, submit(random, client, label)];
    case "twins":
      return [
        ...first,
        { do: "twins", label, n: random.int(5, 60), bytes: random.int(10, 200), everyMs: random.int(5, 30) },
      ];
    case "subscribe":
      return [{ do: "subscribe", client, pick: random.next(), history: random.next() < 0.75 }];
    case "cancel":
      return [{ do: "cancel", client, pick: random.next() }];
  }
}

function fault(random: Random, kind: FaultKind, servers: number, clients: number): Fault {
  const client = random.int(0, clients - 1);
  const server = random.int(0, servers - 1);
  switch (kind) {
    case "cut":
      return { do: kind, client };
    case "cut after":
      return random.next() < 0.3
        ? { do: kind, client, direction: "up", bytes: random.int(0, 2_000) }
        : { do: kind, client, direction: "down", bytes: random.int(0, 40_000) };
    case "deaf":
      return { do: kind, client, forMs: random.int(20, 500) };
    case "cut next":
      return { do: kind, client, direction: random.pick(["up", "down"]), bytes: random.int(0, 1_500) };
    case "half open":
      return { do: kind, client, forMs: random.int(100, 3_000) };
    case "stall":
      return { do: kind, client, forMs: random.int(100, 4_000) };
    case "lose welcomes":
      return { do: kind, client, count: random.int(1, 9) };
    case "late hello":
      return { do: kind, client, byMs: random.int(0, 300) };
    case "hop":
      return { do: kind, client, server, takeover: random.next() < 0.5 };
    case "kill server":
      return { do: kind, server, downMs: random.int(0, 800) };
    case "drain server":
      return { do: kind, server, downMs: random.int(0, 300) };
    case "stop server":
      return { do: kind, server, forMs: random.next() < 0.25 ? random.int(4_500, 6_000) : random.int(200, 2_500) };
    case "kill client":
      return { do: kind, client, downMs: random.int(0, 800) };
    case "stop client":
      return { do: kind, client, forMs: random.int(200, 4_000) };
    case "fill disk":
      return { do: kind, forMs: random.int(200, 4_000) };
    case "lock file":
      return { do: kind, forMs: random.next() < 0.5 ? random.int(1_200, 2_800) : random.int(500, 6_000) };
    case "step clock":
      return { do: kind, server, byMs: random.pick([-HOUR_MS, HOUR_MS]) };
  }
}
