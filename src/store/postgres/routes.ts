/**
 * Routes that all nodes share (store/routes.ts). Whether one is good is told by the server's clock. Each row is locked
 * alone, or with its room's in the order of their ids.
 */
import {
  MAX_STORED_ROUTES,
  type NewRoute,
  type RouteAnswer,
  type RouteFacet,
  type RouteFound,
  type RouteQuestion,
  type StoredRoute,
} from "../store.ts";
import type { Transaction } from "./database.ts";
import type { Engine } from "./engine.ts";

interface RouteRow {
  route_id: string;
  key: string;
  route: string;
  updated_at: number;
  expires_at: number;
  remaining_ms: number;
}

export function routeFacet(engine: Engine): RouteFacet {
  return {
    set: (route) => engine.single((db) => set(db, route)),
    async get({ routeId }) {
      const found = await engine.single(async (db) => stateOf(await rowOf(db, routeId)));
      if (found.state !== "expired") return found;
      // Of several who find it expired one says so.
      const gone = await engine.single((db) =>
        db.run("DELETE FROM $.routes WHERE route_id = $1 AND expires_at <= $now", routeId),
      );
      return gone === 1 ? found : await engine.single(async (db) => stateOf(await rowOf(db, routeId)));
    },
    async resolve(question) {
      const own = await engine.single((db) => rowOf(db, question.routeId));
      if (own !== undefined && own.remaining_ms > 0) return { from: "own", stale: false, route: toRoute(own) };
      return await engine.write((db) => resolve(db, question));
    },
    newest: ({ limit }) =>
      engine.single(async (db) =>
        (await db.all<RouteRow>(`${SELECT} ORDER BY updated_at DESC, route_id LIMIT $1`, limit)).map(toRoute),
      ),
  };
}

const COLUMNS = "route_id, key, route, updated_at, expires_at, expires_at - $now AS remaining_ms";
const SELECT = `SELECT ${COLUMNS} FROM $.routes`;

const toRoute = ({ key, route, updated_at, expires_at, remaining_ms }: RouteRow): StoredRoute => ({
  key,
  route,
  updatedAt: updated_at,
  expiresAt: expires_at,
  remainingMs: Math.max(0, remaining_ms),
});

const rowOf = (db: Transaction, routeId: string): Promise<RouteRow | undefined> =>
  db.get<RouteRow>(`${SELECT} WHERE route_id = $1`, routeId);

function stateOf(row: RouteRow | undefined): RouteFound {
  if (row === undefined) return { state: "none" };
  return row.remaining_ms > 0 ? { state: "fresh", route: toRoute(row) } : { state: "expired" };
}

const UPSERT = `INSERT INTO $.routes AS r (route_id, key, route, updated_at, expires_at)
  SELECT $1, $2, $3, now, now + $4::float8 FROM (SELECT $now AS now) AS clock
  ON CONFLICT (route_id) DO UPDATE SET route = excluded.route, updated_at = excluded.updated_at,
    expires_at = excluded.expires_at`;

async function set(db: Transaction, { routeId, key, route, ttlMs }: NewRoute): Promise<StoredRoute> {
  const row = await db.get<RouteRow>(`${UPSERT} RETURNING ${COLUMNS}`, routeId, key, route, ttlMs);
  return toRoute(row as RouteRow);
}

async function resolve(db: Transaction, question: RouteQuestion): Promise<RouteAnswer> {
  const { routeId, key, roomId, fallback, ttlMs } = question;
  const ids = roomId === undefined ? [routeId] : [routeId, roomId];
  const rows = await db.all<RouteRow>(`${SELECT} WHERE route_id = ANY($1) ORDER BY route_id FOR UPDATE`, ids);
  const own = stateOf(rows.find((row) => row.route_id === routeId));
  if (own.state === "fresh") return { from: "own", stale: false, route: own.route };
  const room = stateOf(rows.find((row) => row.route_id === roomId));
  const expired = [...(own.state === "expired" ? [routeId] : []), ...(room.state === "expired" ? [roomId ?? ""] : [])];
  if (expired.length > 0) await db.run("DELETE FROM $.routes WHERE route_id = ANY($1)", expired);
  const stale = own.state === "expired" || (room.state !== "fresh" && expired.length > 0);
  const route = room.state === "fresh" ? room.route.route : fallback;
  if (route === undefined) return { from: "nowhere", stale };
  // Whoever has set it since it was looked for, in a commit of his own, is right.
  const copy = await db.get<RouteRow>(
    `${UPSERT} WHERE r.expires_at <= excluded.updated_at RETURNING ${COLUMNS}`,
    routeId,
    key,
    route,
    ttlMs,
  );
  if (copy === undefined) {
    return { from: "own", stale: false, route: toRoute((await rowOf(db, routeId)) as RouteRow) };
  }
  return { from: room.state === "fresh" ? "room" : "fallback", stale, route: toRoute(copy) };
}

/** For the janitor. @returns how many went */
export async function forgetRoutes(
  db: Transaction,
  { most = MAX_STORED_ROUTES, limit }: { most?: number | undefined; limit: number },
): Promise<number> {
  const expired = await db.run(
    `DELETE FROM $.routes WHERE route_id IN
       (SELECT route_id FROM $.routes WHERE expires_at <= (SELECT $now) ORDER BY route_id LIMIT $1 FOR UPDATE SKIP LOCKED)`,
    limit,
  );
  const above = await db.run(
    `DELETE FROM $.routes WHERE route_id IN (SELECT route_id FROM $.routes WHERE route_id IN
         (SELECT route_id FROM $.routes ORDER BY updated_at DESC, route_id DESC LIMIT $1 OFFSET $2)
       ORDER BY route_id FOR UPDATE SKIP LOCKED)`,
    limit,
    most,
  );
  return expired + above;
}
