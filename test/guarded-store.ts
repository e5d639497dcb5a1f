import type {
  BindingFacet,
  ConversationFacet,
  CredentialFacet,
  DeliveryFacet,
  Hint,
  JobFacet,
  NodeFacet,
  PassFacet,
  QuestionFacet,
  RequestFacet,
  RetentionPolicy,
  RetentionStep,
  RouteFacet,
  SessionFacet,
  Store,
  SweepAnswer,
  SweepQuery,
} from "../src/store/store.ts";

/** What stands between a caller and every operation of a store. */
export type Guard = <T>(operation: () => Promise<T>) => Promise<T>;

/** A store behind a guard that may fail, delay or silence its operations; start, stop and hints pass. */
export class GuardedStore implements Store {
  readonly sessions: SessionFacet;
  readonly requests: RequestFacet;
  readonly jobs: JobFacet;
  readonly nodes: NodeFacet;
  readonly conversations: ConversationFacet;
  readonly bindings: BindingFacet;
  readonly deliveries: DeliveryFacet;
  readonly questions: QuestionFacet;
  readonly routes: RouteFacet;
  readonly passes: PassFacet;
  readonly credentials: CredentialFacet;
  readonly #inner: Store;
  readonly #guard: Guard;

  constructor(inner: Store, guard: Guard) {
    this.#inner = inner;
    this.#guard = guard;
    this.sessions = this.#guardAll(inner.sessions);
    this.requests = this.#guardAll(inner.requests);
    this.jobs = this.#guardAll(inner.jobs);
    this.nodes = this.#guardAll(inner.nodes);
    this.conversations = this.#guardAll(inner.conversations);
    this.bindings = this.#guardAll(inner.bindings);
    this.deliveries = this.#guardAll(inner.deliveries);
    this.questions = this.#guardAll(inner.questions);
    this.routes = this.#guardAll(inner.routes);
    this.passes = this.#guardAll(inner.passes);
    this.credentials = this.#guardAll(inner.credentials);
  }

  start(): Promise<void> {
    return this.#inner.start();
  }

  sweep(query: SweepQuery): Promise<SweepAnswer> {
    return this.#guard(() => this.#inner.sweep(query));
  }

  retain(policy: RetentionPolicy): Promise<RetentionStep> {
    return this.#guard(() => this.#inner.retain(policy));
  }

  onHint(listener: (hint: Hint) => void): () => void {
    return this.#inner.onHint(listener);
  }

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
}
