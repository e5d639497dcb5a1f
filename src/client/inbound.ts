/**
 * Frames as they come in. Every event of every job passes here, so a frame is parsed and looked at by
 * hand: a schema would cost more than all else that the client does with an event. What is read from a
 * payload is checked where it is used.
 */
import type { AgentInfo } from "../protocol/index.ts";

/** A message whose envelope has the right shape; the optional fields are not checked. */
export interface Inbound {
  type: string;
  payload: Record<string, unknown>;
  session_id?: unknown;
  job_id?: unknown;
  trace_id?: unknown;
  event_seq?: unknown;
  extensions?: unknown;
}

/** The frame as a message, or `undefined` when it is none. */
export function readFrame(frame: string): Inbound | undefined {
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { type, payload } = value as Partial<Inbound>;
  if (typeof type !== "string" || typeof payload !== "object" || payload === null) return undefined;
  return value as Inbound;
}

/** What the client keeps of a welcome. */
export interface Welcome {
  sessionId: string;
  runtime: { name: string; version: string };
  resumeToken: string;
  resumeWindowMs: number;
  heartbeatIntervalMs: number | undefined;
  /** As offered by the runtime, known or not. */
  features: string[];
  agents: AgentInfo[];
}

/** The draft's default, for a runtime that does not say. */
const RESUME_WINDOW_SEC = 600;

const isPositive = (value: unknown): value is number => typeof value === "number" && value > 0;

function readAgents(value: unknown): AgentInfo[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((entry: unknown) => {
    const { name, versions, default: preferred } = (entry ?? {}) as Partial<AgentInfo>;
    if (typeof name !== "string") return [];
    return [
      {
        name,
        versions: Array.isArray(versions) ? versions.filter((version) => typeof version === "string") : [],
        ...(typeof preferred === "string" ? { default: preferred } : {}),
      },
    ];
  });
}

/** @throws Error when it names no session or no resume token */
export function readWelcome(message: Inbound): Welcome {
  const { payload } = message;
  const sessionId = message.session_id ?? payload["session_id"];
  if (typeof sessionId !== "string" || typeof payload["resume_token"] !== "string") {
    throw new Error("The runtime's session.welcome names no session or no resume token.");
  }
  const runtime = (payload["runtime"] ?? {}) as { name?: unknown; version?: unknown };
  const capabilities = (payload["capabilities"] ?? {}) as { features?: unknown; agents?: unknown };
  const { resume_window_sec: windowSec, heartbeat_interval_sec: intervalSec } = payload;
  return {
    sessionId,
    runtime: { name: String(runtime.name ?? "unnamed"), version: String(runtime.version ?? "") },
    resumeToken: payload["resume_token"],
    resumeWindowMs: (isPositive(windowSec) ? windowSec : RESUME_WINDOW_SEC) * 1000,
    heartbeatIntervalMs: isPositive(intervalSec) ? intervalSec * 1000 : undefined,
    features: Array.isArray(capabilities.features)
      ? capabilities.features.filter((feature) => typeof feature === "string")
      : [],
    agents: readAgents(capabilities.agents),
  };
}
