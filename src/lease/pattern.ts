/**
 * Patterns of a lease. The grammar is small on purpose: `*` stands for characters of one segment, `**` alone
 * in a segment for any number of segments, none included, and every other character for itself (LEA-2, LEA-3).
 * So `/a/**` covers `/a` and all below it, `/a/*` what lies directly in it and not `/a`, and `*` that is a
 * whole segment at least one character.
 *
 * picomatch reads the wildcards of one segment; across segments nothing is left to a regular expression, which
 * would try each way to share out a target among several wildcards. With two wildcards in a segment and its
 * ends compared first, a match looks at each character a bounded number of times.
 */
import picomatch from "picomatch";
import type { CapabilityKind } from "./capability.ts";
import { checkName } from "./name.ts";
import { quote, refuse } from "./refusal.ts";
import { checkCharacters, checkEnds, checkSegments, DOT_AT_END, ESCAPE } from "./segments.ts";

/** Any number of segments, none included. */
export const GLOBSTAR = "**";

const MAX_PATTERN_CHARS = 2_048;
const MAX_WILDCARDS = 8;
const MAX_WILDCARDS_IN_SEGMENT = 2;

/** What some glob dialect gives a meaning, and this grammar none. */
const FOREIGN = /[?[\]{}()!|"]/;

/** Everything on by default in picomatch that is not in the grammar above is off, whatever the platform. */
const STRICT: picomatch.PicomatchOptions = {
  bash: false,
  basename: false,
  contains: false,
  dot: true,
  fastpaths: false,
  nobrace: true,
  nobracket: true,
  nocase: false,
  noextglob: true,
  noglobstar: true,
  nonegate: true,
  posix: false,
  regex: false,
  strictSlashes: true,
  windows: false,
};

/** @throws Refusal for what is not in the grammar, or could never match a canonical target */
export function canonicalPattern(capability: string, kind: Exclude<CapabilityKind, "amount">, text: string): string {
  checkCharacters(text, MAX_PATTERN_CHARS);
  if (ESCAPE.test(text)) refuse("is percent-encoded; write the characters themselves");
  const pattern = CANONICAL[kind](text, capability);
  checkWildcards(pattern);
  return pattern;
}

function checkWildcards(pattern: string): void {
  const segments = pattern.split("/").map(wildcards);
  if (segments.some((count) => count > MAX_WILDCARDS_IN_SEGMENT)) {
    refuse(`has more than ${MAX_WILDCARDS_IN_SEGMENT} wildcards in a segment`);
  }
  if (segments.reduce((sum, count) => sum + count, 0) > MAX_WILDCARDS) {
    refuse(`has more than ${MAX_WILDCARDS} wildcards`);
  }
}

function wildcards(segment: string): number {
  if (segment === GLOBSTAR) return 1;
  if (segment.includes(GLOBSTAR)) refuse("holds `**` in a longer segment; it stands alone between slashes");
  return segment.split("*").length - 1;
}

/** `**` twice in a row is once. */
const withoutRepeats = (segments: readonly string[]): string[] =>
  segments.filter((segment, index) => segment !== GLOBSTAR || segments[index - 1] !== GLOBSTAR);

function checkForeign(text: string): void {
  const foreign = FOREIGN.exec(text)?.[0];
  if (foreign !== undefined) refuse(`holds \`${foreign}\`; a pattern knows \`*\` and \`**\` only`);
}

/** Segments as a path's, with their wildcards. */
function checkedSegments(text: string): string[] {
  checkForeign(text);
  const segments = withoutRepeats(text.split("/"));
  checkSegments(segments);
  return segments;
}

const CANONICAL: Readonly<Record<Exclude<CapabilityKind, "amount">, (text: string, capability: string) => string>> = {
  path(text) {
    if (text === GLOBSTAR) return "/**";
    if (text === "/") return text;
    if (!text.startsWith("/")) refuse("does not start with `/`");
    if (text.endsWith("/")) refuse("ends in `/`; write `/**` for all below");
    const segments = checkedSegments(text.slice(1));
    checkEnds(segments);
    return `/${segments.join("/")}`;
  },
  url(text) {
    if (text === GLOBSTAR) return text;
    const [, scheme = "", host = "", path = "/"] =
      /^(https?):\/\/([^/]+)(\/.*)?$/i.exec(text) ??
      refuse("is neither `**` nor of the form `https://host/path` or `http://host/path`");
    const origin = `${scheme.toLowerCase()}://${canonicalHost(scheme.toLowerCase(), host)}`;
    if (path.includes("#")) refuse("holds a fragment");
    if (path === "/") return `${origin}/`;
    const open = path.endsWith("/");
    return `${origin}/${checkedSegments(path.slice(1, open ? -1 : undefined)).join("/")}${open ? "/" : ""}`;
  },
  name(text, capability) {
    const segments = checkedSegments(text);
    checkName(capability, text.replaceAll("*", "x"));
    return segments.join("/");
  },
  vendor(text) {
    const segments = checkedSegments(text);
    checkEnds(segments);
    return segments.join("/");
  },
};

/** An address of version 6 stands in brackets, which are nothing else in a host. */
const IPV6 = /^\[[0-9a-f:.]+\](?::\d+)?$/i;
const WILD_HOST = /^[a-z0-9*](?:[a-z0-9.*_-]*[a-z0-9*])?(?::(?:\d{1,5}|\*))?$/;
const DEFAULT_PORT: Readonly<Record<string, string>> = { http: ":80", https: ":443" };

function canonicalHost(scheme: string, host: string): string {
  if (!IPV6.test(host)) checkForeign(host);
  if (/[@%#]/.test(host)) refuse("has a host with a character that no host has");
  if (DOT_AT_END.test(host)) refuse("has a host that ends in a dot");
  if (!host.includes("*")) {
    const url = URL.parse(`${scheme}://${host}/`) ?? refuse("has no valid host");
    return url.host;
  }
  if (host.includes(GLOBSTAR)) refuse("has `**` for a host; `*` stands for any");
  const lower = host.toLowerCase();
  if (!WILD_HOST.test(lower)) refuse(`has no valid host: ${quote(host)} (a host with a wildcard is written in ASCII)`);
  const standard = DEFAULT_PORT[scheme];
  return standard !== undefined && lower.endsWith(standard) ? lower.slice(0, -standard.length) : lower;
}

/** A canonical pattern, made ready to be held against targets. */
export class Pattern {
  readonly text: string;
  readonly #segments: readonly SegmentTest[];

  /** @param text as {@link canonicalPattern} returned it */
  constructor(text: string) {
    this.text = text;
    this.#segments = text.split("/").map(segmentTest);
  }

  /**
   * @param subject the segments of a canonical target's subject. A `**` first covers nothing and then one
   *   segment more at each mismatch; only the last one met has to try again.
   */
  matches(subject: readonly string[]): boolean {
    const segments = this.#segments;
    let at = 0;
    let next = 0;
    let retryAt = 0;
    let retryNext: number | undefined;
    while (at < subject.length) {
      const test = segments[next];
      if (test === GLOBSTAR) {
        next += 1;
        retryNext = next;
        retryAt = at;
      } else if (test?.(subject[at] as string) === true) {
        at += 1;
        next += 1;
      } else {
        if (retryNext === undefined) return false;
        retryAt += 1;
        at = retryAt;
        next = retryNext;
      }
    }
    return next === segments.length || (next === segments.length - 1 && segments[next] === GLOBSTAR);
  }
}

type SegmentTest = typeof GLOBSTAR | ((segment: string) => boolean);

function segmentTest(pattern: string): SegmentTest {
  if (pattern === GLOBSTAR) return GLOBSTAR;
  if (!pattern.includes("*")) return (segment) => segment === pattern;
  const expression = picomatch.makeRe(pattern, STRICT);
  const head = pattern.slice(0, pattern.indexOf("*"));
  const tail = pattern.slice(pattern.lastIndexOf("*") + 1);
  return (segment) => segment.startsWith(head) && segment.endsWith(tail) && expression.test(segment);
}
