import { test } from "node:test";
import pg from "pg";
import { sharedPostgres } from "../../../test/shared-postgres.ts";
import { systemClock } from "../../clock.ts";
import { silentLogger } from "../../logger.ts";
import { busContract } from "../../testing/bus-contract.ts";
import { NotifyBus } from "./notify-bus.ts";

const server = await sharedPostgres();

if ("reason" in server) {
  test("[CLU-8] the bus contract over LISTEN and NOTIFY", { skip: server.reason }, () => undefined);
} else {
  busContract("LISTEN and NOTIFY", async () => {
    const { url } = await server.createDatabase();
    const pool = new pg.Pool({ connectionString: url, max: 4 });
    const buses: NotifyBus[] = [];
    return {
      join() {
        const bus = new NotifyBus({
          channel: 'odd "name"',
          notify: (channel, messages) =>
            pool.query("SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message", [channel, messages]),
          async connect() {
            const client = new pg.Client({ connectionString: url });
            await client.connect();
            return { client, end: () => void client.end() };
          },
          clock: systemClock,
          logger: silentLogger,
        });
        buses.push(bus);
        return bus;
      },
      async [Symbol.asyncDispose]() {
        for (const bus of buses) bus.stop();
        await pool.end();
      },
    };
  });
}
