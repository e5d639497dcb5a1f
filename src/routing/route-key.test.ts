/** Keys and routes: what is taken, what is refused, and that text and key are one to one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { parseRoute } from "./route.ts";
import {
  formatRouteKey,
  parseRouteKey,
  type RouteKey,
  readRouteKey,
  roomKey,
  routeKeyOf,
  sameRoom,
} from "./route-key.ts";
import { RoutingError } from "./routing-error.ts";

const KEY: RouteKey = { channel: "slack", bridge: "T024", room: "C042", thread: "1700.1" };

/** Any text at all, separators and escapes more often than by chance, half characters too. */
const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 20 }),
  fc.string({ unit: fc.constantFrom("/", "%", "2", "F", "5", "a", "\u0000", "é", "😀"), maxLength: 12 }),
  fc.array(fc.integer({ min: 0xd7f0, max: 0xe00f }), { maxLength: 4 }).map((units) => String.fromCharCode(...units)),
);
const part = anyText.filter((text) => text !== "" && text.isWellFormed());
const anyKey: fc.Arbitrary<RouteKey> = fc.record(
  { channel: part, bridge: part, room: part, thread: part },
  { requiredKeys: ["channel", "bridge", "room"] },
);

const complains = (work: () => unknown, code: RoutingError["code"], message: RegExp) =>
  assert.throws(work, (error) => {
    assert.ok(error instanceof RoutingError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });

test("[RTE-1] each key is read back from its text", () => {
  fc.assert(fc.property(anyKey, (key) => assert.deepEqual(readRouteKey(formatRouteKey(key)), { ...key })));
  assert.equal(formatRouteKey(KEY), "slack/T024/C042/1700.1");
  assert.equal(formatRouteKey({ channel: "x", bridge: "a/b", room: "50%" }), "x/a%2Fb/50%25");
});

test("[RTE-1] two keys that differ have texts that differ", () => {
  fc.assert(
    fc.property(anyKey, anyKey, (one, other) => {
      const same = ["channel", "bridge", "room", "thread"].every(
        (name) => one[name as keyof RouteKey] === other[name as keyof RouteKey],
      );
      assert.equal(formatRouteKey(one) === formatRouteKey(other), same);
    }),
  );
});

test("[RTE-1] any text is refused, or is exactly what its key is written as", () => {
  const pieces = fc.array(anyText, { minLength: 1, maxLength: 5 }).map((parts) => parts.join("/"));
  fc.assert(
    fc.property(pieces, (text) => {
      let key: RouteKey;
      try {
        key = readRouteKey(text);
      } catch (error) {
        assert.ok(error instanceof RoutingError);
        return;
      }
      assert.equal(formatRouteKey(key), text);
    }),
  );
});

test("[RTE-2] a text as a part makes a key, or is refused by the part's name", () => {
  fc.assert(
    fc.property(anyText, fc.constantFrom("channel", "bridge", "room", "thread"), (text, name) => {
      const key = { ...KEY, [name]: text };
      if (text !== "" && text.isWellFormed()) assert.deepEqual(parseRouteKey(key), key);
      else complains(() => formatRouteKey(key), "invalid_key", new RegExp(`^routeKey\\.${name}: ".*; .*\\.$`, "s"));
    }),
  );
});

test("[RTE-2] what is no key is refused with field, value and remedy", () => {
  for (const [value, message] of [
    [undefined, /^routeKey: undefined is no key; give an object/],
    [null, /^routeKey: null /],
    ["slack/T/C", /^routeKey: "slack\/T\/C" is no key/],
    [["slack", "T", "C"], /^routeKey: a list /],
    [{ ...KEY, channel: undefined }, /^routeKey\.channel: undefined is not a text/],
    [{ ...KEY, bridge: 7 }, /^routeKey\.bridge: 7 is not a text/],
    [{ ...KEY, room: Symbol("x") }, /^routeKey\.room: a symbol is not a text/],
    [{ ...KEY, room: {} }, /^routeKey\.room: an object is not a text/],
    [{ ...KEY, thread: null }, /^routeKey\.thread: null is not a text/],
    [{ ...KEY, thread: "" }, /^routeKey\.thread: "" is empty; leave it out/],
    [{ ...KEY, room: "x".repeat(1025) }, /^routeKey\.room: "x{80}"… has 1025 characters; give at most 1024/],
    [{ ...KEY, room: "\ud83d" }, /^routeKey\.room: "\\ud83d" is not well-formed/],
    [{ ...KEY, threadId: "1" }, /^routeKey: "threadId" is no part of a key; it has channel, bridge, room, thread/],
  ] as const) {
    complains(() => parseRouteKey(value), "invalid_key", message);
  }
  for (const [text, message] of [
    ["", /has not 3 or 4 parts/],
    ["slack/T", /has not 3 or 4 parts/],
    ["a/b/c/d/e", /has not 3 or 4 parts/],
    ["a//c", /routeKey\.bridge: "" is empty/],
    ["a/b/c/", /routeKey\.thread: "" is empty/],
    ["a/b/50%", /a % that stands for nothing; write it as %25/],
    ["a/b/%2f", /a % that stands for nothing/],
    ["a/b/%41", /a % that stands for nothing/],
  ] as const) {
    complains(() => readRouteKey(text), "invalid_key", message);
  }
});

test("[RTE-3] a message's key is of the internal room if there is one, else of the external one", () => {
  const place = { channel: "tg", bridge: "bot", externalRoomId: -100200, threadId: 7 };
  assert.deepEqual(routeKeyOf({ ...place, roomId: "room_1" }), {
    channel: "tg",
    bridge: "bot",
    room: "room_1",
    thread: "7",
  });
  for (const roomId of [undefined, null, ""]) {
    assert.deepEqual(routeKeyOf({ ...place, roomId, threadId: null }), {
      channel: "tg",
      bridge: "bot",
      room: "-100200",
    });
  }
  complains(() => routeKeyOf({ channel: "tg", bridge: "bot" }), "invalid_key", /^roomId, externalRoomId: neither/);
  complains(
    () => routeKeyOf({ ...place, externalRoomId: Number.NaN }),
    "invalid_key",
    /^routeKey\.room: NaN is not a text/,
  );
});

test("[RTE-3] a room's key is without the thread, and two keys of one room are told", () => {
  assert.deepEqual(roomKey(KEY), { channel: "slack", bridge: "T024", room: "C042" });
  assert.ok(sameRoom(KEY, roomKey(KEY)));
  for (const other of [{ channel: "x" }, { bridge: "x" }, { room: "x" }])
    assert.ok(!sameRoom(KEY, { ...KEY, ...other }));
});

test("[RTE-4] a route names a place, keeps what else it has, and is not changed from outside", () => {
  const given = { externalRoomId: "C042", threadId: "1", extra: { a: 1 }, bridgeId: null as unknown as undefined };
  const route = parseRoute(given);
  given.externalRoomId = "C666";
  assert.deepEqual(route, { externalRoomId: "C042", threadId: "1", extra: { a: 1 } });
  for (const externalRoomId of [0, false, "", { team: 1 }]) {
    assert.equal(parseRoute({ externalRoomId }).externalRoomId, externalRoomId);
  }
  for (const [value, message] of [
    [undefined, /^route: undefined is no route; give an object with at least externalRoomId\.$/],
    ["C1", /^route: "C1" is no route/],
    [[], /^route: a list is no route/],
    [{}, /^route\.externalRoomId: undefined names no place; give /],
    [{ externalRoomId: null }, /^route\.externalRoomId: null names no place/],
    [{ externalRoomId: 1, threadId: 7 }, /^route\.threadId: 7 is not a text; give one, or leave it out\.$/],
  ] as const) {
    complains(() => parseRoute(value), "invalid_route", message);
  }
});
