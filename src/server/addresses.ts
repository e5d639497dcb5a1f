/**
 * Whose request is answered (SRV-2). A page of another site may point its own name at this machine
 * (DNS rebinding) or open a WebSocket from its own origin: `Host` tells the first, `Origin` the second.
 * Programs send no `Origin`.
 */
import type { IncomingMessage } from "node:http";

const LOOPBACK: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "[::1]"]);
const WILDCARDS: ReadonlySet<string> = new Set(["0.0.0.0", "::", "[::]"]);

/** Whether nobody but this machine reaches an address. */
export const isLoopback = (host: string): boolean => LOOPBACK.has(bracketed(host)) || /^127(\.\d{1,3}){3}$/.test(host);

/** An address as it stands in a URL: an IPv6 one in brackets. */
export const bracketed = (host: string): string => (host.includes(":") && !host.startsWith("[") ? `[${host}]` : host);

/** Where to connect to a server that listens on `host`: "every address" is none to connect to. */
export function reachableHost(host: string): string {
  if (!WILDCARDS.has(host)) return host;
  return host === "0.0.0.0" ? "127.0.0.1" : "::1";
}

/** The host's name without its port, in lower case; `undefined` when it is no host. */
function nameOf(authority: string): string | undefined {
  return /^(\[[0-9a-f:.]+\]|[^:/?#@\s]+)(?::\d{1,5})?$/.exec(authority.toLowerCase())?.[1];
}

export interface AddressRules {
  /** The address that the server was told to listen on. */
  boundHost: string;
  /** Further names under which it is reached, without a port. */
  allowedHosts: readonly string[];
  /** Further origins whose pages may connect, as browsers send them: `https://app.example.com`. */
  allowedOrigins: readonly string[];
}

/** Why a request is refused, or `undefined`. */
export function refusalOf(request: IncomingMessage, rules: AddressRules): string | undefined {
  const { host = "", origin } = request.headers;
  // Of two, a proxy before us may have looked at the other one.
  if ((request.headersDistinct["host"]?.length ?? 0) > 1 || (request.headersDistinct["origin"]?.length ?? 0) > 1) {
    return "Host or Origin is there twice.";
  }
  const name = nameOf(host);
  if (name === undefined || !isOurs(name, request, rules)) {
    return "Host is not a name of this server; name it in allowedHosts if it is.";
  }
  if (origin === undefined || rules.allowedOrigins.includes(origin)) return undefined;
  if (isOriginOf(origin, host.toLowerCase())) return undefined;
  return "Origin is foreign; name it in allowedOrigins if its pages may connect.";
}

/** Whether pages of that host have this origin: it is a scheme and the host, as browsers send it, and no more. */
function isOriginOf(origin: string, host: string): boolean {
  if (!URL.canParse(origin)) return false;
  const url = new URL(origin);
  return /^https?:$/.test(url.protocol) && url.host === host && url.origin === origin.toLowerCase();
}

function isOurs(name: string, request: IncomingMessage, rules: AddressRules): boolean {
  if (isLoopback(name) || name === bracketed(rules.boundHost).toLowerCase()) return true;
  if (rules.allowedHosts.some((allowed) => bracketed(allowed).toLowerCase() === name)) return true;
  // Bound to every address of the machine: the one that the request came in on is the server's.
  const local = request.socket.localAddress?.replace(/^::ffff:/, "");
  return WILDCARDS.has(rules.boundHost) && local !== undefined && bracketed(local) === name;
}
