/**
 * What one seed does to conversations, as plain data: which messages arrive when, by which doors, and what happens
 * to the processes that run their turns. A longer run of the same seed begins as a shorter one does.
 */
import { Random } from "../../random.ts";

export const WORKERS = 4;
export const CONVERSATIONS = 20;
/** Whose the conversations and the messages are. */
export const PRINCIPAL = "tester";
/** How long a lock is good without a refresh, and a node without a beat. */
export const LOCK_TTL_MS = 1_500;
export const NODE_TIMEOUT_MS = 4_000;
/** The agent that only these workers offer. */
export const RARE_WORKERS: readonly number[] = [0, 1];

export type Agent = "talk" | "rare";

/** What an agent is asked to do: `n` events, one each `everyMs`. */
export interface TurnInput {
  label: string;
  n: number;
  everyMs: number;
  fails: boolean;
  /** It hears no signal. */
  deaf: boolean;
}

/** A way in: a call within a worker, or a session of the wire. */
export interface Door {
  worker: number;
  via: "call" | "wire";
}

export interface Message {
  /** The message's id. */
  label: string;
  conversation: number;
  agent: Agent;
  onBusy: "enqueue" | "interrupt" | "reject";
  input: TurnInput;
  /** More than one: the channel delivers it again, through another worker. */
  doors: Door[];
}

export type TurnOp =
  | ({ do: "message" } & Message)
  /** A worker takes the lock without a turn. */
  | { do: "hold"; worker: number; conversation: number; forMs: number }
  | { do: "kill"; worker: number; downMs: number }
  | { do: "pause"; worker: number; forMs: number }
  | { do: "drain"; worker: number; downMs: number };

export interface TurnPlan {
  seed: number;
  steps: { afterMs: number; op: TurnOp }[];
}

export function turnPlanFor(seed: number, lengthMs: number): TurnPlan {
  const random = new Random(seed);
  const steps: TurnPlan["steps"] = [];
  let messages = 0;
  for (let at = 0; at < lengthMs; ) {
    const afterMs = random.int(0, random.next() < 0.1 ? 300 : 100);
    at += afterMs;
    const kind = random.weighted({ message: 93, hold: 3, fault: 4 });
    if (kind === "message") {
      messages += 1;
      steps.push({ afterMs, op: message(random, `s${seed}m${messages}`) });
    } else if (kind === "hold") {
      const op = { do: kind, worker: worker(random), conversation: conversation(random), forMs: random.int(10, 2_000) };
      steps.push({ afterMs, op });
    } else {
      steps.push({ afterMs, op: fault(random) });
    }
  }
  return { seed, steps };
}

const worker = (random: Random) => random.int(0, WORKERS - 1);
/** Some are busier than others. */
const conversation = (random: Random) => Math.min(random.int(0, CONVERSATIONS - 1), random.int(0, CONVERSATIONS - 1));

function message(random: Random, label: string): TurnOp {
  const agent: Agent = random.next() < 0.1 ? "rare" : "talk";
  const input = turnInput(random, label);
  const copies = random.weighted({ one: 70, two: 20, three: 10 });
  const doors = Array.from(
    { length: { one: 1, two: 2, three: 3 }[copies] },
    (): Door => ({
      worker: agent === "rare" ? random.pick(RARE_WORKERS) : worker(random),
      via: random.next() < 0.4 ? "wire" : "call",
    }),
  );
  const onBusy = random.weighted({ enqueue: 84, interrupt: 8, reject: 8 });
  return { do: "message", label, conversation: conversation(random), agent, onBusy, input, doors };
}

/** What one turn is asked to do; some take longer than their lock is good, and some of these hear nothing. */
export function turnInput(random: Random, label: string): TurnInput {
  const length = random.weighted({ short: 90, "beyond the ttl": 6, deaf: 4 });
  const n = random.int(0, 6);
  return {
    label,
    n: length === "short" ? n : random.int(20, 40),
    everyMs: length === "short" ? random.int(0, 50) : random.int(60, 90),
    fails: random.next() < 0.08,
    deaf: length === "deaf",
  };
}

function fault(random: Random): TurnOp {
  const victim = worker(random);
  switch (random.weighted({ kill: 35, "short pause": 22, "beyond the ttl": 30, "beyond the node": 6, drain: 7 })) {
    case "kill":
      return { do: "kill", worker: victim, downMs: random.int(0, 1_500) };
    case "short pause":
      return { do: "pause", worker: victim, forMs: random.int(50, LOCK_TTL_MS - 300) };
    case "beyond the ttl":
      return { do: "pause", worker: victim, forMs: random.int(LOCK_TTL_MS - 100, NODE_TIMEOUT_MS - 500) };
    case "beyond the node":
      return { do: "pause", worker: victim, forMs: NODE_TIMEOUT_MS + random.int(500, 1_500) };
    case "drain":
      return { do: "drain", worker: victim, downMs: random.int(0, 500) };
  }
}
