/**
 * The owner's side of the service, for as long as it has the lock: token, registry, port and discovery file. A token is
 * good for one owner's life. Every heartbeat the owner looks whether the lock file is still the one that it holds, else
 * it stands down, and whether the discovery file still names it, else it writes that again: nobody but the holder of
 * the lock has a say there.
 */
import { randomBytes } from "node:crypto";
import type { Clock, Timer } from "../clock.ts";
import type { Logger } from "../logger.ts";
import type { DiscoveryFile } from "./discovery.ts";
import { OwnerLock } from "./owner-lock.ts";
import { checkFolder, makeFolder } from "./place.ts";
import type { ProcessTable } from "./process-table.ts";
import { Registry } from "./registry.ts";
import { Desk, Service } from "./service.ts";

export interface OwnerOptions {
  folder: string;
  file: DiscoveryFile;
  port: number;
  timeoutMs: number;
  heartbeatMs: number;
  processes: ProcessTable;
  clock: Clock;
  logger: Logger;
}

const TOKEN_BYTES = 32;

export class Owner {
  readonly token: string;
  readonly #lock: OwnerLock;
  readonly #service: Service;
  readonly #registry: Registry;
  readonly #desk: Desk;
  readonly #options: OwnerOptions;
  #timer: Timer | undefined;
  #stopping: Promise<void> | undefined;

  private constructor(
    parts: { lock: OwnerLock; service: Service; registry: Registry; token: string },
    o: OwnerOptions,
  ) {
    this.token = parts.token;
    this.#lock = parts.lock;
    this.#service = parts.service;
    this.#registry = parts.registry;
    this.#desk = new Desk(parts);
    this.#options = o;
  }

  /**
   * @returns nothing while another process is the owner
   * @throws Error when this one cannot be, e.g. on a full disk
   */
  static async tryStart(options: OwnerOptions): Promise<Owner | undefined> {
    await makeFolder(options.folder);
    await checkFolder(options.folder);
    const lock = await OwnerLock.tryTake(options.folder);
    if (lock === undefined) return undefined;
    let service: Service | undefined;
    try {
      const token = randomBytes(TOKEN_BYTES).toString("hex");
      const registry = new Registry({ ...options, trustMs: 2 * options.heartbeatMs });
      service = await Service.start({ ...options, registry, token });
      const owner = new Owner({ lock, service, registry, token }, options);
      await owner.#publish();
      owner.#schedule();
      return owner;
    } catch (error) {
      await service?.stop();
      lock.release();
      throw error;
    }
  }

  /** Whether it still is the owner: not once it was stopped, or somebody has removed its lock file. */
  get reigns(): boolean {
    return this.#stopping === undefined && this.#lock.intact;
  }

  /** As over the wire, without the wire. */
  answerTo(line: string): string {
    return this.#desk.answerTo(Buffer.from(line));
  }

  /** Idempotent. The discovery file goes if it is this owner's, then the lock is free. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    const { intact } = this.#lock;
    this.#timer?.cancel();
    try {
      await this.#service.stop();
      if (intact) await this.#options.file.removeOf(this.token);
    } finally {
      this.#lock.release();
    }
  }

  async #publish(): Promise<void> {
    await this.#options.file.write({
      owner_pid: process.pid,
      auth_token: this.token,
      port: this.#service.port,
      updated_at: Math.floor(this.#options.clock.wall() / 1_000),
    });
  }

  #schedule(): void {
    const { clock, heartbeatMs, logger } = this.#options;
    this.#timer = clock.after(heartbeatMs, () => {
      this.#look().catch((error: unknown) => logger.warn({ err: error }, "the presence service cannot be published"));
    });
  }

  async #look(): Promise<void> {
    const { file, logger } = this.#options;
    if (this.#stopping !== undefined) return;
    if (!this.#lock.intact) {
      logger.warn({}, "somebody has removed the presence service's lock; this process is its owner no more");
      await this.stop();
      return;
    }
    this.#schedule();
    this.#registry.sweep();
    const published = await file.read().catch(() => undefined);
    if (published?.auth_token !== this.token && this.reigns) await this.#publish();
  }
}
