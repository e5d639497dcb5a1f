import { type Clock, systemClock } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import type { Store } from "../store/store.ts";
import type { Authenticator } from "./auth.ts";

export interface RuntimeOptions {
  /** Started and stopped by the runtime. */
  store: Store;
  auth: Authenticator;
  clock?: Clock;
  /** @default a logger that says nothing */
  logger?: Logger;
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
  /** How long an idempotency key holds. @default 86_400_000 (24 h) */
  idempotencyTtlMs?: number;
  /** Sessions of one principal that can still be resumed. @default 1_000 */
  maxSessionsPerPrincipal?: number;
  /** @default 100 */
  maxRunningJobsPerPrincipal?: number;
  /** A chunked result's size, in bytes. @default 67_108_864 (64 MiB) */
  maxResultBytes?: number;
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

export type Settings = Required<Omit<RuntimeOptions, "compat">> & { sessionErrorClients: ReadonlySet<string> };

/** This build's version, as the welcome tells it. */
export const VERSION = "0.1.0";

export function settle(options: RuntimeOptions): Settings {
  const settings: Settings = {
    store: options.store,
    auth: options.auth,
    clock: options.clock ?? systemClock,
    logger: options.logger ?? silentLogger,
    name: options.name ?? "holdfast",
    version: options.version ?? VERSION,
    resumeWindowSec: options.resumeWindowSec ?? 600,
    heartbeatIntervalSec: options.heartbeatIntervalSec ?? 30,
    helloTimeoutMs: options.helloTimeoutMs ?? 10_000,
    cancelGraceMs: options.cancelGraceMs ?? 30_000,
    idempotencyTtlMs: options.idempotencyTtlMs ?? 86_400_000,
    maxSessionsPerPrincipal: options.maxSessionsPerPrincipal ?? 1_000,
    maxRunningJobsPerPrincipal: options.maxRunningJobsPerPrincipal ?? 100,
    maxResultBytes: options.maxResultBytes ?? 64 * 1024 * 1024,
    nodeHeartbeatMs: options.nodeHeartbeatMs ?? 2_000,
    nodeTimeoutMs: options.nodeTimeoutMs ?? 15_000,
    sweepIntervalMs: options.sweepIntervalMs ?? 1_000,
    storeTimeoutMs: options.storeTimeoutMs ?? 5_000,
    sessionErrorClients: new Set(options.compat?.sessionErrorClients),
  };
  for (const [name, value] of Object.entries(settings)) {
    if (typeof value === "number" && !(value > 0 && Number.isFinite(value))) {
      throw new RangeError(`${name}: ${value} is not a positive number.`);
    }
  }
  return settings;
}
