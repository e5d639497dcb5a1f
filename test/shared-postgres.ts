/** The PostgreSQL server of this test process: started by the first who asks, and stopped when its tests are done. */
import { after } from "node:test";
import { type PostgresServer, postgresServer } from "./postgres.ts";

let shared: Promise<PostgresServer | { reason: string }> | undefined;

export function sharedPostgres(): Promise<PostgresServer | { reason: string }> {
  shared ??= postgresServer();
  return shared;
}

after(async () => {
  const server = await shared;
  if (server !== undefined && "url" in server) await server[Symbol.asyncDispose]();
});
