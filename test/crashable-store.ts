import type { Store } from "../src/store/store.ts";
import { GuardedStore } from "./guarded-store.ts";

/**
 * A store whose process can die: from then on no operation is answered, whether it was carried out or
 * not, which is all that a caller ever sees of a crash. The file stays for the next one.
 */
export class CrashableStore extends GuardedStore {
  readonly #state: { crashed: boolean };

  constructor(inner: Store) {
    const state = { crashed: false };
    super(inner, (operation) => {
      if (state.crashed) return new Promise(() => undefined);
      return new Promise((resolve, reject) => {
        operation().then(
          (value) => state.crashed || resolve(value),
          (error: unknown) => state.crashed || reject(error),
        );
      });
    });
    this.#state = state;
  }

  /** What was handed over may still reach the file; nobody hears of it. */
  async crash(): Promise<void> {
    this.#state.crashed = true;
    await this.stop();
  }
}
