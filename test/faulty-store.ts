import { type Store, StoreUnavailable } from "../src/store/store.ts";
import { GuardedStore } from "./guarded-store.ts";

interface Fault {
  down: boolean;
  stalled: { over: Promise<void>; end: () => void } | undefined;
}

/**
 * A store that fails when it is told to. Down: every operation is refused at once, and nothing is done.
 * Stalled: no operation is answered; each is carried out when the store goes on. A stop works regardless:
 * the file is to be let go.
 */
export class FaultyStore extends GuardedStore {
  readonly #fault: Fault;

  constructor(inner: Store) {
    const fault: Fault = { down: false, stalled: undefined };
    super(inner, async (operation) => {
      if (fault.down) throw new StoreUnavailable("the store is down, as the test wants it");
      if (fault.stalled !== undefined) await fault.stalled.over;
      return await operation();
    });
    this.#fault = fault;
  }

  goDown(): void {
    this.#fault.down = true;
  }

  stall(): void {
    const { promise: over, resolve: end } = Promise.withResolvers<void>();
    this.#fault.stalled ??= { over, end };
  }

  /** All is well again. */
  recover(): void {
    this.#fault.down = false;
    this.#fault.stalled?.end();
    this.#fault.stalled = undefined;
  }
}
