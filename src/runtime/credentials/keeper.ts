import { type Clock, sleep, type Timer } from "../../clock.ts";
import type { Logger } from "../../logger.ts";
import {
  ArcpError,
  type Credential,
  isFinal,
  type Lease,
  newCredentialId,
  type StoredCredential,
} from "../../protocol/index.ts";
import type { CredentialRef, DueRevocation, Store } from "../../store/store.ts";
import type { Masking } from "./masking.ts";
import { type CredentialProvisioner, checkIssued, type IssuedCredential, WrongAnswer } from "./provisioner.ts";

/** Jobs whose values are held at a time. */
const MAX_JOBS = 10_000;
/** Issues that are under way at a time. */
const MAX_ISSUING = 256;
/** Revocations that are under way at a time. */
const REVOKE_AT_ONCE = 16;
/** A claimed revocation is somebody else's after this and the time of a try. */
const CLAIM_SPARE_MS = 10_000;
/** Between two tries of one revocation, doubled at each. */
const RETRY_FIRST_MS = 1_000;
const RETRY_LAST_MS = 300_000;
/** How long a value is masked after its job's end: an agent may unwind late and complain of it. */
const MASKED_AFTER_END_MS = 600_000;

/** A job that is to have credentials; the store need not have it yet. */
export interface ProvisionedJob {
  jobId: string;
  principal: string;
  /** `name@version`. */
  agent: string;
  lease: Lease;
  leaseExpiresAt?: number | undefined;
  traceId: string;
}

/** Who is to see credentials. */
export interface Viewer {
  principal: string;
  features: readonly string[];
}

export interface KeeperParts {
  store: Store;
  /** Without one nothing is issued, and what is stored of credentials is left out of what is sent. */
  provisioner: CredentialProvisioner | undefined;
  masking: Masking;
  clock: Clock;
  logger: Logger;
  nodeId(): string;
  /** For one call of the provisioner. */
  timeoutMs: number;
  /** Between two looks for what is due. */
  intervalMs: number;
}

/** The credentials of one job whose values are here. */
interface Held {
  readonly job: ProvisionedJob;
  readonly credentialId: string;
  readonly credentials: readonly Credential[];
  /** Whether the job is another node's: nobody tells us its end. */
  readonly elsewhere: boolean;
}

/**
 * Provisioned credentials: issues them, holds their values in memory and nowhere else, and sees to it that
 * each is revoked when its job is over, whoever ended it (SPEC.md, CRD). The ledger in the store says what
 * is due; every node with a provisioner works it off, one try of one credential at a time.
 */
export class CredentialKeeper {
  readonly #parts: KeeperParts;
  /** By job. */
  readonly #held = new Map<string, Held>();
  /** Issues that are under way for jobs of other nodes, and rotations; one per job. */
  readonly #renewing = new Map<string, Promise<unknown>>();
  /** Ends the masking of values, by credential. */
  readonly #unmask = new Map<string, (() => void)[]>();
  /** Credentials of jobs that are over, and until when they are masked, the oldest first. */
  readonly #over: { credentialId: string; until: number }[] = [];
  /** Given up, and the store has not heard of it. */
  readonly #unsaid = new Set<string>();
  #issuing = 0;
  #timer: Timer | undefined;
  #round: Promise<void> | undefined;
  #again = false;
  #stopped = false;

  constructor(parts: KeeperParts) {
    this.#parts = parts;
  }

  /** Whether the feature can be offered (CRD-1). */
  get offers(): boolean {
    return this.#parts.provisioner !== undefined;
  }

  /** Works off what is due, now and from time to time. */
  start(): void {
    if (this.offers) this.#kick();
  }

  /** Tries once more what is due now; what is left is due to whoever looks next. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    if (this.offers) this.#kick();
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#round;
    this.#held.clear();
  }

  // ------------------------------------------------------------------------------------------ issue

  /**
   * Issues a job's credentials, before the job is stored. Call {@link abandon} when it then is not.
   *
   * @returns what is to be stored of them
   * @throws ArcpError INTERNAL_ERROR (`details.reason: "credentials_unavailable"`) when there are none to be
   *   had; StoreUnavailable
   */
  async issueFor(job: ProvisionedJob): Promise<StoredCredential[]> {
    const { credentials } = await this.#issue(job, { elsewhere: false });
    return credentials.map(withoutValue);
  }

  /** @param how.replaces what is held of the job now; should its end come first, nothing is held after */
  async #issue(job: ProvisionedJob, how: { elsewhere: boolean; replaces?: Held }): Promise<Held> {
    const { provisioner, store, clock, logger, nodeId } = this.#parts;
    if (provisioner === undefined || this.#stopped) throw unavailable();
    if (this.#held.size >= MAX_JOBS || this.#issuing >= MAX_ISSUING) {
      throw ArcpError.detail("LIMIT_EXCEEDED", "Too many jobs ask for credentials at this time; submit again later.", {
        retry_after_ms: RETRY_FIRST_MS,
        limit: this.#held.size >= MAX_JOBS ? MAX_JOBS : MAX_ISSUING,
      });
    }
    const { jobId, principal, agent, lease, leaseExpiresAt, traceId } = job;
    const ref: CredentialRef = { credentialId: newCredentialId(), jobId, nodeId: nodeId() };
    const { credentialId } = ref;
    await store.credentials.note(ref, clock.wall()).catch((error: unknown) => {
      // It may be stored all the same.
      this.#giveUp(credentialId);
      throw error;
    });
    let issued: IssuedCredential[];
    this.#issuing += 1;
    try {
      const request = { credentialId, jobId, principal, agent, lease, leaseExpiresAt, traceId };
      const answer = this.#bounded(
        (signal) => provisioner.issue({ ...request, signal }),
        () => this.#cameLate(ref),
      );
      issued = checkIssued(await answer);
      const before = how.replaces?.credentials.length ?? issued.length;
      if (before !== issued.length) throw new WrongAnswer(`${before} credentials became ${issued.length}.`);
    } catch (error) {
      // Not the error itself: whoever talks to a gateway may quote what it said (CRD-4).
      const why = error instanceof WrongAnswer ? { failure: error.name, problem: error.message } : nameOf(error);
      const said = { job_id: jobId, credential_id: credentialId, ...why };
      logger.error(said, "credentials were not issued; the provisioner knows why");
      this.#giveUp(credentialId);
      throw unavailable();
    } finally {
      this.#issuing -= 1;
    }
    const credentials = issued.map((one, index) => toCredential(one, `${jobId}.credential.${index + 1}`));
    this.#unmask.set(
      credentialId,
      credentials.map(({ id, value }) => this.#parts.masking.add(value, id)),
    );
    const live = await store.credentials.markLive(ref, clock.wall()).catch((error: unknown) => {
      this.#forget(credentialId);
      this.#giveUp(credentialId);
      throw error;
    });
    if (!live) {
      this.#forget(credentialId);
      this.#kick();
      throw unavailable();
    }
    const held = {
      job: { jobId, principal, agent, lease, leaseExpiresAt, traceId },
      credentialId,
      credentials,
      elsewhere: how.elsewhere,
    };
    if (how.replaces !== undefined) {
      if (this.#held.get(jobId) !== how.replaces) {
        this.#retire(held);
        this.#giveUp(credentialId);
        throw new ArcpError("CANCELLED", "The job has ended; its credentials are revoked.");
      }
      this.#retire(how.replaces);
    }
    this.#held.set(jobId, held);
    logger.info({ job_id: jobId, credential_id: credentialId, count: credentials.length }, "credentials issued");
    return held;
  }

  /** An issue that had been given up has come to something: so the revocation may have come too early. */
  #cameLate(ref: CredentialRef): void {
    const { store, clock, logger } = this.#parts;
    store.credentials.markLive(ref, clock.wall()).then(
      () => this.#giveUp(ref.credentialId),
      (error: unknown) => logger.warn({ err: error, credential_id: ref.credentialId }, "late credential not noted"),
    );
  }

  /** The job was not stored: what was issued for it is revoked (CRD-5). */
  abandon(jobId: string): void {
    const held = this.#held.get(jobId);
    if (held === undefined) return;
    this.#held.delete(jobId);
    this.#retire(held);
    this.#giveUp(held.credentialId);
  }

  /** The job is over here; the store says what of it is due. */
  release(jobId: string): void {
    const held = this.#held.get(jobId);
    if (held === undefined) return;
    this.#held.delete(jobId);
    this.#retire(held);
    this.#kick();
  }

  // ---------------------------------------------------------------------------------------- to look at

  /** What a running job of this process works with. */
  of(jobId: string): readonly Credential[] {
    return this.#held.get(jobId)?.credentials ?? [];
  }

  /**
   * Issues a job's credentials anew; the ones before are revoked (CRD-10).
   *
   * @throws ArcpError as {@link issueFor}; INVALID_REQUEST for a job without credentials; CANCELLED when the job
   *   ends meanwhile
   */
  async rotate(jobId: string): Promise<readonly Credential[]> {
    const { credentials } = await this.#renew(jobId, async () => {
      const held = this.#held.get(jobId);
      if (held === undefined) {
        throw new ArcpError("INVALID_REQUEST", `${jobId} has no credentials, so there is nothing to rotate.`);
      }
      return await this.#issue(held.job, { elsewhere: held.elsewhere, replaces: held });
    });
    return credentials;
  }

  /**
   * A job's credentials for whoever may see them: the submitter's principal, in a session with the feature,
   * while the job runs. Where the values are gone, or another node's, they are issued anew (CRD-9).
   */
  view(jobId: string, viewer: Viewer): readonly Credential[] | undefined | Promise<readonly Credential[] | undefined> {
    if (!this.offers || !viewer.features.includes("provisioned_credentials")) return undefined;
    const held = this.#held.get(jobId);
    if (held !== undefined) return held.job.principal === viewer.principal ? held.credentials : undefined;
    return this.#reissue(jobId, viewer).catch((error: unknown) => {
      this.#parts.logger.error({ err: error, job_id: jobId }, "credentials could not be issued anew; sent without");
      return undefined;
    });
  }

  /**
   * A job that was accepted with credentials and runs here has some: where the values are another node's, or gone,
   * they are issued anew.
   *
   * @throws as {@link issueFor}
   */
  async ensure(jobId: string, principal: string): Promise<void> {
    if (!this.offers || this.#held.has(jobId)) return;
    await this.#reissue(jobId, { principal, features: ["provisioned_credentials"] });
  }

  async #reissue(jobId: string, viewer: Viewer): Promise<readonly Credential[] | undefined> {
    const { store } = this.#parts;
    const job = await store.jobs.get(jobId);
    if (job === undefined || isFinal(job.status) || job.principal !== viewer.principal) return undefined;
    if (!(await store.credentials.has(jobId))) return undefined;
    const { principal, agent, lease, leaseExpiresAt, traceId } = job;
    const renewed = await this.#renew(
      jobId,
      async () =>
        this.#held.get(jobId) ??
        (await this.#issue({ jobId, principal, agent, lease, leaseExpiresAt, traceId }, { elsewhere: true })),
    );
    this.hurry();
    return renewed.credentials;
  }

  /** One after the other for one job. */
  async #renew(jobId: string, work: () => Promise<Held>): Promise<Held> {
    const before = this.#renewing.get(jobId) ?? Promise.resolve();
    const mine = before.then(work, work);
    this.#renewing.set(jobId, mine);
    try {
      return await mine;
    } finally {
      if (this.#renewing.get(jobId) === mine) this.#renewing.delete(jobId);
    }
  }

  // ----------------------------------------------------------------------------------------- revoke

  /** Something has become due: it need not wait for the next look. */
  hurry(): void {
    this.#kick();
  }

  /** A value is out of use: it is masked for a while yet. */
  #retire({ credentialId }: Held): void {
    this.#over.push({ credentialId, until: this.#parts.clock.monotonic() + MASKED_AFTER_END_MS });
  }

  #forget(credentialId: string): void {
    for (const unmask of this.#unmask.get(credentialId) ?? []) unmask();
    this.#unmask.delete(credentialId);
  }

  #giveUp(credentialId: string): void {
    this.#unsaid.add(credentialId);
    this.#kick();
  }

  /** Looks now for what is due; a look that is under way is followed by another. */
  #kick(): void {
    if (this.#round !== undefined) {
      this.#again = true;
      return;
    }
    if (this.#stopped) return;
    this.#timer?.cancel();
    this.#round = this.#work().finally(() => {
      this.#round = undefined;
      if (!this.#stopped) this.#timer = this.#parts.clock.after(this.#parts.intervalMs, () => this.#kick());
    });
  }

  async #work(): Promise<void> {
    do {
      this.#again = false;
      try {
        await this.#tidy();
        await this.#revokeDue();
      } catch (error) {
        this.#parts.logger.warn({ err: error }, "revocations were held up; they go on at the next round");
        return;
      }
    } while (this.#again);
  }

  async #tidy(): Promise<void> {
    const { store, clock } = this.#parts;
    for (const credentialId of this.#unsaid) {
      await store.credentials.giveUp(credentialId, clock.wall());
      this.#unsaid.delete(credentialId);
    }
    for (const { job, elsewhere } of [...this.#held.values()]) {
      if (!elsewhere) continue;
      const now = await store.jobs.get(job.jobId);
      if (now === undefined || isFinal(now.status)) this.release(job.jobId);
    }
    while ((this.#over[0]?.until ?? Infinity) <= clock.monotonic()) {
      this.#forget(this.#over.shift()?.credentialId ?? "");
    }
  }

  async #revokeDue(): Promise<void> {
    const { store, clock, timeoutMs } = this.#parts;
    for (;;) {
      const claim = { now: clock.wall(), claimMs: timeoutMs + CLAIM_SPARE_MS, limit: REVOKE_AT_ONCE };
      const due = await store.credentials.claimDue(claim);
      await Promise.all(due.map((one) => this.#revoke(one)));
      if (due.length < REVOKE_AT_ONCE) return;
    }
  }

  async #revoke({ credentialId, jobId, attempts }: DueRevocation): Promise<void> {
    const { provisioner, store, clock, logger } = this.#parts;
    const said = { job_id: jobId, credential_id: credentialId, attempts };
    try {
      await this.#bounded(async (signal) => provisioner?.revoke({ credentialId, jobId, signal }));
    } catch (error) {
      const retryMs = Math.min(RETRY_LAST_MS, RETRY_FIRST_MS * 2 ** Math.min(attempts - 1, 20));
      logger.warn({ ...said, ...nameOf(error), retry_ms: retryMs }, "a credential was not revoked; it is tried again");
      await store.credentials.settle(
        credentialId,
        { revoked: false, nextAttemptAt: clock.wall() + retryMs },
        clock.wall(),
      );
      return;
    }
    logger.info(said, "credential revoked");
    await store.credentials.settle(credentialId, { revoked: true }, clock.wall());
  }

  /**
   * A call of the provisioner that is over, one way or the other, within the time it has.
   *
   * @param late called when it succeeds after that
   */
  async #bounded<T>(call: (signal: AbortSignal) => Promise<T>, late?: () => void): Promise<T> {
    const { clock, timeoutMs } = this.#parts;
    const deadline = new AbortController();
    const over = new AbortController();
    // What throws rather than rejects is a failure like any other.
    const called = (async () => call(deadline.signal))();
    const tooLate = sleep(clock, timeoutMs, over.signal).then(() => {
      const error = new DOMException(`The provisioner did not answer in ${timeoutMs} ms.`, "TimeoutError");
      deadline.abort(error);
      called.then(late, () => undefined);
      throw error;
    });
    try {
      return await Promise.race([called, tooLate]);
    } finally {
      over.abort();
    }
  }
}

function toCredential(issued: IssuedCredential, id: string): Credential {
  const { scheme, value, endpoint, profile, constraints } = issued;
  return Object.freeze({
    id,
    scheme,
    value,
    endpoint,
    ...(profile === undefined ? {} : { profile }),
    ...(constraints === undefined ? {} : { constraints }),
  });
}

/** What of a credential may be stored. */
export function withoutValue({ value: _, ...rest }: Credential): StoredCredential {
  return rest;
}

/** What may be logged of a provisioner's failure: nothing that it made up itself. */
function nameOf(error: unknown): object {
  const { name, code } = (typeof error === "object" && error !== null ? error : {}) as Record<string, unknown>;
  const word = (value: unknown) =>
    typeof value === "string" && /^[A-Za-z_][A-Za-z_]{0,39}$/.test(value) ? value : undefined;
  return { failure: word(name) ?? "unknown", ...(word(code) === undefined ? {} : { failure_code: word(code) }) };
}

const unavailable = (): ArcpError =>
  new ArcpError("INTERNAL_ERROR", "No credentials could be had for this job; try again later.", {
    details: { reason: "credentials_unavailable" },
  });
