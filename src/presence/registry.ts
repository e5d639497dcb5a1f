/**
 * The sessions that an owner knows. In memory only: it dies with its owner, and each session's next heartbeat brings
 * it back to the next one. Bounded by the number of sessions and the size of each; a heartbeat leaves nothing behind.
 *
 * A session is listed for as long as its process lives, heartbeats or not: a process that is stopped or busy is there.
 * Whether it lives is looked at in each snapshot, thoroughly where its last heartbeat is a while ago (PRS-12).
 */
import type { Clock } from "../clock.ts";
import type { ProcessTable } from "./process-table.ts";
import {
  emptySnapshot,
  type Fields,
  type ListedSession,
  readGeneration,
  readPayload,
  readPid,
  type SessionRole,
  type Snapshot,
} from "./record.ts";

export type Answer = { ok: true; payload: unknown } | { ok: false; error: string };

export interface RegistryOptions {
  clock: Clock;
  processes: ProcessTable;
  /** A session that was looked at within so long is believed to be the same process while its pid is in use. */
  trustMs: number;
}

export const MAX_SESSIONS = 4_096;
export const MAX_RECORD_BYTES = 4_096;

interface Entry {
  readonly fields: Fields;
  readonly startedAt: number;
  /** Its uptime when it came, and when that was: a step of the wall clock makes nobody older. */
  readonly uptimeMs: number;
  readonly since: number;
  readonly lastSeenAt: number;
  readonly generation: number;
  readonly startTime: string | undefined;
  checkedAt: number;
}

const refused = (error: string): Answer => ({ ok: false, error });

export class Registry {
  readonly #clock: Clock;
  readonly #processes: ProcessTable;
  readonly #trustMs: number;
  readonly #entries = new Map<number, Entry>();
  /** Of sessions that were removed while their processes live: which generation of them is over. */
  readonly #over = new Map<number, { generation: number; startTime: string | undefined }>();

  constructor(options: RegistryOptions) {
    this.#clock = options.clock;
    this.#processes = options.processes;
    this.#trustMs = options.trustMs;
  }

  get size(): number {
    return this.#entries.size;
  }

  upsert(payload: unknown): Answer {
    const update = readPayload(payload);
    if (typeof update === "string") return refused(update);
    const { pid, generation } = update;
    const wall = this.#clock.wall();
    const monotonic = this.#clock.monotonic();
    const known = this.#entries.get(pid);
    // Of a flood of updates not each needs another look.
    const trusted =
      known !== undefined && monotonic - known.checkedAt < this.#trustMs / 2 && this.#processes.inUse(pid);
    const found = trusted ? ({ state: "alive", startTime: known.startTime } as const) : this.#processes.look(pid);
    if (found.state === "gone") return refused(`no process ${pid} runs`);
    if (found.state === "foreign") return refused(`process ${pid} is another user's`);
    const { startTime } = found;
    const over = this.#over.get(pid);
    if (over !== undefined && over.startTime === startTime && generation !== 0 && generation <= over.generation) {
      return refused("the session was stopped");
    }
    const before = known?.startTime === startTime ? known : undefined;
    if (before === undefined && known === undefined && this.#entries.size >= MAX_SESSIONS) {
      this.sweep();
      if (this.#entries.size >= MAX_SESSIONS) return refused(`there are ${MAX_SESSIONS} sessions already`);
    }
    if (before !== undefined && generation !== 0 && generation < before.generation) {
      return refused("the session was started anew");
    }
    const fields = new Map(before?.fields);
    for (const [name, value] of update.fields) {
      if (value === undefined) fields.delete(name);
      else fields.set(name, value);
    }
    // Without its port a listener is none.
    if (!fields.has("listener_port")) fields.delete("listener_host");
    else if (!fields.has("listener_host")) {
      if (update.fields.has("listener_host")) fields.delete("listener_port");
      else fields.set("listener_host", "127.0.0.1");
    }
    const bytes = Buffer.byteLength(JSON.stringify(Object.fromEntries(fields)));
    if (bytes > MAX_RECORD_BYTES) return refused(`a record is at most ${MAX_RECORD_BYTES} bytes, not ${bytes}`);
    const lastSeenAt = Math.floor(wall / 1_000);
    const startedAt = before?.startedAt ?? update.startedAt ?? lastSeenAt;
    this.#entries.set(pid, {
      fields,
      startedAt,
      uptimeMs: before?.uptimeMs ?? Math.max(0, wall - startedAt * 1_000),
      since: before?.since ?? monotonic,
      lastSeenAt,
      generation: Math.max(generation, before?.generation ?? 0),
      startTime,
      checkedAt: trusted ? known.checkedAt : monotonic,
    });
    return { ok: true, payload: { pid, started_at: startedAt } };
  }

  remove(payload: unknown): Answer {
    const pid = readPid(payload);
    if (typeof pid === "string") return refused(pid);
    const generation = readGeneration(payload);
    if (typeof generation === "string") return refused(generation);
    const entry = this.#entries.get(pid);
    // Whoever was started anew meanwhile is not meant.
    if (entry !== undefined && generation !== 0 && generation < entry.generation) {
      return { ok: true, payload: { pid, removed: false } };
    }
    const removed = this.#entries.delete(pid);
    if (generation !== 0) this.#remember(pid, generation);
    return { ok: true, payload: { pid, removed } };
  }

  snapshot(): Snapshot {
    this.sweep();
    const sessions = [...this.#entries].sort(([a], [b]) => a - b).map(([pid, entry]) => this.#listed(pid, entry));
    return {
      ...emptySnapshot(),
      total: sessions.length,
      connected: sessions.filter((session) => session.connected).length,
      detachable: sessions.filter((session) => session.listener !== null).length,
      sessions,
    };
  }

  /** Drops the sessions whose processes are gone. */
  sweep(): void {
    const now = this.#clock.monotonic();
    for (const [pid, entry] of this.#entries) if (!this.#lives(pid, entry, now)) this.#entries.delete(pid);
    for (const pid of this.#over.keys()) if (!this.#processes.inUse(pid)) this.#over.delete(pid);
  }

  #lives(pid: number, entry: Entry, now: number): boolean {
    if (!this.#processes.inUse(pid)) return false;
    if (now - entry.checkedAt < this.#trustMs) return true;
    const found = this.#processes.look(pid);
    if (found.state !== "alive" || found.startTime !== entry.startTime) return false;
    entry.checkedAt = now;
    return true;
  }

  #remember(pid: number, generation: number): void {
    const found = this.#processes.look(pid);
    if (found.state !== "alive") return;
    const before = this.#over.get(pid);
    const known = before !== undefined && before.startTime === found.startTime ? before.generation : 0;
    this.#over.delete(pid);
    this.#over.set(pid, { generation: Math.max(known, generation), startTime: found.startTime });
    if (this.#over.size > MAX_SESSIONS) this.#over.delete(this.#over.keys().next().value ?? pid);
  }

  #listed(pid: number, entry: Entry): ListedSession {
    const { fields } = entry;
    const host = fields.get("listener_host") as string | undefined;
    const port = fields.get("listener_port") as number | undefined;
    return {
      session_name: `process ${pid}`,
      ...Object.fromEntries(fields),
      pid,
      role: (fields.get("role") ?? "session") as SessionRole,
      connected: fields.get("connected") === true,
      hidden: fields.get("hidden") === true,
      started_at: entry.startedAt,
      last_seen_at: entry.lastSeenAt,
      uptime_seconds: Math.floor((entry.uptimeMs + this.#clock.monotonic() - entry.since) / 1_000),
      listener: host === undefined || port === undefined ? null : { host, port },
    };
  }
}
