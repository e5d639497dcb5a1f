/** Routes that the processes on the file share (store/routes.ts). */
import {
  MAX_STORED_ROUTES,
  type NewRoute,
  type RouteAnswer,
  type RouteFacet,
  type RouteFound,
  type RouteQuestion,
  type StoredRoute,
} from "../store.ts";
import type { Database } from "./database.ts";
import type { Engine } from "./engine.ts";

interface RouteRow {
  key: string;
  route: string;
  updated_at: number;
  expires_at: number;
}

const ONE_ROW = { rows: 2, bytes: 0 };

export function routeFacet(engine: Engine): RouteFacet {
  return {
    set: (route) => engine.write((db) => set(db, route), { rows: 1, bytes: route.route.length }),
    async get(query) {
      const found = await engine.read((db) => look(db, query));
      // Of several who find it expired one may say so.
      return found.state === "expired" ? await engine.write((db) => take(db, query), ONE_ROW) : found;
    },
    async resolve(question) {
      const { routeId, now } = question;
      const own = await engine.read((db) => look(db, { routeId, now }));
      if (own.state === "fresh") return { from: "own", stale: false, route: own.route };
      return await engine.write((db) => resolve(db, question), ONE_ROW);
    },
    newest: ({ limit, now }) =>
      engine.read((db) =>
        db.all<RouteRow>(`${SELECT} ORDER BY updated_at DESC, route_id LIMIT ?`, limit).map((row) => toRoute(row, now)),
      ),
  };
}

const SELECT = "SELECT key, route, updated_at, expires_at FROM routes";

const toRoute = ({ key, route, updated_at, expires_at }: RouteRow, now: number): StoredRoute => ({
  key,
  route,
  updatedAt: updated_at,
  expiresAt: expires_at,
  remainingMs: Math.max(0, expires_at - now),
});

function look(db: Database, { routeId, now }: { routeId: string; now: number }): RouteFound {
  const row = db.get<RouteRow>(`${SELECT} WHERE route_id = ?`, routeId);
  if (row === undefined) return { state: "none" };
  return row.expires_at > now ? { state: "fresh", route: toRoute(row, now) } : { state: "expired" };
}

/** The same, and what has expired goes. */
function take(db: Database, query: { routeId: string; now: number }): RouteFound {
  const found = look(db, query);
  if (found.state === "expired") db.run("DELETE FROM routes WHERE route_id = ?", query.routeId);
  return found;
}

function set(db: Database, { routeId, key, route, ttlMs, now }: NewRoute): StoredRoute {
  db.run("INSERT OR REPLACE INTO routes VALUES (?, ?, ?, ?, ?)", routeId, key, route, now, now + ttlMs);
  return { key, route, updatedAt: now, expiresAt: now + ttlMs, remainingMs: ttlMs };
}

function resolve(db: Database, question: RouteQuestion): RouteAnswer {
  const { routeId, key, roomId, fallback, ttlMs, now } = question;
  const own = take(db, { routeId, now });
  if (own.state === "fresh") return { from: "own", stale: false, route: own.route };
  const room: RouteFound = roomId === undefined ? { state: "none" } : take(db, { routeId: roomId, now });
  if (room.state === "fresh") {
    const route = set(db, { routeId, key, route: room.route.route, ttlMs, now });
    return { from: "room", stale: own.state === "expired", route };
  }
  const stale = own.state === "expired" || room.state === "expired";
  if (fallback === undefined) return { from: "nowhere", stale };
  return { from: "fallback", stale, route: set(db, { routeId, key, route: fallback, ttlMs, now }) };
}

/** For the janitor. @returns how many went */
export function forgetRoutes(db: Database, given: { now: number; most?: number | undefined; limit: number }): number {
  const { now, most = MAX_STORED_ROUTES, limit } = given;
  const expired = db.run(
    "DELETE FROM routes WHERE route_id IN (SELECT route_id FROM routes WHERE expires_at <= ? LIMIT ?)",
    now,
    limit,
  );
  const above = db.run(
    `DELETE FROM routes WHERE route_id IN
       (SELECT route_id FROM routes ORDER BY updated_at DESC, route_id DESC LIMIT ? OFFSET ?)`,
    limit,
    most,
  );
  return expired + above;
}
