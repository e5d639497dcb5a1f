/**
 * The one spelling of what an operation wants to touch. Patterns are held against canonical targets only, and
 * the operation has to use the canonical one: between the check and the use nothing is spelt anew. What could
 * be read in two ways is refused, not repaired (LEA-5, LEA-6, LEA-7). Costs microseconds; keeps nothing.
 */
import { ArcpError } from "../protocol/index.ts";
import { type CapabilityKind, kindOf } from "./capability.ts";
import { checkName } from "./name.ts";
import { quote, refuse, shorten, unlessRefused } from "./refusal.ts";
import { checkCharacters, checkEnds, checkSegments, DOT_AT_END, decodeSegment, ESCAPE } from "./segments.ts";

export interface CanonicalTarget {
  /** What the operation uses; of `net.fetch` a URL with its query. Canonical again, it is the same. */
  readonly target: string;
  /** What patterns are held against; of `net.fetch` without the query, its path decoded. */
  readonly subject: string;
}

const MAX_TARGET_CHARS = 8_192;
const MAX_NAME_CHARS = 256;

/** @throws ArcpError PERMISSION_DENIED for what is no target of that capability, or none beyond doubt */
export function canonicalTarget(capability: string, text: string): CanonicalTarget {
  const kind = kindOf(capability);
  return unlessRefused(
    () => {
      if (kind === undefined || kind === "amount")
        return refuse("cannot be asked for: no operation needs this capability");
      checkCharacters(text, MAX_TARGET_CHARS);
      const canonical = CANONICAL[kind](text, capability);
      return canonical.target.length > MAX_TARGET_CHARS
        ? refuse(`has more than ${MAX_TARGET_CHARS} characters when encoded`)
        : canonical;
    },
    (reason) => {
      throw denied(capability, text, reason);
    },
  );
}

export const denied = (capability: string, target: string, reason: string): ArcpError =>
  new ArcpError("PERMISSION_DENIED", `${shorten(capability)}: ${quote(publicPart(capability, target))} ${reason}.`, {
    details: operationDetails(capability, target),
  });

/** What an error tells about the operation that was refused, short enough to be repeated. */
export const operationDetails = (capability: string, target: string): { capability: string; target: string } => ({
  capability: shorten(capability),
  target: shorten(publicPart(capability, target)),
});

/** Errors are logged and stored; the query and the userinfo of a URL is where secrets are. */
function publicPart(capability: string, target: string): string {
  if (kindOf(capability) !== "url") return target;
  return target.replace(/[?#].*$/s, "").replace(/^([^/]*\/\/)?[^/]*@/, "$1");
}

const same = (text: string): CanonicalTarget => ({ target: text, subject: text });

const CANONICAL: Readonly<
  Record<Exclude<CapabilityKind, "amount">, (text: string, capability: string) => CanonicalTarget>
> = {
  path: (text) => same(canonicalPath(text)),
  url: canonicalUrl,
  name(text, capability) {
    if (text.length > MAX_NAME_CHARS) refuse(`has more than ${MAX_NAME_CHARS} characters`);
    checkName(capability, text);
    checkSegments(text.split("/"));
    return same(text);
  },
  vendor(text) {
    if (ESCAPE.test(text)) refuse("is percent-encoded");
    const segments = text.split("/");
    checkSegments(segments);
    checkEnds(segments);
    return same(text);
  },
};

function canonicalPath(text: string): string {
  const [root, ...given] = text.split("/");
  if (root !== "") refuse("is not an absolute path");
  if (given.at(-1) === "") given.pop();
  const segments: string[] = [];
  for (const segment of given.map(decodeSegment)) {
    if (segment === ".") continue;
    if (segment !== "..") segments.push(segment);
    else if (segments.pop() === undefined) refuse("climbs above the root");
  }
  checkSegments(segments);
  checkEnds(segments);
  return `/${segments.join("/")}`;
}

const HTTP_URL = /^https?:\/\/([^/?#]+)/i;

function canonicalUrl(text: string): CanonicalTarget {
  const authority = HTTP_URL.exec(text)?.[1] ?? refuse("is not an http or https URL with a host");
  if (authority.includes("@")) refuse("holds a user name or a password");
  if (authority.includes("%")) refuse("has a percent-encoded host");
  if (text.trim() !== text) refuse("ends in white space");
  const url = URL.parse(text) ?? refuse("is not a URL");
  if (DOT_AT_END.test(authority) || DOT_AT_END.test(url.host)) refuse("has a host that ends in a dot");
  const segments = url.pathname.slice(1).split("/").map(decodeSegment);
  checkSegments(segments.at(-1) === "" ? segments.slice(0, -1) : segments);
  const origin = `${url.protocol}//${url.host}/`;
  return {
    target: `${origin}${segments.map(encodeSegment).join("/")}${url.search}`,
    subject: `${origin}${segments.join("/")}`,
  };
}

/** Everything that a segment of a URL may not hold as it is (RFC 3986, 3.3), and so every `?`, `#` and `%`. */
const encodeSegment = (segment: string): string =>
  segment.replace(/[^A-Za-z0-9\-._~!$&'()*+,;=:@]+/g, encodeURIComponent);
