/**
 * The ledger of provisioned credentials: which were asked for, and which are still to be revoked. It holds
 * ids and never a value (law 8). Each has a row before its provisioner is asked, so that a crash at any point
 * leaves something to revoke. What is due is found by a query, not by anybody's memory (SPEC.md, CRD).
 */

/** One issue of credentials to one job, by the id that its provisioner knows it under. */
export interface CredentialRef {
  credentialId: string;
  jobId: string;
  /** The node that holds the values. */
  nodeId: string;
}

/** A revocation that is its claimant's to carry out. */
export interface DueRevocation {
  credentialId: string;
  jobId: string;
  /** This one included. */
  attempts: number;
}

export interface RevocationClaim {
  now: number;
  /** For how long nobody else gets the same ones: longer than a try takes. */
  claimMs: number;
  limit: number;
}

export type RevocationOutcome = { revoked: true } | { revoked: false; nextAttemptAt: number };

export interface CredentialFacet {
  /** Takes note that a provisioner is about to be asked. */
  note(ref: CredentialRef, now: number): Promise<void>;
  /**
   * The provisioner has issued it. What the same node, or one that is no longer alive, held for that job
   * before is due for revocation from now on; what another live node holds is in use there and stays.
   *
   * @returns false when it was given up meanwhile: it must not be used, and is due for revocation (again)
   */
  markLive(ref: CredentialRef, now: number): Promise<boolean>;
  /** Nobody uses it: it is due for revocation from now on. */
  giveUp(credentialId: string, now: number): Promise<void>;
  /** Whether a job has any that is issued and not to be revoked. */
  has(jobId: string): Promise<boolean>;
  /**
   * Takes revocations that are due, the longest due first: of what was given up or replaced; of jobs that
   * have ended, however they did, or are no longer kept; and of jobs that were never stored, once the node
   * that asked is no longer alive. Of several callers exactly one gets each.
   */
  claimDue(claim: RevocationClaim): Promise<DueRevocation[]>;
  /** What a claimed revocation came to. A revoked one's row stays for as long as its job is kept. */
  settle(credentialId: string, outcome: RevocationOutcome, now: number): Promise<void>;
}
