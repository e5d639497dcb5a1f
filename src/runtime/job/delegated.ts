/** A delegation as the agent that asks for it sees it (SPEC.md, DEL). */
import type { Lease } from "../../protocol/index.ts";

export interface DelegateOptions {
  /** What the child may do, of what the parent may. @default nothing */
  lease?: Lease | undefined;
  /** ISO 8601 in UTC; not later than the parent's. @default the parent's */
  expiresAt?: string | undefined;
  maxRuntimeMs?: number | undefined;
  /** What the parent's events call this delegation; unique within the parent. @default made up */
  delegateId?: string | undefined;
}

/** A child job, as its parent has it. */
export interface Delegated {
  readonly jobId: string;
  readonly delegateId: string;
  /** `name@version`. */
  readonly agent: string;
  /**
   * The child's result; one that it sent in chunks as text, or as bytes.
   * Rejects with an `ArcpError`: the child's own error, or CANCELLED.
   */
  readonly result: Promise<unknown>;
  cancel(reason?: string): void;
}
