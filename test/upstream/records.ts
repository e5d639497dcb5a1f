/** The three kinds of records that we ship, as a test and its worker processes open them. */
import { DatabaseSync } from "node:sqlite";
import pg from "pg";
import { systemClock } from "../../src/clock.ts";
import {
  type Backend,
  ConversationUpstream,
  postgresTable,
  type SqliteConnection,
  sqliteTable,
  type UpstreamRecord,
  type UpstreamTable,
} from "../../src/conversation/upstream/index.ts";
import { silentLogger } from "../../src/logger.ts";
import type { Store } from "../../src/store/store.ts";

export type Place = { kind: "conversation" } | { kind: "sqlite"; file: string } | { kind: "postgres"; url: string };

/** Called before and after whatever leaves this process; a worker that is to die does so in here. */
export type Step = (name: string) => void;

export interface OpenPlace extends AsyncDisposable {
  readonly table: UpstreamTable | undefined;
  load(id: string): Promise<UpstreamRecord>;
}

/** Every method of it is a step before and a step after. */
export function stepped<T extends object>(target: T, what: string, step: Step, methods: readonly string[]): T {
  return new Proxy(target, {
    get(inner, name) {
      const value: unknown = Reflect.get(inner, name);
      if (typeof value !== "function") return value;
      if (!methods.includes(String(name))) return value.bind(inner);
      return (...given: unknown[]) => {
        const where = `${what}.${String(name)} ${typeof given[0] === "string" ? given[0].slice(0, 20) : ""}`;
        step(`before ${where}`);
        const result: unknown = value.apply(inner, given);
        if (!(result instanceof Promise)) {
          step(`after ${where}`);
          return result;
        }
        return result.then((settled: unknown) => {
          step(`after ${where}`);
          return settled;
        });
      };
    },
  });
}

const nothingToClose = () => Promise.resolve();

const NOTES = ["claim", "bind", "unclaim", "lose", "intend", "persist", "settle", "doom", "gone"];

export function openPlace(place: Place, store: Store, backend: Backend, step: Step = () => undefined): OpenPlace {
  const bindings = stepped(store.bindings, "bindings", step, NOTES);
  const table = { table: "threads", bindings };
  switch (place.kind) {
    case "conversation":
      return {
        table: undefined,
        load: (conversationId) =>
          ConversationUpstream.load({
            bindings,
            clock: systemClock,
            logger: silentLogger,
            backend,
            conversationId,
            title: "a thread",
          }),
        [Symbol.asyncDispose]: nothingToClose,
      };
    case "sqlite": {
      const connect = (): SqliteConnection => {
        const connection = stepped(new DatabaseSync(place.file), "sqlite", step, ["exec"]);
        const prepare = connection.prepare.bind(connection);
        return {
          exec: (sql) => connection.exec(sql),
          prepare: (sql) => stepped(prepare(sql), sql.slice(0, 6), step, ["run"]),
          close: () => connection.close(),
        };
      };
      const rows = sqliteTable({ ...table, connect });
      return { table: rows, load: (id) => rows.load(id), [Symbol.asyncDispose]: nothingToClose };
    }
    case "postgres": {
      const pool = new pg.Pool({ connectionString: place.url, max: 4 });
      // A server that goes away takes idle clients along; nobody waits for them.
      pool.on("error", () => undefined);
      const rows = postgresTable({
        ...table,
        pool: { connect: async () => stepped(await pool.connect(), "postgres", step, ["query"]) },
      });
      return { table: rows, load: (id) => rows.load(id), [Symbol.asyncDispose]: () => pool.end() };
    }
  }
}
