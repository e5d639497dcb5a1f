/** Sessions as they are shown: who keeps one, whether it is attached, and how far behind its client is. */

export interface SessionRecord {
  sessionId: string;
  principal: string;
  clientName: string;
  clientVersion: string;
  createdAt: number;
  connectionEpoch: number;
  /** The node that serves its connection; `undefined` while it has none. */
  nodeId: string | undefined;
  /** Until when it can be resumed; `undefined` while it has a connection. */
  resumableUntil: number | undefined;
  /** The newest `event_seq` that was given. */
  lastSeq: number;
  ackedSeq: number;
  /** Jobs that it follows. */
  follows: number;
  /** Events of these jobs that are stored and have no number here yet. */
  undelivered: number;
}

export interface SessionListQuery {
  /** Only sessions of this principal; `undefined`: everybody's. */
  principal: string | undefined;
  /** 1 to 1000. */
  limit: number;
  /** What the page before ended with. */
  cursor?: string | undefined;
  now: number;
}

/** Newest first; those whose resume window is over are left out. */
export interface SessionListPage {
  sessions: SessionRecord[];
  /** Present when there is more. */
  nextCursor: string | undefined;
}
