/**
 * What one seed does to a cluster, as plain data: jobs, readers and turns of a few clients, and what happens to the
 * nodes, to their ways to the database and to the database itself. A longer run of a seed begins as a shorter one does.
 */
import { Random } from "../../random.ts";
import type { JobInput } from "../journal.ts";
import type { Direction, Plan } from "../plan.ts";
import { type Message, type TurnInput, turnInput } from "../turns/plan.ts";

export const NODES = 3;
export const CLIENTS = 4;
const CONVERSATIONS = 6;

export type ClusterWork =
  /** `paging` and `tale` are run again elsewhere when their node is lost. By two clients at once with `twice`. */
  | { do: "submit"; client: number; agent: "counting" | "paging"; input: JobInput; keyed: boolean; twice: boolean }
  | { do: "turn"; client: number; agent: "talk" | "tale"; turn: Turn; input: TurnInput; twice: boolean }
  | { do: "subscribe"; client: number; pick: number; history: boolean }
  | { do: "cancel"; client: number; pick: number };

interface Turn {
  conversation: number;
  onBusy: Message["onBusy"];
}

/** How a node is cut off: see link.ts. */
export type Cut = "closed" | "silent" | "deaf";

export type ClusterFault =
  | { do: "kill"; node: number; downMs: number }
  | { do: "stop"; node: number; forMs: number }
  | { do: "drain"; node: number; downMs: number }
  /** The connection on which it hears what other nodes have changed. */
  | { do: "cut bus"; node: number; as: Cut; forMs: number }
  | { do: "cut database"; node: number; as: Cut; forMs: number }
  /** As its administrator does, with everybody connected. */
  | { do: "restart database"; downMs: number }
  /** One of its processes is killed, and so it drops everything and recovers. */
  | { do: "crash database" }
  | { do: "cut client"; client: number }
  | { do: "cut client after"; client: number; direction: Direction; bytes: number }
  /** The client's side is gone, and its node does not learn of it: it resumes elsewhere, and takes over. */
  | { do: "half open client"; client: number; forMs: number }
  | { do: "kill client"; client: number; downMs: number };

export type ClusterOp = ClusterWork | ClusterFault;
type FaultKind = ClusterFault["do"];

export interface ClusterPlan {
  seed: number;
  name: ClusterName;
  lengthMs: number;
  nodeTimeoutMs: number;
  clients: { features: Plan["clients"][number]["features"]; slow: boolean }[];
  chop: Plan["chop"];
  steps: { afterMs: number; op: ClusterOp }[];
}

const ON_CLIENTS: Partial<Record<FaultKind, number>> = {
  "cut client": 2,
  "cut client after": 3,
  "half open client": 2,
  "kill client": 1,
};

/** How likely each fault is. */
const KINDS = {
  storm: {
    kill: 4,
    stop: 3,
    drain: 2,
    "cut bus": 3,
    "cut database": 4,
    "restart database": 1,
    "crash database": 1,
    ...ON_CLIENTS,
  },
  nodes: { kill: 5, stop: 4, drain: 3, ...ON_CLIENTS },
  links: { "cut bus": 5, "cut database": 6, ...ON_CLIENTS },
  // Nobody may be taken for dead here.
  outage: { "restart database": 3, "crash database": 3, "cut bus": 2, ...ON_CLIENTS },
} as const satisfies Record<string, Partial<Record<FaultKind, number>>>;

export type ClusterName = keyof typeof KINDS;
const NAMES = Object.keys(KINDS) as ClusterName[];

const NODE_TIMEOUT_MS = 3_000;
/** Longer than a machine that is busy keeps a process from its heartbeat. */
const PATIENT_NODE_TIMEOUT_MS = 10_000;

const LOSES_NODES: readonly ClusterOp["do"][] = ["kill", "stop", "cut database"];
/** Whether any node may be taken for dead. */
export const losesNodes = ({ steps }: ClusterPlan): boolean => steps.some(({ op }) => LOSES_NODES.includes(op.do));

export function clusterPlanFor(seed: number, lengthMs: number): ClusterPlan {
  const random = new Random(seed);
  const name = NAMES[(seed - 1) % NAMES.length] as ClusterName;
  const clients = Array.from({ length: CLIENTS }, () => ({
    features: random.weighted({ all: 6, "no progress": 2, "no ack": 1 }),
    slow: random.next() < 0.2,
  }));
  const chop = random.weighted({ none: 3, split: 2, merge: 1 });
  const steps: ClusterPlan["steps"] = [];
  for (let at = 0, number = 1; at < lengthMs; number += 1) {
    const afterMs = random.int(0, random.next() < 0.1 ? 400 : 150);
    at += afterMs;
    const op =
      random.next() < 0.88
        ? work(random, `s${seed}w${number}`)
        : fault(random, random.weighted(KINDS[name] as Record<FaultKind, number>));
    steps.push({ afterMs, op });
  }
  const nodeTimeoutMs = name === "outage" ? PATIENT_NODE_TIMEOUT_MS : NODE_TIMEOUT_MS;
  return { seed, name, lengthMs, nodeTimeoutMs, clients, chop, steps };
}

function work(random: Random, label: string): ClusterWork {
  const client = random.int(0, CLIENTS - 1);
  switch (random.weighted({ turn: 8, counting: 3, paging: 3, subscribe: 3, cancel: 1 })) {
    case "turn": {
      const conversation = Math.min(random.int(0, CONVERSATIONS - 1), random.int(0, CONVERSATIONS - 1));
      const onBusy = random.weighted({ enqueue: 80, interrupt: 10, reject: 10 });
      const twice = random.next() < 0.2;
      const agent = random.next() < 0.4 ? "tale" : "talk";
      return { do: "turn", client, agent, turn: { conversation, onBusy }, input: turnInput(random, label), twice };
    }
    case "counting": {
      const burst = random.next() < 0.3;
      const keyed = random.next() < 0.4;
      const input = {
        label,
        n: burst ? random.int(100, 600) : random.int(5, 80),
        bytes: random.int(10, 300),
        everyMs: burst ? 0 : random.int(5, 40),
      };
      return { do: "submit", client, agent: "counting", input, keyed, twice: keyed && random.next() < 0.4 };
    }
    case "paging": {
      const keyed = random.next() < 0.5;
      const input = { label, n: random.int(5, 60), bytes: random.int(10, 100), everyMs: random.int(5, 80) };
      return { do: "submit", client, agent: "paging", input, keyed, twice: keyed && random.next() < 0.4 };
    }
    case "subscribe":
      return { do: "subscribe", client, pick: random.next(), history: random.next() < 0.75 };
    case "cancel":
      return { do: "cancel", client, pick: random.next() };
  }
}

function fault(random: Random, kind: FaultKind): ClusterFault {
  const node = random.int(0, NODES - 1);
  const client = random.int(0, CLIENTS - 1);
  const as = random.pick(["closed", "silent", "deaf"] as const);
  switch (kind) {
    case "kill":
      return { do: kind, node, downMs: random.int(0, 1_500) };
    case "stop":
      return { do: kind, node, forMs: random.next() < 0.5 ? random.int(100, 2_500) : random.int(3_300, 5_500) };
    case "drain":
      return { do: kind, node, downMs: random.int(0, 500) };
    case "cut bus":
      return { do: kind, node, as, forMs: random.int(500, 8_000) };
    case "cut database":
      return { do: kind, node, as, forMs: random.next() < 0.6 ? random.int(100, 2_000) : random.int(3_300, 6_000) };
    case "restart database":
      return { do: kind, downMs: random.int(0, 3_000) };
    case "crash database":
      return { do: kind };
    case "cut client":
      return { do: kind, client };
    case "cut client after":
      return random.next() < 0.3
        ? { do: kind, client, direction: "up", bytes: random.int(0, 2_000) }
        : { do: kind, client, direction: "down", bytes: random.int(0, 40_000) };
    case "half open client":
      return { do: kind, client, forMs: random.int(100, 3_000) };
    case "kill client":
      return { do: kind, client, downMs: random.int(0, 800) };
  }
}
