/**
 * Ties between our conversations and the sessions of agent backends, and the ledger of what was made upstream and
 * may have to go again. One rule carries it: what is about to be made is noted first, under a nonce that rides in the
 * upstream session. Whoever binds and whoever sweeps go through that note, by compare-and-set, so one of them wins;
 * the other deletes.
 */

/** `unbound` has no row; the generation grows with every change of state. */
export type BindingState = "unbound" | "binding" | "bound" | "lost" | "released";

export interface BindingRef {
  conversationId: string;
  /** The backend's name: a conversation may have a session with each. */
  backend: string;
}

export interface BindingRecord extends BindingRef {
  state: BindingState;
  generation: number;
  /** Whose the conversation is; while `binding`, the one that it had, which is good until it is replaced. */
  upstreamId: string | undefined;
  /** Since when; 0 while there is no row. */
  changedAt: number;
}

/** The right to bind, as {@link BindingFacet.claim} gave it. */
export interface BindingClaim extends BindingRef {
  generation: number;
  nonce: string;
}

/** A session upstream that is not, or not yet, known to be anybody's. */
export interface UpstreamDebt {
  /** Grows in the order of the notes. */
  debtId: number;
  backend: string;
  /** `conversation`, or the user's table. */
  owner: string;
  recordId: string;
  /**
   * `swept`: it is nobody's and is to be deleted, by its id or, where none is known, by its nonce.
   * `persisting`: its maker was about to commit it to a table that is not ours; that table knows.
   */
  state: "swept" | "persisting";
  nonce: string | undefined;
  upstreamId: string | undefined;
}

export interface BindingCensus {
  bound: number;
  binding: number;
  lost: number;
  /** Debts that are noted, due or not. */
  debts: number;
}

export interface BindingFacet {
  get(ref: BindingRef): Promise<BindingRecord>;
  /** How many there are of what, for whoever looks after them. */
  census(): Promise<BindingCensus>;
  /**
   * Takes the right to bind, and notes the nonce, in one commit. `undefined` while somebody else has it; one who has
   * had it since `staleBefore` has lost it, and what carries his nonce is swept.
   *
   * @returns the binding as it is now, with the session that the conversation has, if it has one
   * @throws StoreRefusal unknown_conversation; limit_exceeded when that many of its nonces are noted and not gone yet
   */
  claim(
    given: BindingRef & { nonce: string; staleBefore: number; maxNoted: number; now: number },
  ): Promise<BindingRecord | undefined>;
  /**
   * The claim's session is the conversation's, and the one that it replaces is to be deleted. Binding what is bound
   * already succeeds.
   *
   * @returns false when the claim was lost: to the sweep, to somebody else, or with the conversation
   */
  bind(claim: BindingClaim & { upstreamId: string; now: number }): Promise<boolean>;
  /**
   * Gives a claim back: the binding is as it was. With `mayExist` the nonce stays noted, to be swept in its time.
   * Does nothing for a claim that was lost.
   */
  unclaim(claim: BindingClaim & { mayExist: boolean; now: number }): Promise<void>;
  /** The backend does not know the session any more. False when the conversation has another one by now. */
  lose(given: BindingRef & { upstreamId: string; now: number }): Promise<boolean>;

  /**
   * Notes a nonce for a record of a table that is not ours, before the session is made.
   *
   * @throws StoreRefusal limit_exceeded when that many of its nonces are noted and not gone yet
   */
  intend(given: {
    owner: string;
    recordId: string;
    backend: string;
    nonce: string;
    maxNoted: number;
    now: number;
  }): Promise<void>;
  /**
   * `creating → persisting`: the session is made, and about to be committed to the record in place of `replaces`.
   *
   * @returns false when the sweep took it
   */
  persist(given: { nonce: string; upstreamId: string; replaces: string | undefined }): Promise<boolean>;
  /**
   * Ends a `persisting` one: of the session and the one that it was to replace, those that the record does not hold
   * are to be deleted. Does nothing when it has ended.
   */
  settle(given: { nonce: string; holds: string | undefined; now: number }): Promise<void>;

  /** A session that is nobody's: it is swept, and so is the note under which it was made. */
  doom(given: {
    owner: string;
    recordId: string;
    backend: string;
    nonce: string | undefined;
    upstreamId: string;
    now: number;
  }): Promise<void>;
  /** Nothing of it is left upstream. */
  gone(given: { backend: string } & ({ upstreamId: string } | { nonce: string })): Promise<void>;
  /**
   * Takes the notes made up to `madeBefore`: `creating → swept`, and a binding that waits for one is as it was.
   *
   * @returns what is due, in order, from behind `after`: what is swept and has an id; of what has none, and of what is
   *   `persisting`, only what is that old, for its maker may be at it
   */
  sweep(given: {
    backend: string;
    madeBefore: number;
    after: number;
    limit: number;
    now: number;
  }): Promise<UpstreamDebt[]>;
}
