/**
 * Passes: what stands for an identity for a while, at every node. A page's login is one, and a ticket (SPEC.md, SRV-21,
 * SRV-27). The store has them under the hash of what only their holders have, and does not read their content.
 */

export type PassKind = "login" | "ticket";

export interface NewPass {
  kind: PassKind;
  /** Of what its holder has. No two passes have the same. */
  hash: string;
  principal: string;
  /** Kept and returned as it is. */
  content: string;
  ttlMs: number;
  /** What a principal may have of this kind; with one more its oldest goes. */
  most: number;
  now: number;
}

export interface PassQuery {
  kind: PassKind;
  hash: string;
  now: number;
}

/** Passes that are kept; above, the janitor removes the oldest. */
export const MAX_STORED_PASSES = 100_000;

export interface PassFacet {
  add(pass: NewPass): Promise<void>;
  /** @returns the content; nothing for a pass that is unknown, over, or of another kind */
  find(query: PassQuery): Promise<string | undefined>;
  /** The same, and the pass is gone: of several that take it one gets it. */
  take(query: PassQuery): Promise<string | undefined>;
}
