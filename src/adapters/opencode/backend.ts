/**
 * OpenCode as an agent backend: its HTTP API through its SDK, and its event stream as what a prompt brings about
 * (SPEC.md, UPS-30 and on). Holds nothing between calls. A prompt costs one event stream of the server's directory
 * while it runs; every call has a timeout of its own, which the SDK lacks.
 */
import { createOpencodeClient, type OpencodeClient, type PermissionRuleset } from "@opencode-ai/sdk/v2/client";
import { type Clock, sleep, systemClock } from "../../clock.ts";
import {
  type Backend,
  BackendError,
  type BackendEvent,
  type CallOptions,
  type CreateUpstream,
  type PermissionAnswer,
  type PromptUpstream,
  type UpstreamInfo,
} from "../../conversation/index.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import { boundedFetch } from "./bounded-fetch.ts";
import { type PromptEvent, PromptEvents } from "./prompt-events.ts";

export interface OpencodeOptions {
  /** Where it listens, such as `http://127.0.0.1:4096`; a function is asked for each call. */
  baseUrl: string | (() => string);
  /** What `OPENCODE_SERVER_PASSWORD` is there. @default none */
  password?: string | undefined;
  /** The directory that its sessions work in. @default the one that the server was started in */
  directory?: string | undefined;
  timeouts?: OpencodeTimeouts | undefined;
  /** @default silentLogger */
  logger?: Logger | undefined;
  /** @default systemClock */
  clock?: Clock | undefined;
}

export interface OpencodeTimeouts {
  /** For each call to be answered, a create too. @default 15_000 */
  requestMs?: number;
  /** How long the event stream may be silent while a prompt runs; OpenCode sends a heartbeat every 10 s. @default 35_000 */
  silenceMs?: number;
  /**
   * How long a prompt may bring about nothing, though the server is there: a model that hangs, a tool that takes
   * long. The time that somebody thinks about a permission does not count. @default 900_000
   */
  quietMs?: number;
}

/** A backend of sessions of OpenCode's, and whether it is there. */
export interface OpencodeBackend extends Backend {
  /** The server's version. @throws BackendError unavailable */
  health(options?: CallOptions): Promise<string>;
}

/** Their form; OpenCode answers 500 for an id that does not begin like this. */
const SESSION_ID = /^ses_[0-9A-Za-z]{1,64}$/;
/** In the session's metadata. */
const NONCE_KEY = "holdfast_nonce";
const FIRST_PAGE = 100;
/** More sessions than this are listed by nobody. */
const LARGEST_PAGE = 102_400;
const MAX_TITLE_CHARS = 200;
/** For an end that follows an error, and for a prompt of a dead predecessor to stop. */
const GRACE_MS = 5_000;
const LOOK_AGAIN_MS = 50;
/** Frames of one stream that are no events, before it is no stream. */
const MAX_MALFORMED_FRAMES = 16;
const MAX_LOGGED_CHARS = 200;

/** @throws TypeError for a `baseUrl` that is none */
export function opencode(options: OpencodeOptions): OpencodeBackend {
  const { baseUrl } = options;
  if (typeof baseUrl === "string") checkedUrl(baseUrl);
  return new Opencode(options);
}

class Opencode implements OpencodeBackend {
  readonly name = "opencode";
  readonly createTimeoutMs: number;
  readonly #options: OpencodeOptions;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #quietMs: number;
  readonly #fetch: (request: Request) => Promise<Response>;
  #connected: { url: string; client: OpencodeClient } | undefined;

  constructor(options: OpencodeOptions) {
    const { requestMs = 15_000, silenceMs = 35_000, quietMs = 900_000 } = options.timeouts ?? {};
    for (const [name, value] of Object.entries({ requestMs, silenceMs, quietMs })) {
      if (!(value > 0)) throw new RangeError(`timeouts.${name}: ${value} is not a positive number of milliseconds.`);
    }
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    this.#quietMs = quietMs;
    this.createTimeoutMs = requestMs;
    this.#fetch = boundedFetch({ clock: this.#clock, requestMs, silenceMs, password: options.password });
  }

  async health({ signal }: CallOptions = {}): Promise<string> {
    const health = await this.#call("its health", (client, call) => client.global.health(call), signal);
    const version = isFields(health) ? health["version"] : undefined;
    if (typeof version !== "string") throw new BackendError("malformed", "OpenCode's health names no version.");
    return version;
  }

  async create({ title, nonce, permissions }: CreateUpstream, { signal }: CallOptions = {}): Promise<string> {
    const permission = rulesIn(permissions);
    const session = await this.#call(
      "a new session",
      (client, call) =>
        client.session.create(
          {
            title: title.slice(0, MAX_TITLE_CHARS),
            metadata: { [NONCE_KEY]: nonce },
            ...(permission === undefined ? {} : { permission }),
          },
          call,
        ),
      signal,
    );
    const id = sessionIdIn(session);
    if (id !== undefined) return id;
    await this.#deleteByNonce(nonce);
    throw new BackendError("malformed", "OpenCode made a session and told no id of it; it was looked for and deleted.");
  }

  async *prompt(request: PromptUpstream, { signal }: CallOptions = {}): AsyncGenerator<BackendEvent, void> {
    const { sessionId, text } = request;
    checkedId(sessionId);
    signal?.throwIfAborted();
    const run: PromptRun = { over: new AbortController(), asking: new Set() };
    const stop = signal === undefined ? run.over.signal : AbortSignal.any([signal, run.over.signal]);
    const id = `prt_holdfast${crypto.randomUUID().replaceAll("-", "")}`;
    const events = new PromptEvents({ sessionId, partId: id, text });
    let mayRun = false;
    try {
      await this.#quietSession(sessionId, stop);
      const stream = await this.#subscribe(stop);
      mayRun = true;
      await this.#call(
        "a prompt",
        (client, call) =>
          client.session.promptAsync({ sessionID: sessionId, parts: [{ id, type: "text", text }] }, call),
        stop,
      );
      for (;;) {
        for (const event of await this.#next(stream, events, run)) {
          if (event.type === "question") {
            this.#answer(run, event.questionId, () => this.#rejectQuestion(event.questionId, stop));
            continue;
          }
          if (event.type === "replied") {
            // Nobody is waited for any more, though whoever was asked here may still think.
            run.asking.delete(event.permissionId);
            continue;
          }
          if (event.type === "done") mayRun = false;
          yield event;
          if (event.type === "done") return;
          if (event.type === "permission") {
            const { permissionId } = event;
            this.#answer(run, permissionId, async () =>
              this.#reply(permissionId, await request.onPermission(event), stop),
            );
          }
        }
      }
    } catch (error) {
      if (isNotFound(error)) mayRun = false;
      throw signal?.aborted ? signal.reason : error;
    } finally {
      run.over.abort(new BackendError("unavailable", "The prompt is over."));
      if (mayRun) await this.#abortQuietly(sessionId);
    }
  }

  async abort(sessionId: string, { signal }: CallOptions = {}): Promise<void> {
    checkedId(sessionId);
    await this.#call("an abort", (client, call) => client.session.abort({ sessionID: sessionId }, call), signal);
  }

  async delete(sessionId: string, { signal }: CallOptions = {}): Promise<void> {
    // What cannot be an id of its own is not there.
    if (!SESSION_ID.test(sessionId)) return;
    try {
      await this.#call("a deletion", (client, call) => client.session.delete({ sessionID: sessionId }, call), signal);
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  /** The server knows a limit and no cursor that can be relied on, so the page grows until all are on it. */
  async *list({ signal }: CallOptions = {}): AsyncGenerator<UpstreamInfo, void> {
    const told = new Set<string>();
    for (let limit = FIRST_PAGE; limit <= LARGEST_PAGE; limit *= 2) {
      const page = await this.#call("its sessions", (client, call) => client.session.list({ limit }, call), signal);
      if (!Array.isArray(page)) throw new BackendError("malformed", "OpenCode's list of sessions is none.");
      for (const session of page as unknown[]) {
        const id = sessionIdIn(session);
        if (id === undefined || told.has(id)) continue;
        told.add(id);
        yield { id, nonce: nonceIn(session) };
      }
      if (page.length < limit) return;
    }
    throw new BackendError("unavailable", `OpenCode has more than ${LARGEST_PAGE} sessions; delete some.`);
  }

  async exists(sessionId: string, { signal }: CallOptions = {}): Promise<boolean> {
    if (!SESSION_ID.test(sessionId)) return false;
    try {
      await this.#call("a session", (client, call) => client.session.get({ sessionID: sessionId }, call), signal);
      return true;
    } catch (error) {
      if (isNotFound(error)) return false;
      throw error;
    }
  }

  /** What a prompt of a dead predecessor still does in the session is stopped: its answer is nobody's. */
  async #quietSession(sessionId: string, signal: AbortSignal): Promise<void> {
    const since = this.#clock.monotonic();
    for (let aborted = false; ; ) {
      const states = await this.#call("its state", (client, call) => client.session.status({}, call), signal);
      const state = isFields(states) ? states[sessionId] : undefined;
      if (!isFields(state) || state["type"] === "idle") return;
      if (!aborted) {
        this.#logger.info(
          { upstream_session_id: sessionId },
          "an earlier prompt of the session still runs; it is aborted",
        );
        await this.abort(sessionId, { signal });
        aborted = true;
      } else if (this.#clock.monotonic() - since > GRACE_MS) {
        throw new BackendError("unavailable", "The session is busy with an earlier prompt, which does not stop.");
      } else {
        await sleep(this.#clock, LOOK_AGAIN_MS, signal);
      }
    }
  }

  /** Resolves once the server has the subscription: what happens from then on is told. */
  async #subscribe(signal: AbortSignal): Promise<EventStream> {
    const failed: { error?: unknown } = {};
    const { stream } = await this.#client().event.subscribe(
      {},
      {
        signal,
        // A stream that begins again has a gap, and nobody to tell what was in it.
        sseMaxRetryAttempts: 1,
        onSseError: (error) => {
          failed.error = error;
        },
      },
    );
    const events: EventStream = { stream: stream as AsyncGenerator<unknown>, stop: signal, failed, malformed: 0 };
    await this.#take(events);
    return events;
  }

  /** What the next event that concerns the prompt brings about. */
  async #next(stream: EventStream, events: PromptEvents, run: PromptRun): Promise<PromptEvent[]> {
    const { error } = events;
    const quiet = () => {
      if (error !== undefined) run.over.abort(error);
      // Somebody thinks about a permission.
      else if (run.asking.size > 0) timer = this.#clock.after(this.#quietMs, quiet);
      else run.over.abort(new BackendError("unavailable", `Nothing came of the prompt for ${this.#quietMs} ms.`));
    };
    let timer = this.#clock.after(error === undefined ? this.#quietMs : GRACE_MS, quiet);
    try {
      for (;;) {
        const before = events.concerned;
        const told = events.read(await this.#take(stream));
        if (events.concerned !== before) return told;
      }
    } finally {
      timer.cancel();
    }
  }

  async #take(events: EventStream): Promise<unknown> {
    for (;;) {
      const { done, value } = await events.stream.next();
      if (done === true) {
        if (events.stop.aborted) throw events.stop.reason;
        const { error } = events.failed;
        if (error instanceof BackendError) throw error;
        throw new BackendError("unavailable", "OpenCode's event stream ended; the server may have stopped.", {
          cause: error,
        });
      }
      if (isFields(value)) return value;
      events.malformed += 1;
      this.#logger.warn({ frame: String(value).slice(0, MAX_LOGGED_CHARS) }, "a frame of OpenCode's is no event");
      if (events.malformed > MAX_MALFORMED_FRAMES) {
        throw new BackendError("malformed", "OpenCode's event stream is none: its frames are no events.");
      }
    }
  }

  /** Answers while the stream is read on; what fails there ends the prompt. */
  #answer(run: PromptRun, id: string, answer: () => Promise<void>): void {
    run.asking.add(id);
    answer()
      .catch((error: unknown) => run.over.abort(error))
      .finally(() => {
        run.asking.delete(id);
      });
  }

  async #reply(requestID: string, reply: PermissionAnswer, signal: AbortSignal): Promise<void> {
    try {
      await this.#call("an answer", (client, call) => client.permission.reply({ requestID, reply }, call), signal);
    } catch (error) {
      if (!isNotFound(error)) throw error;
      this.#logger.info({ permission_id: requestID }, "a permission was answered elsewhere");
    }
  }

  /** The model is told that nobody answers, instead of waiting for ever. */
  async #rejectQuestion(requestID: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#call("a refusal", (client, call) => client.question.reject({ requestID }, call), signal);
    } catch (error) {
      if (!isNotFound(error)) throw error;
    }
  }

  async #abortQuietly(sessionId: string): Promise<void> {
    try {
      await this.abort(sessionId);
    } catch (error) {
      this.#logger.warn({ err: error, upstream_session_id: sessionId }, "a prompt could not be aborted upstream");
    }
  }

  async #deleteByNonce(nonce: string): Promise<void> {
    try {
      for await (const session of this.list()) {
        if (session.nonce === nonce) await this.delete(session.id);
      }
    } catch (error) {
      this.#logger.warn({ err: error, nonce }, "a session that has no id could not be deleted; the sweep will");
    }
  }

  /** @throws BackendError; the signal's reason */
  async #call(what: string, call: Call, signal: AbortSignal | undefined): Promise<unknown> {
    let answer: Answer;
    try {
      answer = await call(this.#client(), signal === undefined ? {} : { signal });
    } catch (error) {
      if (error instanceof BackendError) throw error;
      throw new BackendError("malformed", `OpenCode's answer about ${what} cannot be read.`, { cause: error });
    }
    const { data, error, response } = answer;
    if (response?.ok === true) return data;
    if (response === undefined) throw error;
    throw refusal(what, response.status, error);
  }

  #client(): OpencodeClient {
    const { baseUrl, directory } = this.#options;
    const url = typeof baseUrl === "string" ? baseUrl : baseUrl();
    if (this.#connected?.url !== url) {
      const client = createOpencodeClient({
        baseUrl: url.replace(/\/+$/, ""),
        fetch: this.#fetch as typeof fetch,
        ...(directory === undefined ? {} : { directory }),
      });
      this.#connected = { url, client };
    }
    return this.#connected.client;
  }
}

type Answer = { data?: unknown; error?: unknown; response?: Response | undefined };
type Call = (client: OpencodeClient, options: { signal?: AbortSignal }) => Promise<Answer>;

interface EventStream {
  stream: AsyncGenerator<unknown>;
  stop: AbortSignal;
  /** The SDK tells of an error beside the stream, and ends it. */
  failed: { error?: unknown };
  malformed: number;
}

/** One prompt under way. */
interface PromptRun {
  over: AbortController;
  /** Permissions and questions that are being answered. */
  asking: Set<string>;
}

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null;

const isNotFound = (error: unknown): boolean => error instanceof BackendError && error.kind === "session_not_found";

function checkedUrl(baseUrl: string): void {
  const protocol = URL.canParse(baseUrl) ? new URL(baseUrl).protocol : undefined;
  if (protocol !== "http:" && protocol !== "https:") {
    throw new TypeError(`baseUrl: ${baseUrl} is no http or https URL, such as http://127.0.0.1:4096.`);
  }
}

/** What cannot be a session of OpenCode's is not asked for: it would answer 500. */
function checkedId(sessionId: string): void {
  if (SESSION_ID.test(sessionId)) return;
  const shown = JSON.stringify(sessionId.slice(0, MAX_LOGGED_CHARS));
  throw new BackendError("session_not_found", `${shown} is no session of OpenCode's: their ids begin with ses_.`);
}

/** @throws BackendError rejected */
function rulesIn(permissions: unknown): PermissionRuleset | undefined {
  if (permissions === undefined || permissions === null) return undefined;
  if (isRules(permissions)) return permissions;
  throw new BackendError("rejected", "The permissions are no list of {permission, pattern, action}.");
}

/** What the texts may be is for the server to say. */
const isRules = (value: unknown): value is PermissionRuleset =>
  Array.isArray(value) &&
  value.every(
    (rule: unknown) =>
      isFields(rule) && ["permission", "pattern", "action"].every((name) => typeof rule[name] === "string"),
  );

/** A session's id, under either spelling of its key, and in either envelope. */
function sessionIdIn(session: unknown): string | undefined {
  if (!isFields(session)) return undefined;
  const { data } = session;
  const id = session["id"] ?? session["sessionID"] ?? (isFields(data) ? (data["id"] ?? data["sessionID"]) : undefined);
  return typeof id === "string" && SESSION_ID.test(id) ? id : undefined;
}

function nonceIn(session: unknown): string | undefined {
  const metadata = isFields(session) ? session["metadata"] : undefined;
  const nonce = isFields(metadata) ? metadata[NONCE_KEY] : undefined;
  return typeof nonce === "string" ? nonce : undefined;
}

function refusal(what: string, status: number, error: unknown): BackendError {
  const said = saidIn(error);
  const message = `OpenCode answered ${status} about ${what}${said === undefined ? "" : `: ${said}`}`;
  const options = { cause: error };
  if (status === 404) return new BackendError("session_not_found", message, options);
  if (status === 401 || status === 403) {
    return new BackendError("rejected", `${message}; give the password that the server was started with.`, options);
  }
  return new BackendError(status >= 500 || status === 429 ? "unavailable" : "rejected", message, options);
}

function saidIn(error: unknown): string | undefined {
  if (!isFields(error)) return undefined;
  const data = isFields(error["data"]) ? error["data"] : {};
  const said = [data["message"], error["message"], error["name"], error["_tag"]].find(
    (text) => typeof text === "string",
  );
  return said?.split("\n", 1)[0]?.slice(0, MAX_LOGGED_CHARS);
}
