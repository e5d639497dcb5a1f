/**
 * The runtime's rules over PostgreSQL: suites that run over SQLite by themselves, once more, on a server of their own.
 * `HOLDFAST_TEST_STORE=postgres` runs others so, too; some of them move time on without waiting for a server's answer,
 * and fail there now and then on a busy machine.
 */
import { test } from "node:test";
import { sharedPostgres } from "./shared-postgres.ts";

const server = await sharedPostgres();

if ("reason" in server) {
  test("[STO-12] the runtime over PostgreSQL", { skip: server.reason }, () => undefined);
} else {
  process.env["HOLDFAST_TEST_STORE"] = "postgres";
  await import("./session.test.ts");
  await import("./resume.test.ts");
  await import("./delegation.test.ts");
}
