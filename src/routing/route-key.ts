/**
 * Route keys: whose answers a route is for. Channel, bridge (one installation of a channel: a workspace, a bot), room
 * and, where rooms have them, thread (RTE-1 to RTE-3).
 *
 * As text a key is its parts with a slash between them; within a part `/` and `%` are percent-encoded, and nothing
 * else is. So each key has one text, and no two have the same.
 */
import { RoutingError, shown } from "./routing-error.ts";

export interface RouteKey {
  readonly channel: string;
  readonly bridge: string;
  readonly room: string;
  readonly thread?: string | undefined;
}

/** Where a message came from, as a channel's adapter knows it. */
export interface MessagePlace {
  readonly channel: string;
  readonly bridge: string;
  /** The host's own name for the room. */
  readonly roomId?: string | null | undefined;
  /** The channel's. */
  readonly externalRoomId?: string | number | bigint | null | undefined;
  readonly threadId?: string | number | bigint | null | undefined;
}

/** Of one part. */
export const MAX_PART_CHARS = 1024;

const NAMES = ["channel", "bridge", "room", "thread"] as const;
const ESCAPED = /[%/]/g;
/** A percent sign that is no escape of ours, or an escape of what needs none. */
const ODD_ESCAPE = /%(?!25|2F)/;

/**
 * Checks a key that came from anywhere, and copies it.
 *
 * @throws RoutingError `invalid_key`
 */
export function parseRouteKey(value: unknown): RouteKey {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalid("routeKey", value, "is no key; give an object with channel, bridge, room and perhaps thread");
  }
  const { channel, bridge, room, thread, ...odd } = value as Readonly<Record<string, unknown>>;
  const unknown = Object.keys(odd)[0];
  if (unknown !== undefined) throw invalid("routeKey", unknown, `is no part of a key; it has ${NAMES.join(", ")}`);
  return {
    channel: checked(channel, "channel"),
    bridge: checked(bridge, "bridge"),
    room: checked(room, "room"),
    ...(thread === undefined ? {} : { thread: checked(thread, "thread") }),
  };
}

function checked(part: unknown, name: string): string {
  const field = `routeKey.${name}`;
  if (typeof part !== "string") throw invalid(field, part, "is not a text; give one");
  if (part === "") throw invalid(field, part, name === "thread" ? "is empty; leave it out" : "is empty; give a name");
  if (part.length > MAX_PART_CHARS) {
    throw invalid(field, part, `has ${part.length} characters; give at most ${MAX_PART_CHARS}`);
  }
  if (!part.isWellFormed()) throw invalid(field, part, "is not well-formed Unicode; leave half characters out");
  return part;
}

/**
 * `slack/T024/C042/1700000000.0001`
 *
 * @throws RoutingError `invalid_key`
 */
export function formatRouteKey(key: RouteKey): string {
  const { channel, bridge, room, thread } = parseRouteKey(key);
  const text = `${escaped(channel)}/${escaped(bridge)}/${escaped(room)}`;
  return thread === undefined ? text : `${text}/${escaped(thread)}`;
}

const escaped = (part: string): string => part.replace(ESCAPED, (character) => (character === "/" ? "%2F" : "%25"));

/**
 * The key whose text that is. Takes exactly what {@link formatRouteKey} writes, so that no two texts are one key.
 *
 * @throws RoutingError `invalid_key`
 */
export function readRouteKey(text: string): RouteKey {
  if (typeof text !== "string") throw invalid("routeKey", text, "is not a text; write channel/bridge/room[/thread]");
  const parts = text.split("/", NAMES.length + 1);
  if (parts.length < 3 || parts.length > 4) {
    throw invalid("routeKey", text, "has not 3 or 4 parts; write channel/bridge/room[/thread], a slash within as %2F");
  }
  if (ODD_ESCAPE.test(text)) {
    throw invalid("routeKey", text, "has a % that stands for nothing; write it as %25, only it and %2F are escapes");
  }
  const [channel, bridge, room, thread] = parts.map(unescaped);
  return parseRouteKey({ channel, bridge, room, ...(thread === undefined ? {} : { thread }) });
}

const unescaped = (part: string): string => part.replaceAll("%2F", "/").replaceAll("%25", "%");

/** The key of the whole room: its thread is dropped. */
export const roomKey = ({ channel, bridge, room }: RouteKey): RouteKey => ({ channel, bridge, room });

/** Whether both are of one room, whatever their threads. */
export const sameRoom = (a: RouteKey, b: RouteKey): boolean =>
  a.room === b.room && a.bridge === b.bridge && a.channel === b.channel;

/**
 * The key for answers to a message: of the internal room if it is known, else of the external one.
 *
 * @throws RoutingError `invalid_key`
 */
export function routeKeyOf(place: MessagePlace): RouteKey {
  const thread = named(place.threadId);
  const room = named(place.roomId) ?? named(place.externalRoomId);
  if (room === undefined) {
    throw new RoutingError("invalid_key", "roomId, externalRoomId: neither names a room; give one of them.");
  }
  return parseRouteKey({
    channel: place.channel,
    bridge: place.bridge,
    room,
    ...(thread === undefined ? {} : { thread }),
  });
}

/** Channels number their rooms or name them; nothing and an empty text name none. */
function named(id: unknown): unknown {
  if (id === undefined || id === null || id === "") return undefined;
  return typeof id === "bigint" || Number.isSafeInteger(id) ? String(id) : id;
}

const invalid = (field: string, value: unknown, reason: string): RoutingError =>
  new RoutingError("invalid_key", `${field}: ${shown(value)} ${reason}.`);
