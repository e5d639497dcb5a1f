import { type Store, StoreUnavailable } from "../src/store/store.ts";
import { GuardedStore } from "./guarded-store.ts";

interface Fault {
  down: boolean;
  stalled: Wait | undefined;
  silent: Wait | undefined;
}

interface Wait {
  over: Promise<void>;
  end: () => void;
}

function wait(): Wait {
  const { promise: over, resolve: end } = Promise.withResolvers<void>();
  return { over, end };
}

/**
 * A store that fails when it is told to. Down: every operation is refused at once, and nothing is done.
 * Stalled: no operation is answered; each is carried out when the store goes on. Silent: each is carried out at once,
 * and answered when the store speaks again. A stop works regardless: the file is to be let go.
 */
export class FaultyStore extends GuardedStore {
  readonly #fault: Fault;

  constructor(inner: Store) {
    const fault: Fault = { down: false, stalled: undefined, silent: undefined };
    super(inner, async (operation) => {
      if (fault.down) throw new StoreUnavailable("the store is down, as the test wants it");
      if (fault.stalled !== undefined) await fault.stalled.over;
      const done = operation();
      if (fault.silent !== undefined) {
        await Promise.allSettled([done]);
        await fault.silent.over;
      }
      return await done;
    });
    this.#fault = fault;
  }

  goDown(): void {
    this.#fault.down = true;
  }

  stall(): void {
    this.#fault.stalled ??= wait();
  }

  fallSilent(): void {
    this.#fault.silent ??= wait();
  }

  /** All is well again. */
  recover(): void {
    this.#fault.down = false;
    this.#fault.stalled?.end();
    this.#fault.stalled = undefined;
    this.#fault.silent?.end();
    this.#fault.silent = undefined;
  }
}
