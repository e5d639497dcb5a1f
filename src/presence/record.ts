/**
 * What the presence service knows of a process, as it travels on the wire (docs/presence.md). What a client sends is
 * read here and nowhere else: a field that is known has to be of its type, every other one is metadata and is kept as
 * it came, as long as the whole record stays small.
 */

export const SOURCE = "ActiveSessionsAPI";

export const ROLES = ["session", "detachable", "headless"] as const;
export type SessionRole = (typeof ROLES)[number];

/** What a session tells of itself. A field that is left out keeps its value. */
export interface SessionPayload {
  pid: number;
  /** @default `process PID` */
  session_name?: string | undefined;
  /** @default "session" */
  role?: SessionRole | undefined;
  frontend?: string | undefined;
  game_code?: string | undefined;
  /** Epoch seconds. Only the first one counts. @default the time of the first upsert */
  started_at?: number | undefined;
  /** @default false */
  connected?: boolean | undefined;
  /** `null` takes the listener away. @default "127.0.0.1", once there is a port */
  listener_host?: string | null | undefined;
  /** `null` takes the listener away. */
  listener_port?: number | null | undefined;
  /** @default false */
  hidden?: boolean | undefined;
  /** Grows with each start of a session in its process: what is older than a removal is refused. */
  generation?: number | undefined;
  /** Metadata: any JSON. */
  [metadata: string]: unknown;
}

/** A session as a snapshot lists it. */
export interface ListedSession {
  pid: number;
  session_name: string;
  role: SessionRole;
  frontend?: string;
  game_code?: string;
  /** Epoch seconds, as all times here. */
  started_at: number;
  last_seen_at: number;
  connected: boolean;
  listener_host?: string;
  listener_port?: number;
  hidden: boolean;
  uptime_seconds: number;
  listener: { host: string; port: number } | null;
  [metadata: string]: unknown;
}

export interface Snapshot {
  source: typeof SOURCE;
  total: number;
  connected: number;
  /** How many have a listener. */
  detachable: number;
  /** Sorted by pid. */
  sessions: ListedSession[];
  error?: string;
}

/** A snapshot without sessions: of a machine that has none, or with the reason why they are not known. */
export const emptySnapshot = (error?: string): Snapshot => ({
  source: SOURCE,
  total: 0,
  connected: 0,
  detachable: 0,
  sessions: [],
  ...(error === undefined ? {} : { error }),
});

export type Fields = ReadonlyMap<string, unknown>;

/** What goes into a record; `undefined` takes a field out of it. */
export interface Update {
  pid: number;
  startedAt: number | undefined;
  generation: number;
  fields: Fields;
}

const MAX_DEPTH = 16;
/** What the registry works out by itself. */
const DERIVED = ["pid", "started_at", "generation", "last_seen_at", "uptime_seconds", "listener"];

type Check = readonly [is: (value: unknown) => boolean, what: string];

const text: Check = [(value) => typeof value === "string" && value.length <= 256, "text of at most 256 characters"];
const flag: Check = [(value) => typeof value === "boolean", "true or false"];
const wholeFrom = (least: number, most = Number.MAX_SAFE_INTEGER): Check["0"] => {
  return (value) => Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
};

const CHECKS: Readonly<Record<string, Check>> = {
  session_name: text,
  role: [(value) => ROLES.some((role) => role === value), ROLES.join(", ")],
  frontend: text,
  game_code: text,
  started_at: [wholeFrom(0), "whole epoch seconds"],
  connected: flag,
  listener_host: text,
  listener_port: [wholeFrom(1, 65_535), "a port from 1 to 65535"],
  hidden: flag,
  generation: [wholeFrom(0), "a whole number from 0"],
};

/** Their null takes them away; any other field's null leaves it as it is. */
const CLEARED_BY_NULL = ["listener_host", "listener_port"];

const shown = (value: unknown): string => {
  const json = typeof value === "object" && value !== null ? typeof value : (JSON.stringify(value) ?? typeof value);
  return json.length <= 64 ? json : `${json.slice(0, 63)}…`;
};

function nestedWithin(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  return levels > 0 && Object.values(value).every((inner) => nestedWithin(inner, levels - 1));
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** @returns the pid, or what is wrong with it */
export function readPid(payload: unknown): number | string {
  const pid = isObject(payload) ? payload["pid"] : undefined;
  if (pid === undefined || pid === null || pid === 0) return "pid required";
  if (!wholeFrom(1, 2_147_483_647)(pid)) return `pid must be a process id, not ${shown(pid)}`;
  return pid as number;
}

/** @returns the generation of a removal, 0 where none is given, or what is wrong with it */
export function readGeneration(payload: unknown): number | string {
  const generation = isObject(payload) ? (payload["generation"] ?? 0) : 0;
  return wholeFrom(0)(generation) ? (generation as number) : `generation must be a whole number from 0`;
}

/** @returns what an upsert asks for, or what is wrong with it */
export function readPayload(payload: unknown): Update | string {
  const pid = readPid(payload);
  if (typeof pid === "string") return pid;
  const given = payload as Record<string, unknown>;
  const fields = new Map<string, unknown>();
  for (const [name, value] of Object.entries(given)) {
    if (value === null) {
      if (CLEARED_BY_NULL.includes(name)) fields.set(name, undefined);
      continue;
    }
    const check = Object.hasOwn(CHECKS, name) ? CHECKS[name] : undefined;
    if (check !== undefined && !check[0](value)) return `${name} must be ${check[1]}, not ${shown(value)}`;
    if (!nestedWithin(value, MAX_DEPTH)) return `a field is nested more than ${MAX_DEPTH} levels deep`;
    if (!DERIVED.includes(name)) fields.set(name, value);
  }
  return {
    pid,
    startedAt: (given["started_at"] ?? undefined) as number | undefined,
    generation: (given["generation"] ?? 0) as number,
    fields,
  };
}
