/**
 * HTTP under `net.fetch` (ACT-17 to ACT-24). The URL of each hop is checked, its host resolved once, the addresses
 * looked at, and the connection made to exactly these: what a name means cannot change between the check and the
 * use. No proxy of the environment, no cookie jar, no cache, and no connection is shared between two calls.
 *
 * Costs a connection for each hop. A body is read up to its cap before the call resolves, so that the stream can
 * tell how long it was and nothing stays open; with `stream` it is handed on as it comes. `undici` brings what
 * Node's own `fetch` keeps to itself, the choice of the address; it is loaded by the first call, and leaves Node's
 * `fetch` alone.
 */
import { lookup } from "node:dns/promises";
import type { LookupFunction } from "node:net";
import type { Agent, Response as UndiciResponse } from "undici";
import { ArcpError } from "../../protocol/index.ts";
import { type ActingSeam, type Acts, unlessAborted, wholeNumber } from "./acts.ts";
import { isAddress, isPublicAddress } from "./addresses.ts";
import { errnoOf } from "./place.ts";

export interface FetchInit {
  /** @default "GET" */
  method?: string;
  headers?: Headers | Record<string, string> | readonly (readonly [string, string])[];
  /** In one piece, since a redirect may want it again. */
  body?: string | Uint8Array | URLSearchParams;
  /** `manual` hands out the redirect itself, `error` fails at one. @default "follow", five times at most */
  redirect?: "follow" | "manual" | "error";
  /** Gives the call up; so does the job's own. */
  signal?: AbortSignal;
  /** For each hop: until a connection stands, the look-up of the name included. @default 10_000 */
  connectTimeoutMs?: number;
  /** For everything, the body included. @default 60_000 */
  timeoutMs?: number;
  /** A longer body, decompressed, is an error. @default 16_777_216 (16 MiB), at most 1_073_741_824 */
  maxBytes?: number;
  /** Resolves with the headers and hands the body on as it comes; the stream is then not told its length. @default false */
  stream?: boolean;
}

export interface ResolvedAddress {
  readonly address: string;
  readonly family: number;
}

/** What a host can exchange; the defaults are the machine's. */
export interface FetchParts {
  /** All addresses of a name. */
  resolve?: (host: string) => Promise<readonly ResolvedAddress[]>;
  /** Whether the lease names the URL's host itself, not by a wildcard. */
  namesHost?: (url: URL) => boolean;
}

const MAX_REDIRECTS = 5;
const CONNECT_TIMEOUT_MS = 10_000;
const TIMEOUT_MS = 60_000;
const MAX_TIMEOUT_MS = 86_400_000;
const DEFAULT_BODY_BYTES = 16 * 1024 * 1024;
const MAX_BODY_BYTES = 1024 * 1024 * 1024;

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);
/** Responses without a body. */
const BODILESS: ReadonlySet<number> = new Set([101, 103, 204, 205, 304]);
/** What says which host is meant or how the message is framed: with them a request could be another's. */
const OWN_HEADERS =
  /^(host|connection|content-length|expect|keep-alive|te|trailer|transfer-encoding|upgrade|via|proxy-.*)$/i;
const CREDENTIALS = ["authorization", "cookie"];
const BODY_HEADERS = ["content-type", "content-encoding", "content-language", "content-location"];
const METHOD = /^[A-Za-z]{1,32}$/;
const NO_METHODS: ReadonlySet<string> = new Set(["CONNECT", "TRACE", "TRACK"]);

/** One hop's request. */
interface Hop {
  /** As the lease spells it. */
  url: URL;
  method: string;
  headers: Headers;
  body: string | Uint8Array | URLSearchParams | undefined;
}

interface Limits {
  redirect: "follow" | "manual" | "error";
  connectTimeoutMs: number;
  timeoutMs: number;
  maxBytes: number;
  stream: boolean;
}

interface Fetched {
  response: Response;
  redirects: number;
  /** `undefined` for a body that is handed on as it comes. */
  bytes: number | undefined;
  /** Resolves when nothing of the call is open any more. */
  closed: Promise<void>;
}

/** `job.fetch`. */
export class JobFetch {
  readonly #run: ActingSeam;
  readonly #acts: Acts;
  readonly #resolve: (host: string) => Promise<readonly ResolvedAddress[]>;
  readonly #namesHost: (url: URL) => boolean;

  constructor(run: ActingSeam, acts: Acts, parts: FetchParts = {}) {
    this.#run = run;
    this.#acts = acts;
    this.#resolve = parts.resolve ?? ((host) => lookup(host, { all: true, order: "verbatim" }));
    this.#namesHost = parts.namesHost ?? ((url) => namesHost(run.lease["net.fetch"] ?? [], url));
  }

  /** See `JobContext.fetch`. */
  async fetch(input: string | URL, init: FetchInit = {}): Promise<Response> {
    const limits = limitsOf(init);
    const { method, headers, body } = requestOf(init);
    const given = String(input);
    const { response } = await this.#acts.act({
      tool: "net.fetch",
      args: { method, url: shown(given) },
      work: () => {
        const url = this.#authorize(given);
        if (!headers.has("traceparent")) headers.set("traceparent", this.#run.traceparent);
        return this.#withinLimits({ url, method, headers, body }, limits, init.signal);
      },
      tell: (fetched) => ({
        status: fetched.response.status,
        ...(fetched.redirects === 0 ? {} : { url: shown(fetched.response.url), redirects: fetched.redirects }),
        ...(fetched.bytes === undefined ? {} : { bytes: fetched.bytes }),
      }),
      closed: (fetched) => fetched.closed,
    });
    return response;
  }

  #authorize(url: string): URL {
    return new URL(this.#run.authorize("net.fetch", url));
  }

  /** Keeps the time of the whole call, and ends its connections with it. */
  async #withinLimits(first: Hop, limits: Limits, signal: AbortSignal | undefined): Promise<Fetched> {
    const { timeoutMs } = limits;
    const enough = new AbortController();
    const timer = this.#run.clock.after(timeoutMs, () => enough.abort(timedOut(first.url, "the answer", timeoutMs)));
    const signals = [this.#run.signal, enough.signal, ...(signal === undefined ? [] : [signal])];
    const call = new Call(AbortSignal.any(signals), () => {
      timer.cancel();
      // What is still under way of a call that is over may not hold a connection.
      enough.abort(new ArcpError("INTERNAL_ERROR", "The call is over."));
    });
    try {
      return await this.#follow(first, limits, call);
    } catch (error) {
      call.signal.throwIfAborted();
      throw unreached(first.url, error);
    } finally {
      if (!call.handedOn) await call.end();
    }
  }

  async #follow(first: Hop, limits: Limits, call: Call): Promise<Fetched> {
    let hop = first;
    for (let redirects = 0; ; redirects += 1) {
      const answer = await this.#send(hop, limits, call);
      const location = REDIRECTS.has(answer.status) ? answer.headers.get("location") : null;
      if (location === null || limits.redirect === "manual")
        return await handOver(answer, hop.url, redirects, limits, call);
      if (limits.redirect === "error" || redirects === MAX_REDIRECTS) {
        const why = limits.redirect === "error" ? "is a redirect" : `is redirected more than ${MAX_REDIRECTS} times`;
        throw new ArcpError("INVALID_REQUEST", `net.fetch: ${shown(first.url.href)} ${why}.`, {
          details: { url: shown(first.url.href), limit: MAX_REDIRECTS },
        });
      }
      hop = redirected(hop, answer.status, this.#authorize(resolved(location, hop.url)));
    }
  }

  async #send(hop: Hop, { connectTimeoutMs }: Limits, call: Call): Promise<UndiciResponse> {
    const { url, method, headers, body } = hop;
    const tooSlow = new AbortController();
    const timer = this.#run.clock.after(connectTimeoutMs, () =>
      tooSlow.abort(timedOut(url, "a connection", connectTimeoutMs)),
    );
    const signal = AbortSignal.any([call.signal, tooSlow.signal]);
    try {
      const addresses = await unlessAborted(this.#addresses(url), signal);
      // Loaded first, it would make itself the dispatcher of Node's own `fetch`; `Headers` have loaded Node's by now.
      const { fetch, Agent } = await import("undici");
      const agent = new Agent({
        // No connection serves a second request; the clock that counts is the job's.
        pipelining: 0,
        connect: { lookup: pinned(url.hostname, addresses), timeout: 0 },
        headersTimeout: 0,
        bodyTimeout: 0,
        allowH2: false,
      });
      call.agents.push(agent);
      agent.on("connect", () => timer.cancel());
      return await fetch(url, {
        method,
        headers: [...headers],
        body: body ?? null,
        redirect: "manual",
        dispatcher: agent,
        signal,
      });
    } catch (error) {
      signal.throwIfAborted();
      throw unreached(url, error);
    } finally {
      timer.cancel();
    }
  }

  /** @throws ArcpError PERMISSION_DENIED when one of the host's addresses is not public and the lease does not name it */
  async #addresses(url: URL): Promise<readonly ResolvedAddress[]> {
    const host = url.hostname.replace(/^\[|\]$/g, "");
    const literal = isAddress(host);
    const addresses = literal ? [{ address: host, family: host.includes(":") ? 6 : 4 }] : await this.#resolve(host);
    if (addresses.every(({ address }) => isPublicAddress(address)) || this.#namesHost(url)) return addresses;
    const target = shown(url.href);
    throw new ArcpError(
      "PERMISSION_DENIED",
      `net.fetch: ${target} is not on the public Internet, and the lease does not name the host ${url.host}.`,
      { details: { capability: "net.fetch", target } },
    );
  }
}

/** What a call holds until it is over. */
class Call {
  readonly signal: AbortSignal;
  readonly agents: Agent[] = [];
  /** The body lives on, and ends the call when it ends. */
  handedOn = false;
  readonly #over: () => void;
  readonly #closed = Promise.withResolvers<void>();

  constructor(signal: AbortSignal, over: () => void) {
    this.signal = signal;
    this.#over = over;
    // A body that nobody reads learns nothing of the call's end, which closes its socket all the same.
    signal.addEventListener("abort", () => this.#closed.resolve(), { once: true });
  }

  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  async end(): Promise<void> {
    this.#over();
    await Promise.all(this.agents.map((agent) => agent.destroy()));
    this.#closed.resolve();
  }
}

/** Gives the addresses that were looked at, whoever asks, and for that name only. */
function pinned(host: string, addresses: readonly ResolvedAddress[]): LookupFunction {
  return (hostname, options, callback) => {
    const [first] = addresses;
    if (first === undefined || hostname !== host) {
      callback(Object.assign(new Error("no address"), { code: "ENOTFOUND" }), "", 0);
    } else if (options.all === true) {
      callback(null, [...addresses]);
    } else {
      callback(null, first.address, first.family);
    }
  };
}

/** A pattern of the lease names a host when nothing in the host is a wildcard; the port may be one. */
function namesHost(patterns: readonly string[], url: URL): boolean {
  return patterns.some((pattern) => {
    const [, scheme, host] = /^(https?):\/\/([^/]+)(?:\/|$)/i.exec(pattern) ?? [];
    if (scheme === undefined || host === undefined || `${scheme.toLowerCase()}:` !== url.protocol) return false;
    const bare = host.replace(/:\*$/, "");
    if (bare.includes("*")) return false;
    const named = URL.parse(`${scheme}://${bare}/`);
    return named !== null && (bare === host ? named.host === url.host : named.hostname === url.hostname);
  });
}

function limitsOf(init: FetchInit): Limits {
  const { redirect = "follow", stream = false } = init;
  if (!["follow", "manual", "error"].includes(redirect)) {
    throw new ArcpError(
      "INVALID_REQUEST",
      `redirect: ${JSON.stringify(redirect)} is not "follow", "manual" or "error".`,
    );
  }
  return {
    redirect,
    stream,
    connectTimeoutMs: wholeNumber("connectTimeoutMs", init.connectTimeoutMs ?? CONNECT_TIMEOUT_MS, MAX_TIMEOUT_MS),
    timeoutMs: wholeNumber("timeoutMs", init.timeoutMs ?? TIMEOUT_MS, MAX_TIMEOUT_MS),
    maxBytes: wholeNumber("maxBytes", init.maxBytes ?? DEFAULT_BODY_BYTES, MAX_BODY_BYTES),
  };
}

function requestOf({ method = "GET", headers: given, body }: FetchInit): Omit<Hop, "url"> {
  const upper = method.toUpperCase();
  if (!METHOD.test(method) || NO_METHODS.has(upper)) {
    throw new ArcpError("INVALID_REQUEST", `method: ${JSON.stringify(method.slice(0, 64))} cannot be sent.`);
  }
  if (body !== undefined && (upper === "GET" || upper === "HEAD")) {
    throw new ArcpError("INVALID_REQUEST", `body: a ${upper} request has none.`);
  }
  if (
    body !== undefined &&
    typeof body !== "string" &&
    !(body instanceof Uint8Array || body instanceof URLSearchParams)
  ) {
    throw new ArcpError("INVALID_REQUEST", "body: must be a string, a Uint8Array or URLSearchParams.");
  }
  const headers = headersOf(given);
  for (const name of headers.keys()) {
    if (OWN_HEADERS.test(name)) throw new ArcpError("INVALID_REQUEST", `headers: ${name} is set by the runtime.`);
  }
  return { method: upper, headers, body };
}

function headersOf(given: FetchInit["headers"]): Headers {
  try {
    const headers = new Headers();
    const pairs = given instanceof Headers || Array.isArray(given) ? given : Object.entries(given ?? {});
    for (const [name, value] of pairs) headers.append(name, value);
    return headers;
  } catch (error) {
    throw new ArcpError("INVALID_REQUEST", "headers: a name or a value holds a character that no header may hold.", {
      cause: error,
    });
  }
}

function resolved(location: string, base: URL): string {
  const url = URL.parse(location, base);
  if (url === null) {
    throw new ArcpError("INVALID_REQUEST", `net.fetch: ${shown(base.href)} redirects to what is no URL.`, {
      details: { url: shown(base.href) },
    });
  }
  return url.href;
}

/** The next request, as browsers make it: a POST becomes a GET, and another origin gets no credentials. */
function redirected(hop: Hop, status: number, url: URL): Hop {
  const headers = new Headers(hop.headers);
  if (url.origin !== hop.url.origin) for (const name of CREDENTIALS) headers.delete(name);
  const becomesGet =
    status === 303 ? hop.method !== "GET" && hop.method !== "HEAD" : status < 303 && hop.method === "POST";
  if (!becomesGet) return { ...hop, url, headers };
  for (const name of BODY_HEADERS) headers.delete(name);
  return { url, method: "GET", headers, body: undefined };
}

async function handOver(
  answer: UndiciResponse,
  url: URL,
  redirects: number,
  limits: Limits,
  call: Call,
): Promise<Fetched> {
  const { status, statusText } = answer;
  const init = { status, statusText, headers: [...answer.headers] as [string, string][] };
  const finish = (body: BodyInit | null): Response =>
    Object.defineProperties(new Response(BODILESS.has(status) ? null : body, init), {
      url: { value: url.href },
      redirected: { value: redirects > 0 },
    });
  const pieces = capped(answer, url, limits.maxBytes);
  if (limits.stream) {
    call.handedOn = true;
    return { response: finish(asStream(pieces, call)), redirects, bytes: undefined, closed: call.closed };
  }
  const read: Uint8Array[] = [];
  for await (const piece of pieces) read.push(piece);
  const body = Buffer.concat(read);
  return { response: finish(body), redirects, bytes: body.length, closed: call.closed };
}

async function* capped(answer: UndiciResponse, url: URL, maxBytes: number): AsyncGenerator<Uint8Array, void, void> {
  let total = 0;
  for await (const piece of answer.body ?? []) {
    total += piece.byteLength;
    if (total > maxBytes) {
      throw new ArcpError(
        "INVALID_REQUEST",
        `net.fetch: the answer of ${shown(url.href)} is longer than ${maxBytes} bytes; raise maxBytes.`,
        { details: { url: shown(url.href), limit: maxBytes } },
      );
    }
    yield piece;
  }
}

/** The body as it comes; the call is over with it. */
function asStream(pieces: AsyncGenerator<Uint8Array, void, void>, call: Call): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await pieces.next();
        if (done !== true) {
          controller.enqueue(value);
          return;
        }
        controller.close();
      } catch (error) {
        controller.error(call.signal.aborted ? call.signal.reason : error);
      }
      await call.end();
    },
    async cancel() {
      await call.end();
    },
  });
}

/** A URL as the stream and errors show it: secrets are in the query and before the host. */
function shown(given: string): string {
  const url = URL.parse(given);
  return url === null || url.host === ""
    ? given
        .replace(/[?#].*$/s, "")
        .replace(/^[^/]*\/\/[^/]*@/, "")
        .slice(0, 256)
    : `${url.origin}${url.pathname}`;
}

const timedOut = (url: URL, what: string, timeoutMs: number): ArcpError =>
  new ArcpError("INTERNAL_ERROR", `net.fetch: ${shown(url.href)}: ${what} took longer than ${timeoutMs} ms.`, {
    details: { reason: "timeout", url: shown(url.href), timeout_ms: timeoutMs },
  });

/** What went wrong on the way, with the system's word for it and nothing of the machine. */
function unreached(url: URL, error: unknown): unknown {
  if (error instanceof ArcpError) return error;
  const code = errnoOf(error) ?? errnoOf(error instanceof Error ? error.cause : undefined);
  const why = code === undefined ? "" : ` (${code})`;
  return new ArcpError("INTERNAL_ERROR", `net.fetch: ${shown(url.href)} could not be reached${why}.`, {
    details: { url: shown(url.href), ...(code === undefined ? {} : { errno: code }) },
    cause: error,
  });
}
