import { type Clock, systemClock } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { FEATURES, type Feature } from "../protocol/index.ts";
import type { Store } from "../store/store.ts";
import type { Authenticator } from "./auth.ts";
import type { CredentialProvisioner } from "./credentials/provisioner.ts";
import { DEFAULT_GRANTS, type Grants, type LeasePolicy } from "./policy.ts";
import type { AnswerPolicy } from "./questions/answering.ts";
import { noTracing, type Tracing } from "./tracing/tracing.ts";
import { Viewing, type VisibilityPolicy } from "./visibility.ts";

export interface RuntimeOptions {
  /** Started and stopped by the runtime. */
  store: Store;
  auth: Authenticator;
  clock?: Clock;
  /** @default a logger that says nothing */
  logger?: Logger;
  /** Where spans go: {@link openTelemetry}, or a tracer of one's own. @default nowhere */
  tracing?: Tracing;
  /** What the welcome calls this runtime. @default "holdfast" */
  name?: string;
  /** @default the package's version */
  version?: string;
  /** How long a session without a connection can be resumed, in seconds. @default 600 */
  resumeWindowSec?: number;
  /** @default 30 */
  heartbeatIntervalSec?: number;
  /** How long a connection may take to say a valid hello. @default 10_000 */
  helloTimeoutMs?: number;
  /** How long a cancelled or expired job may take to unwind before it is ended. @default 30_000 */
  cancelGraceMs?: number;
  /**
   * What principals may ask for in a lease (see {@link Grants}).
   *
   * @default tools, agents and budgets; nothing of `fs.*`, `net.*` and vendors; `model.use` of `models`
   */
  policy?: LeasePolicy;
  /** Models that `model.use` may name: names or patterns. The feature is offered when there are any. @default [] */
  models?: readonly string[];
  /** What a principal may see of others' jobs (JOB-22). @default nothing */
  visibility?: VisibilityPolicy;
  /** Levels of jobs below a submitted one (DEL-3). @default 4 */
  maxDelegationDepth?: number;
  /** Live children of one job. @default 32 */
  maxChildrenPerJob?: number;
  /** Who may answer a job's questions besides the session that submitted it (ASK-3). @default nobody */
  mayAnswer?: AnswerPolicy;
  /**
   * Where jobs get credentials of their own; the feature `provisioned_credentials` is offered when there is one
   * (CRD). @default none
   */
  provisioner?: CredentialProvisioner;
  /** How long one call of the provisioner may take. @default 5_000 */
  provisionerTimeoutMs?: number;
  /** How long an idempotency key holds. @default 86_400_000 (24 h) */
  idempotencyTtlMs?: number;
  /** Sessions of one principal that can still be resumed. @default 1_000 */
  maxSessionsPerPrincipal?: number;
  /** @default 100 */
  maxRunningJobsPerPrincipal?: number;
  /** What a submit's input may take in the store, as JSON text in bytes (JOB-19). @default 1_048_576 (1 MiB) */
  maxInputBytes?: number;
  /** Jobs that one session follows at the same time (SES-18). @default 10_000 */
  maxFollowsPerSession?: number;
  /**
   * Messages of one connection in a second, and as many more at once after a pause; twice that at once ends
   * the connection (SES-16). @default 20_000
   */
  maxMessagesPerSecond?: number;
  /**
   * Requests of one connection that wait for their answers; one more is refused, and twice as many end the
   * connection (SES-15). @default 4_096
   */
  maxRequestsInFlight?: number;
  /** The same for what those requests and their answers hold, in characters (SES-15). @default 16_777_216 (16 MiB) */
  maxCharsInFlight?: number;
  /** What may wait for a client that sends and does not read; more ends the connection (SES-17). @default 8_388_608 (8 MiB) */
  maxUnreadBytes?: number;
  /** A chunked result's size, in bytes. @default 67_108_864 (64 MiB) */
  maxResultBytes?: number;
  /** How long a job and its log are kept after its end. @default 86_400_000 (24 h) */
  jobRetentionMs?: number;
  /** What is kept of one job while sessions may still want it; above, the oldest events go (STO-14). */
  caps?: {
    /** @default 1_000_000 */
    maxBufferedEvents?: number;
    /** Payload bytes. @default 1_073_741_824 (1 GiB) */
    maxBufferedBytes?: number;
    /** Payload bytes of all jobs in the store together. @default no cap */
    maxStoredBytes?: number;
  };
  /** How long a conversation is kept after its last turn was added. @default for ever */
  conversationRetentionMs?: number | undefined;
  /** How often what is over is removed. @default 5_000 */
  janitorIntervalMs?: number;
  /** A session with more unacknowledged events than this is told so, once per crossing (SES-19). @default 1_000 */
  backPressureThreshold?: number;
  /** The beat of this process's node row. @default 2_000 */
  nodeHeartbeatMs?: number;
  /** A node whose beat stands still for this long is dead. @default 15_000 */
  nodeTimeoutMs?: number;
  /** How often the store is asked for what no wake-up told. @default 1_000 */
  sweepIntervalMs?: number;
  /** How long a hello or a request waits for a store that does not answer (STO-12). @default 5_000 */
  storeTimeoutMs?: number;
  /** For clients that wait for another form of an answer than most (JOB-3). */
  compat?: {
    /** Names (hello's `client.name`) that get `session.error` with `request_id` for a rejected submit. */
    sessionErrorClients?: readonly string[];
  };
}

export type Settings = Required<
  Omit<RuntimeOptions, "compat" | "caps" | "provisioner" | "visibility" | "conversationRetentionMs">
> & {
  conversationRetentionMs: number | undefined;
  viewing: Viewing;
  provisioner: CredentialProvisioner | undefined;
  sessionErrorClients: ReadonlySet<string>;
  /** What sessions are offered; of the whole list some only where the runtime is configured for them (SES-4). */
  features: readonly Feature[];
  maxBufferedEvents: number;
  maxBufferedBytes: number;
  maxStoredBytes: number | undefined;
};

/** This build's version, as the welcome tells it. */
export const VERSION = "0.1.0";

export function settle(options: RuntimeOptions): Settings {
  const { models = [] } = options;
  const configured: Partial<Record<Feature, boolean>> = {
    "model.use": models.length > 0,
    provisioned_credentials: options.provisioner !== undefined,
  };
  const defaults: Grants = models.length === 0 ? DEFAULT_GRANTS : { ...DEFAULT_GRANTS, "model.use": models };
  const settings: Settings = {
    store: options.store,
    auth: options.auth,
    clock: options.clock ?? systemClock,
    logger: options.logger ?? silentLogger,
    tracing: options.tracing ?? noTracing,
    name: options.name ?? "holdfast",
    version: options.version ?? VERSION,
    resumeWindowSec: options.resumeWindowSec ?? 600,
    heartbeatIntervalSec: options.heartbeatIntervalSec ?? 30,
    helloTimeoutMs: options.helloTimeoutMs ?? 10_000,
    cancelGraceMs: options.cancelGraceMs ?? 30_000,
    policy: options.policy ?? (() => defaults),
    models,
    viewing: new Viewing(options.store, options.visibility),
    maxDelegationDepth: options.maxDelegationDepth ?? 4,
    maxChildrenPerJob: options.maxChildrenPerJob ?? 32,
    mayAnswer: options.mayAnswer ?? (() => false),
    provisioner: options.provisioner,
    provisionerTimeoutMs: options.provisionerTimeoutMs ?? 5_000,
    idempotencyTtlMs: options.idempotencyTtlMs ?? 86_400_000,
    maxSessionsPerPrincipal: options.maxSessionsPerPrincipal ?? 1_000,
    maxRunningJobsPerPrincipal: options.maxRunningJobsPerPrincipal ?? 100,
    maxInputBytes: options.maxInputBytes ?? 1024 * 1024,
    maxFollowsPerSession: options.maxFollowsPerSession ?? 10_000,
    maxMessagesPerSecond: options.maxMessagesPerSecond ?? 20_000,
    maxRequestsInFlight: options.maxRequestsInFlight ?? 4_096,
    maxCharsInFlight: options.maxCharsInFlight ?? 16 * 1024 * 1024,
    maxUnreadBytes: options.maxUnreadBytes ?? 8 * 1024 * 1024,
    maxResultBytes: options.maxResultBytes ?? 64 * 1024 * 1024,
    jobRetentionMs: options.jobRetentionMs ?? 86_400_000,
    conversationRetentionMs: options.conversationRetentionMs,
    maxBufferedEvents: options.caps?.maxBufferedEvents ?? 1_000_000,
    maxBufferedBytes: options.caps?.maxBufferedBytes ?? 1024 * 1024 * 1024,
    maxStoredBytes: options.caps?.maxStoredBytes,
    janitorIntervalMs: options.janitorIntervalMs ?? 5_000,
    backPressureThreshold: options.backPressureThreshold ?? 1_000,
    nodeHeartbeatMs: options.nodeHeartbeatMs ?? 2_000,
    nodeTimeoutMs: options.nodeTimeoutMs ?? 15_000,
    sweepIntervalMs: options.sweepIntervalMs ?? 1_000,
    storeTimeoutMs: options.storeTimeoutMs ?? 5_000,
    features: FEATURES.filter((feature) => configured[feature] !== false),
    sessionErrorClients: new Set(options.compat?.sessionErrorClients),
  };
  for (const [name, value] of Object.entries(settings)) {
    if (typeof value === "number" && !(value > 0 && Number.isFinite(value))) {
      throw new RangeError(`${name}: ${value} is not a positive number.`);
    }
  }
  return settings;
}
