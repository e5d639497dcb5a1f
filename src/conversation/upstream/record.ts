/**
 * What an upstream session is kept for: a conversation of ours, a row of the host's own table, or anything else that
 * can hold an id and be locked. Ours are made by `Conversations.upstream`, `sqliteTable` and `postgresTable`.
 */
import type { Backend } from "./backend.ts";
import { UpstreamError } from "./errors.ts";

export interface UpstreamRecord {
  readonly id: string;
  /** Given to the backend as its session's title. */
  readonly title: string;
  /** As it was last read; a blank one counts as none. */
  readonly upstreamSessionId: string | null | undefined;
  /**
   * Runs `work` while nobody else, in whatever process, runs any under this record's lock. Re-reads the record
   * first. What `update` wrote stands when this has resolved.
   */
  withLock<T>(work: () => Promise<T>): Promise<T>;
  /** Called under the lock. A unique violation, or an AnotherWorkerWon, says that another session stands. */
  update(fields: { upstreamSessionId: string }): Promise<void>;
  reload(): Promise<void>;
  /** Notes that the backend does not know this session any more; where nothing keeps that, absent. */
  lost?(upstreamSessionId: string): Promise<void>;
  /** Where sessions are noted before they are made. Without one, a crash leaves some that nobody finds. */
  readonly ledger?: RecordLedger | undefined;
}

export interface RecordLedger {
  /**
   * Called under the lock, right before the create call, which is then to start at once.
   *
   * @returns the nonce under which the session is noted
   */
  intend(backend: Backend): Promise<string>;
  /** The session is nobody's, and about to be deleted. */
  doom(backend: Backend, session: { upstreamSessionId: string; nonce: string }): Promise<void>;
  /** Nothing of it is left upstream. */
  gone(backend: Backend, session: { upstreamSessionId: string } | { nonce: string }): Promise<void>;
}

/** Rides in the upstream session, so that one whose maker died is found; never to be guessed. */
export const newNonce = (): string => `holdfast-${crypto.randomUUID()}`;

/** A blank id counts as none. @throws UpstreamError invalid_record for one that is no text */
export function idOf({ id, upstreamSessionId: value }: { id: string; upstreamSessionId: unknown }): string | undefined {
  if (value === null || value === undefined) return undefined;
  if (typeof value === "string") return value.trim() === "" ? undefined : value;
  throw new UpstreamError("invalid_record", id, `record ${id}: its session id is a ${typeof value}, not a text`);
}
