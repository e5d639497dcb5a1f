/** What every request of a session brings to the store, and what it leaves there (SPEC.md, STO-4 and ENV-8). */

/** The fence of everything that a connection writes. */
export interface ConnectionRef {
  sessionId: string;
  /** Grows at each welcome. */
  connectionEpoch: number;
}

/** What every request of a session brings: the fence and the identity of the envelope. */
export interface RequestRef extends ConnectionRef {
  /** The envelope's `id`: processed once per session (ENV-8). */
  messageId: string;
  now: number;
}

/** A request whose sender may have been told by now that nothing was done (STO-12). */
export interface Abandonable {
  /** Asked inside the transaction, before anything is written; then the request is refused as `abandoned`. Pure. */
  abandoned?: (() => boolean) | undefined;
}

/** A reply to be stored: the whole frame without credential values (law 8). */
export interface ReplyDraft {
  frame: string;
}

/** The same request was processed before: its reply as stored, or `undefined` if it had none. */
export interface Duplicate {
  outcome: "duplicate";
  frame: string | undefined;
}
