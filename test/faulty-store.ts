import type {
  JobFacet,
  NodeFacet,
  RequestFacet,
  SessionFacet,
  Store,
  SweepAnswer,
  SweepQuery,
} from "../src/store/store.ts";
import { StoreUnavailable } from "../src/store/store.ts";

/**
 * A store that fails when it is told to. Down: every operation is refused at once, and nothing is done.
 * Stalled: no operation is answered; each is carried out when the store goes on.
 */
export class FaultyStore implements Store {
  readonly sessions: SessionFacet;
  readonly requests: RequestFacet;
  readonly jobs: JobFacet;
  readonly nodes: NodeFacet;
  readonly #inner: Store;
  #down = false;
  #stalled: { over: Promise<void>; end: () => void } | undefined;

  constructor(inner: Store) {
    this.#inner = inner;
    this.sessions = this.#guardAll(inner.sessions);
    this.requests = this.#guardAll(inner.requests);
    this.jobs = this.#guardAll(inner.jobs);
    this.nodes = this.#guardAll(inner.nodes);
  }

  goDown(): void {
    this.#down = true;
  }

  stall(): void {
    const { promise: over, resolve: end } = Promise.withResolvers<void>();
    this.#stalled ??= { over, end };
  }

  /** All is well again. */
  recover(): void {
    this.#down = false;
    this.#stalled?.end();
    this.#stalled = undefined;
  }

  start(): Promise<void> {
    return this.#inner.start();
  }

  sweep(query: SweepQuery): Promise<SweepAnswer> {
    return this.#guard(() => this.#inner.sweep(query));
  }

  /** Works whatever was said: the file is to be let go. */
  stop(): Promise<void> {
    return this.#inner.stop();
  }

  #guardAll<F extends object>(facet: F): F {
    return new Proxy(facet, {
      get: (target, name) => {
        const operation = Reflect.get(target, name) as (...args: unknown[]) => Promise<unknown>;
        return (...args: unknown[]) => this.#guard(() => operation.apply(target, args));
      },
    });
  }

  async #guard<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#down) throw new StoreUnavailable("the store is down, as the test wants it");
    if (this.#stalled !== undefined) await this.#stalled.over;
    return await operation();
  }
}
