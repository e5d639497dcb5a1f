/**
 * Group commit: items of one turn of the event loop go to the server in one call, a bounded number in each; while some
 * calls are under way, what comes meanwhile gathers for the next. Items of one key go one after the other, in the
 * order in which they came.
 *
 * A call takes the items that are plain; what it does not take is done by itself, in a transaction of its own, so an
 * odd item costs a little more and fails alone (STO-3).
 */
import { StoreUnavailable } from "../store.ts";
import { sqlState } from "./database.ts";

/** Calls of one kind under way. More would gather less, and wait for each other's log writes. */
const MAX_CALLS = 3;

export interface GroupCommitOptions<Item, Result> {
  key(item: Item): string;
  /** Bounds of one call. The item that reaches the weight is its last. */
  maxItems: number;
  maxWeight: number;
  weight(item: Item): number;
  /** Whether a call may look at it. */
  isPlain(item: Item): boolean;
  /** One round trip. @returns the items that were taken, each with its result; the others have changed nothing */
  call(items: readonly Item[]): Promise<ReadonlyMap<Item, Result>>;
  alone(item: Item): Promise<Result>;
}

interface Waiting<Item, Result> {
  item: Item;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

export class GroupCommit<Item, Result> {
  readonly #options: GroupCommitOptions<Item, Result>;
  /** What waits, by key. A key stands in it for as long as it has something waiting or under way. */
  readonly #waiting = new Map<string, Waiting<Item, Result>[]>();
  /** Keys that have something waiting and nothing under way, in order. */
  readonly #ready = new Set<string>();
  #calls = 0;
  #scheduled = false;

  constructor(options: GroupCommitOptions<Item, Result>) {
    this.#options = options;
  }

  add(item: Item): Promise<Result> {
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    const key = this.#options.key(item);
    const waiting = this.#waiting.get(key);
    if (waiting === undefined) {
      this.#waiting.set(key, [{ item, resolve, reject }]);
      this.#ready.add(key);
    } else {
      waiting.push({ item, resolve, reject });
    }
    if (!this.#scheduled && this.#calls < MAX_CALLS) {
      this.#scheduled = true;
      void nextTurn().then(() => {
        this.#scheduled = false;
        this.#send();
      });
    }
    return promise;
  }

  #send(): void {
    while (this.#calls < MAX_CALLS && this.#ready.size > 0) {
      const batch = this.#take();
      this.#calls += 1;
      void this.#do(batch).then(() => {
        this.#calls -= 1;
        this.#send();
      });
    }
  }

  #take(): Waiting<Item, Result>[] {
    const batch: Waiting<Item, Result>[] = [];
    let weight = 0;
    for (const key of this.#ready) {
      this.#ready.delete(key);
      const next = this.#waiting.get(key)?.shift() as Waiting<Item, Result>;
      batch.push(next);
      weight += this.#options.weight(next.item);
      if (batch.length === this.#options.maxItems || weight >= this.#options.maxWeight) break;
    }
    return batch;
  }

  /** Settles all of them. Does not reject. */
  async #do(batch: readonly Waiting<Item, Result>[]): Promise<void> {
    const plain = batch.map(({ item }) => item).filter(this.#options.isPlain);
    let taken: ReadonlyMap<Item, Result> = new Map();
    let failure: StoreUnavailable | undefined;
    try {
      if (plain.length > 0) taken = await this.#options.call(plain);
    } catch (error) {
      // Where the server itself has refused it, something in one of them is to blame: each for itself, then.
      if (error instanceof StoreUnavailable && sqlState(error.cause) === undefined) failure = error;
    }
    await Promise.all(
      batch.map(async ({ item, resolve, reject }) => {
        try {
          if (failure !== undefined) throw failure;
          resolve(taken.get(item) ?? (await this.#options.alone(item)));
        } catch (error) {
          reject(error);
        } finally {
          this.#free(this.#options.key(item));
        }
      }),
    );
  }

  #free(key: string): void {
    if (this.#waiting.get(key)?.length === 0) this.#waiting.delete(key);
    else this.#ready.add(key);
  }
}
