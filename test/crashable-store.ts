import type {
  JobFacet,
  NodeFacet,
  RequestFacet,
  SessionFacet,
  Store,
  SweepAnswer,
  SweepQuery,
} from "../src/store/store.ts";

/**
 * A store whose process can die: from then on no operation is answered, whether it was carried out or
 * not, which is all that a caller ever sees of a crash. The file stays for the next one.
 */
export class CrashableStore implements Store {
  readonly sessions: SessionFacet;
  readonly requests: RequestFacet;
  readonly jobs: JobFacet;
  readonly nodes: NodeFacet;
  readonly #inner: Store;
  #crashed = false;

  constructor(inner: Store) {
    this.#inner = inner;
    this.sessions = this.#guardAll(inner.sessions);
    this.requests = this.#guardAll(inner.requests);
    this.jobs = this.#guardAll(inner.jobs);
    this.nodes = this.#guardAll(inner.nodes);
  }

  start(): Promise<void> {
    return this.#inner.start();
  }

  sweep(query: SweepQuery): Promise<SweepAnswer> {
    return this.#guard(() => this.#inner.sweep(query));
  }

  stop(): Promise<void> {
    return this.#guard(() => this.#inner.stop());
  }

  /** What was handed over may still reach the file; nobody hears of it. */
  async crash(): Promise<void> {
    this.#crashed = true;
    await this.#inner.stop();
  }

  #guardAll<F extends object>(facet: F): F {
    return new Proxy(facet, {
      get: (target, name) => {
        const operation = Reflect.get(target, name) as (...args: unknown[]) => Promise<unknown>;
        return (...args: unknown[]) => this.#guard(() => operation.apply(target, args));
      },
    });
  }

  #guard<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#crashed) return new Promise(() => undefined);
    return new Promise((resolve, reject) => {
      operation().then(
        (value) => this.#crashed || resolve(value),
        (error: unknown) => this.#crashed || reject(error),
      );
    });
  }
}
