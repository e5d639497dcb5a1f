import { hostname } from "node:os";
import type { Clock, Timer } from "../clock.ts";
import type { Logger } from "../logger.ts";
import { ArcpError, jobErrorPayload, newNodeId } from "../protocol/index.ts";
import type { NodeRecord, Store } from "../store/store.ts";
import { givenBackPayload } from "./job/given-back-payload.ts";
import { VERSION } from "./options.ts";

export interface NodeKeeperParts {
  store: Store;
  clock: Clock;
  logger: Logger;
  heartbeatMs: number;
  timeoutMs: number;
  /** This node was declared dead: all that it held is somebody else's by now. */
  lost(): void;
  /** A dead node's jobs were ended or given back; whoever follows them has something to read. */
  jobsBuried(buried: { endedJobIds: readonly string[]; givenBackJobIds: readonly string[] }): void;
}

/**
 * This process's node row: beats, and buries nodes that are dead on proof (STO-11). The proof is the
 * kernel's word, or one heartbeat value that stood still for a whole timeout of our own monotonic time
 * while our own reads succeeded; a read that fails starts the watch anew, so that an outage of the
 * store makes nobody look dead.
 */
export class NodeKeeper {
  readonly #parts: NodeKeeperParts;
  readonly #watched = new Map<string, { heartbeat: number; since: number }>();
  #nodeId = newNodeId();
  #timer: Timer | undefined;
  #stopped = false;
  #running: Promise<void> = Promise.resolve();

  constructor(parts: NodeKeeperParts) {
    this.#parts = parts;
  }

  get nodeId(): string {
    return this.#nodeId;
  }

  /** Enters the node, buries who is provably dead, and starts to beat. */
  async start(): Promise<void> {
    await this.#register();
    await this.#watch();
    this.#schedule();
  }

  /** Leaves; the node's jobs must have ended. A store that fails costs a burial: somebody finds the node dead. */
  async stop(): Promise<void> {
    const { store, clock, logger } = this.#parts;
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#running;
    try {
      await store.nodes.leave(this.#nodeId, clock.wall());
    } catch (error) {
      logger.warn({ err: error, node_id: this.#nodeId }, "could not leave; another node will find this one dead");
    }
  }

  #schedule(): void {
    if (this.#stopped) return;
    this.#timer = this.#parts.clock.after(this.#parts.heartbeatMs, () => {
      this.#running = this.#beat().finally(() => this.#schedule());
    });
  }

  async #beat(): Promise<void> {
    const { store, clock, logger } = this.#parts;
    try {
      if (!(await store.nodes.beat(this.#nodeId, clock.wall()))) {
        logger.error({ node_id: this.#nodeId }, "this node was declared dead; its jobs are dropped, it starts anew");
        this.#nodeId = newNodeId();
        this.#parts.lost();
        await this.#register();
      }
      await this.#watch();
    } catch (error) {
      this.#watched.clear();
      logger.warn({ err: error, node_id: this.#nodeId }, "node heartbeat failed");
    }
  }

  #register(): Promise<void> {
    const { store, clock } = this.#parts;
    return store.nodes.register({
      ...{ nodeId: this.#nodeId, pid: process.pid, host: hostname() },
      ...{ version: VERSION, now: clock.wall() },
    });
  }

  async #watch(): Promise<void> {
    const { store, clock, timeoutMs } = this.#parts;
    const others = (await store.nodes.list()).filter((node) => node.nodeId !== this.#nodeId);
    const present = new Set(others.map((node) => node.nodeId));
    for (const nodeId of this.#watched.keys()) if (!present.has(nodeId)) this.#watched.delete(nodeId);
    for (const node of others) {
      const seen = this.#watched.get(node.nodeId);
      const stoodStill =
        seen !== undefined && seen.heartbeat === node.heartbeat && clock.monotonic() - seen.since >= timeoutMs;
      if (node.state === "dead" || node.provenDead === true || stoodStill) await this.#bury(node);
      else if (seen?.heartbeat !== node.heartbeat) {
        this.#watched.set(node.nodeId, { heartbeat: node.heartbeat, since: clock.monotonic() });
      }
    }
  }

  async #bury(node: NodeRecord): Promise<void> {
    const { store, clock, logger } = this.#parts;
    const error = new ArcpError("INTERNAL_ERROR", "The process that ran this job is gone; submit the job again.", {
      details: { reason: "node_lost", node_id: node.nodeId },
    });
    const jobErrorText = JSON.stringify(jobErrorPayload(error));
    const givenBackText = givenBackPayload(clock, {
      phase: "node_lost",
      message: "The process that ran this job is gone; another one goes on with it.",
      node_id: node.nodeId,
    });
    for (let more = true; more; ) {
      const step = await store.nodes.bury({
        nodeId: node.nodeId,
        heartbeat: node.heartbeat,
        jobErrorPayload: jobErrorText,
        givenBackPayload: givenBackText,
        now: clock.wall(),
      });
      more = step.more;
      this.#parts.jobsBuried(step);
      const { endedJobIds, givenBackJobIds } = step;
      if (endedJobIds.length + givenBackJobIds.length > 0) {
        const counts = { jobs: endedJobIds.length, given_back: givenBackJobIds.length };
        logger.warn({ node_id: node.nodeId, pid: node.pid, ...counts }, "ended the jobs of a dead node");
      }
    }
    this.#watched.delete(node.nodeId);
  }
}
