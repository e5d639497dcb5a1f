import { ArcpError, type Credential } from "../../protocol/index.ts";
import { handedOut } from "../handed-out.ts";
import type { CredentialKeeper } from "./keeper.ts";

/** Who holds the values. */
type Holder = Pick<CredentialKeeper, "of" | "rotate" | "hurry">;

/**
 * The credentials of a running job, as its agent sees them: `for (const { endpoint, value } of job.credentials)`.
 * Empty where the runtime has no provisioner, or the submitting session did not ask for any (CRD-1). They
 * are revoked at the job's end.
 */
export class JobCredentials implements Iterable<Credential> {
  readonly #keeper: Holder;
  readonly #jobId: string;
  readonly #told: (body: { phase: string; credential_id: string }) => Promise<void>;

  constructor(keeper: Holder, jobId: string, told: (body: { phase: string; credential_id: string }) => Promise<void>) {
    this.#keeper = keeper;
    this.#jobId = jobId;
    this.#told = told;
  }

  /** The newest ones. */
  get all(): readonly Credential[] {
    return this.#keeper.of(this.#jobId);
  }

  [Symbol.iterator](): Iterator<Credential> {
    return this.all[Symbol.iterator]();
  }

  /** @throws ArcpError INVALID_REQUEST when the job has none of that id */
  get(id: string): Credential {
    const found = this.all.find((credential) => credential.id === id);
    if (found !== undefined) return found;
    const ids = this.all.map((credential) => credential.id).join(", ") || "none";
    throw new ArcpError("INVALID_REQUEST", `id: ${JSON.stringify(id)} is no credential of this job; it has ${ids}.`);
  }

  /**
   * Has all of them issued anew, under the same ids, and tells the submitter by a `status` event
   * `credential_rotated` each. The old values are then revoked, and may be so before this resolves (CRD-10).
   */
  rotate(): Promise<readonly Credential[]> {
    return handedOut(this.#rotate());
  }

  async #rotate(): Promise<readonly Credential[]> {
    const renewed = await this.#keeper.rotate(this.#jobId);
    for (const { id } of renewed) await this.#told({ phase: "credential_rotated", credential_id: id });
    this.#keeper.hurry();
    return renewed;
  }
}
