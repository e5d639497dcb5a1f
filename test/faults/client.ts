/** A client of a scenario, as its parent sees it: a process behind a proxy of its own. */
import { sleep, systemClock } from "../../src/clock.ts";
import { FEATURES, type Feature } from "../../src/protocol/index.ts";
import { Child, Handling } from "./child.ts";
import type { ClientCommand, ClientSettings, ClientWord } from "./client-process.ts";
import { readJournal, type Written } from "./journal.ts";
import type { Plan } from "./plan.ts";
import type { FaultProxy } from "./proxy.ts";

export const FEATURES_OF: Record<Plan["clients"][number]["features"], readonly Feature[]> = {
  all: FEATURES,
  "no progress": FEATURES.filter((feature) => feature !== "progress"),
  "no ack": FEATURES.filter((feature) => feature !== "ack"),
};

export type Accepted = (accepted: Extract<ClientWord, { said: "accepted" }>) => void;

export class Client {
  readonly proxy: FaultProxy;
  readonly #settings: ClientSettings;
  readonly #accepted: Accepted;
  #child: Child<ClientCommand>;
  readonly #handling = new Handling();

  constructor(settings: ClientSettings, proxy: FaultProxy, accepted: Accepted) {
    this.#settings = settings;
    this.proxy = proxy;
    this.#accepted = accepted;
    this.#child = this.#spawn();
  }

  get name(): string {
    return this.#settings.name;
  }

  get journal(): readonly Written[] {
    return readJournal(this.#settings.journal);
  }

  get exited(): Promise<void> {
    return this.#child.exited;
  }

  async ready(): Promise<void> {
    await this.#child.ready();
  }

  send(command: ClientCommand): void {
    this.#child.send(command);
  }

  replace(downMs: number): Promise<void> {
    return this.#handling.run(async () => {
      // A hello of the dead process that arrived now would be taken for its successor's.
      this.proxy.heal();
      await this.#child.kill();
      await sleep(systemClock, downMs);
      this.#child = this.#spawn();
    });
  }

  pause(forMs: number): Promise<void> {
    return this.#handling.run(() => this.#child.pause(forMs));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.kill();
    await this.proxy[Symbol.asyncDispose]();
  }

  #spawn(): Child<ClientCommand> {
    return new Child("client-process.ts", this.#settings, (line) => {
      const word = JSON.parse(line) as ClientWord;
      if (word.said === "accepted") this.#accepted(word);
    });
  }
}
