import { test } from "node:test";
import { sharedPostgres } from "../../../test/shared-postgres.ts";
import { emptyStore } from "../../../test/test-store.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { storeContract } from "../../testing/store-contract.ts";
import type { Store } from "../store.ts";
import { postgres } from "./index.ts";

const server = await sharedPostgres();

if ("reason" in server) {
  test("[STO-1] the store contract over PostgreSQL", { skip: server.reason }, () => undefined);
} else {
  storeContract("PostgreSQL", async () => {
    const url = await emptyStore();
    const clock = new ManualClock();
    const open = async (): Promise<Store> => {
      const opened = postgres({ url }, { clock, dangerouslyUseTime: () => clock.wall() });
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
      },
    };
  });
}
