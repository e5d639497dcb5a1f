import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ManualClock } from "../../testing/manual-clock.ts";
import { storeContract } from "../../testing/store-contract.ts";
import type { Store } from "../store.ts";
import { sqlite } from "./index.ts";

storeContract("SQLite", async () => {
  const directory = await mkdtemp(join(tmpdir(), "holdfast-store-"));
  const clock = new ManualClock();
  const open = async (): Promise<Store> => {
    const opened = sqlite(join(directory, "store.db"), { clock });
    await opened.start();
    return opened;
  };
  const store = await open();
  let current = store;
  return {
    store,
    clock,
    async reopen() {
      await current.stop();
      current = await open();
      return current;
    },
    async [Symbol.asyncDispose]() {
      await current.stop();
      await rm(directory, { recursive: true });
    },
  };
});
