/**
 * Runtimes that break one promise each: a wire to a good runtime on which messages are changed, dropped,
 * held back or made up. The conformance cases must notice each of them, and by the rules that it breaks.
 */
import { FEATURES, IN_REPLY_TO } from "../src/protocol/index.ts";
import type { Wire } from "../src/testing/conformance/index.ts";
import type { TransportEvents } from "../src/transport/transport.ts";

/** A message on its way; a handler may change it. */
export interface Message extends Record<string, unknown> {
  id: string;
  type: string;
  session_id?: string;
  job_id?: string;
  trace_id?: string;
  event_seq?: number;
  extensions?: Record<string, unknown>;
  payload: Record<string, unknown>;
}

/** What goes on in place of a message: nothing, itself, or others. */
type Handler = (message: Message, link: Link) => readonly Message[];

/** How one connection is broken. */
interface Fault {
  toRuntime?: Handler;
  toClient?: Handler;
  /** A frame from the client that is no envelope; false drops it. */
  noEnvelope?: (frame: string, link: Link) => boolean;
  /** The runtime has closed; false keeps that from the client. */
  closes?: (link: Link) => boolean;
  /** The client reads no more, or reads again. */
  reads?: (reading: boolean, link: Link) => void;
  /** The client tears the connection. */
  cut?: (link: Link) => void;
}

export interface BrokenRuntime {
  /** Completes "a runtime that". */
  readonly name: string;
  /** The rules that are to fail, and no other. */
  readonly fails: readonly string[];
  /** A restart finds an empty store. */
  readonly forgetful?: boolean;
  /** Called once per runtime, for what its connections share; answers what is called once per connection. */
  begin(): () => Fault;
}

/** One connection through the fault. */
export class Link implements Wire {
  /** The hello was a resume. */
  resumed = false;
  welcomed = false;
  /** Ids of requests that came over this connection. */
  readonly asked = new Set<string>();
  readonly #inner: Wire;
  readonly #fault: Fault;
  #events: TransportEvents | undefined;
  #cut = false;

  constructor(inner: Wire, fault: Fault) {
    this.#inner = inner;
    this.#fault = fault;
  }

  get open(): boolean {
    return !this.#cut && this.#inner.open;
  }

  get bufferedBytes(): number {
    return this.#inner.bufferedBytes;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    this.#inner.start({
      onFrame: (frame) => {
        const message = JSON.parse(frame) as Message;
        const before = JSON.stringify(message);
        if (message.type === "session.welcome") this.welcomed = true;
        for (const one of this.#fault.toClient?.(message, this) ?? [message]) {
          // What was not touched stays the same to the byte.
          if (one === message && JSON.stringify(one) === before) this.#deliver(frame);
          else this.answer(one);
        }
      },
      onClose: (code, reason) => {
        if (this.#fault.closes?.(this) !== false) events.onClose(code, reason);
      },
    });
  }

  send(frames: readonly string[]): void {
    for (const frame of frames) {
      const message = envelopeOf(frame);
      if (message === undefined) {
        if (this.#fault.noEnvelope?.(frame, this) !== false) this.#inner.send([frame]);
        continue;
      }
      this.asked.add(message.id);
      this.resumed ||= message.type === "session.resume" || message.payload["resume"] !== undefined;
      const before = JSON.stringify(message);
      for (const one of this.#fault.toRuntime?.(message, this) ?? [message]) {
        this.#inner.send([one === message && JSON.stringify(one) === before ? frame : JSON.stringify(one)]);
      }
    }
  }

  drained(limitBytes: number): Promise<void> {
    return this.#inner.drained(limitBytes);
  }

  close(code?: number, reason?: string): void {
    this.#inner.close(code, reason);
  }

  stopReading(): void {
    this.#fault.reads?.(false, this);
    this.#inner.stopReading?.();
  }

  readAgain(): void {
    this.#inner.readAgain?.();
    this.#fault.reads?.(true, this);
  }

  cut(): void {
    this.#fault.cut?.(this);
    this.#cut = true;
    this.#inner.cut?.();
  }

  /** Says something to the client that the runtime never said. */
  answer(message: Message): void {
    this.#deliver(JSON.stringify(message));
  }

  /** Says something to the runtime that the client never said. */
  ask(message: Message): void {
    this.#inner.send([JSON.stringify(message)]);
  }

  #deliver(frame: string): void {
    if (!this.#cut) this.#events?.onFrame(frame);
  }
}

const KNOWN_FIELDS = ["arcp", "id", "type", "session_id", "job_id", "trace_id", "event_seq", "extensions", "payload"];

function envelopeOf(frame: string): Message | undefined {
  try {
    const value = (JSON.parse(frame) ?? {}) as Record<string, unknown>;
    const { arcp, id, type, payload } = value;
    const whole = arcp === "1.1" && typeof id === "string" && id !== "" && typeof type === "string";
    return whole && typeof payload === "object" && payload !== null && !Array.isArray(payload)
      ? (value as Message)
      : undefined;
  } catch {
    return undefined;
  }
}

const isHello = ({ type }: Message): boolean => type === "session.hello" || type === "session.resume";
const isTerminal = ({ type, event_seq }: Message): boolean =>
  event_seq !== undefined && (type === "job.result" || type === "job.error");
const codeOf = ({ payload }: Message): unknown => payload["code"];
const tokenOf = ({ payload }: Message): unknown => (payload["auth"] as { token?: unknown } | undefined)?.token;
const isRejection = ({ type, event_seq }: Message): boolean => type === "job.error" && event_seq === undefined;

let made = 0;
const freshId = (): string => {
  made += 1;
  return `made-${made}`;
};

const detailsOf = ({ payload }: Message): Record<string, unknown> =>
  (payload["details"] as Record<string, unknown> | undefined) ?? {};
const isLimited = (message: Message): boolean => detailsOf(message)["code"] === "LIMIT_EXCEEDED";
const requestOf = ({ extensions }: Message): string => String(extensions?.[IN_REPLY_TO]);

const errorTo = (request: Message, type: "session.error" | "job.error", code: string, message: string): Message => ({
  arcp: "1.1",
  id: freshId(),
  type,
  ...(request.session_id === undefined ? {} : { session_id: request.session_id }),
  ...(type === "job.error" ? { job_id: freshId() } : {}),
  extensions: { [IN_REPLY_TO]: request.id },
  payload: {
    code,
    message,
    retryable: false,
    request_id: request.id,
    ...(type === "job.error" ? { final_status: "error" } : {}),
  },
});

/** A fault whose connections share nothing. */
const broken = (name: string, fails: readonly string[], fault: () => Fault): BrokenRuntime => ({
  name,
  fails,
  begin: () => fault,
});

const featuresOf = ({ payload }: Message): string[] =>
  (payload["capabilities"] as { features?: string[] } | undefined)?.features ?? [];

/** Takes a feature out of a hello or a welcome. */
function dropFeature(message: Message, feature: string): void {
  const features = featuresOf(message).filter((other) => other !== feature);
  message.payload["capabilities"] = { ...(message.payload["capabilities"] as object), features };
}

/** The part of a hello that says what to resume. */
function resumeOf(message: Message): { session_id: string; resume_token: string; last_event_seq: number } | undefined {
  const resume = message.type === "session.resume" ? message.payload : message.payload["resume"];
  return resume as { session_id: string; resume_token: string; last_event_seq: number } | undefined;
}

/** What a submit asks for; nothing else asks for any. */
const leaseOf = ({ payload }: Message): Record<string, unknown> => {
  const lease = payload["lease_request"];
  return typeof lease === "object" && lease !== null ? (lease as Record<string, unknown>) : {};
};
const UNDERSTOOD: readonly string[] = ["tool.call", "agent.delegate", "cost.budget", "model.use"];

const constraintsOf = ({ payload }: Message): { expires_at?: unknown } =>
  (payload["lease_constraints"] as { expires_at?: unknown } | undefined) ?? {};
const credentialsOf = ({ payload }: Message): Record<string, unknown>[] =>
  (payload["credentials"] as Record<string, unknown>[] | undefined) ?? [];
const bodyOf = ({ payload }: Message): Record<string, unknown> =>
  (payload["body"] as Record<string, unknown> | undefined) ?? {};
const isChild = ({ type, payload }: Message): boolean =>
  type === "job.accepted" && payload["parent_job_id"] !== undefined;
const inputOf = ({ payload }: Message): Record<string, unknown> => {
  const { input } = payload;
  return typeof input === "object" && input !== null ? (input as Record<string, unknown>) : {};
};

/** A refused answer to a question as if it had been taken. */
const answered = (refusal: Message): Message => ({
  ...refusal,
  type: "x-vendor.holdfast.answered",
  payload: { outcome: "accepted" },
});

/** A runtime that reads what a lease says of tools in its own way. */
const rewritesTools = (
  name: string,
  fails: readonly string[],
  change: (patterns: readonly string[]) => readonly string[],
): BrokenRuntime =>
  broken(name, fails, () => ({
    toRuntime: (message) => {
      const lease = leaseOf(message);
      const tools = lease["tool.call"];
      if (Array.isArray(tools) && tools.every((tool) => typeof tool === "string")) lease["tool.call"] = change(tools);
      return [message];
    },
  }));

/** What `meter` says of one operation that it tried. */
interface Tried {
  value?: unknown;
  code?: string;
  details?: { capability?: string; target?: string };
}

/** A runtime whose `meter` had other outcomes than ours. */
const misreports = (name: string, fails: readonly string[], change: (tried: Tried) => Tried): BrokenRuntime =>
  broken(name, fails, () => ({
    toClient: (message) => {
      const result = message.payload["result"] as { authorized?: Tried[]; tool?: Tried } | null | undefined;
      if (message.type !== "job.result" || !Array.isArray(result?.authorized)) return [message];
      result.authorized = result.authorized.map(change);
      if (result.tool !== undefined) result.tool = change(result.tool);
      return [message];
    },
  }));

const permits =
  (capability: string) =>
  (tried: Tried): Tried =>
    tried.code === "PERMISSION_DENIED" && tried.details?.capability === capability
      ? { value: tried.details.target }
      : tried;

export const BROKEN_RUNTIMES: readonly BrokenRuntime[] = [
  // ------------------------------------------------------------------------------------- envelopes
  broken("refuses unknown top-level fields", ["ENV-1"], () => ({
    toRuntime: (message, link) => {
      const unknown = Object.keys(message).find((field) => !KNOWN_FIELDS.includes(field));
      if (unknown === undefined) return [message];
      link.answer(errorTo(message, "job.error", "INVALID_REQUEST", `${unknown}: is unknown`));
      return [];
    },
  })),
  broken("sends envelopes without `arcp`", ["ENV-1"], () => ({
    toClient: (message) => {
      if (message.type === "job.result") delete message["arcp"];
      return [message];
    },
  })),
  broken(
    "hangs up on what is no envelope",
    ["ENV-2", "ENV-3", "ENV-8", "ENV-9", "ENV-1", "SES-7", "ENV-13", "ENV-14"],
    () => ({
      noEnvelope: (_frame, link) => {
        link.close(4400, "no envelope");
        return false;
      },
    }),
  ),
  broken(
    "does not say what is wrong with a request",
    ["ENV-3", "ENV-10", "ENV-11", "JOB-9", "JOB-15", "ASK-4", "LEA-1", "LEA-10", "LEA-13", "LEA-2", "LEA-4"],
    () => ({
      toClient: (message) => {
        if (codeOf(message) === "INVALID_REQUEST") message.payload["message"] = "Bad request.";
        return [message];
      },
    }),
  ),
  broken("ignores types that it does not know", ["ENV-4", "ENV-7", "ENV-13"], () => ({
    toRuntime: (message) =>
      /^(session|job)\.(hello|resume|ping|pong|ack|list_jobs|close|bye|submit|cancel|subscribe|unsubscribe)$/.test(
        message.type,
      ) || message.type.startsWith("x-vendor.")
        ? [message]
        : [],
  })),
  broken("refuses vendor messages that are optional", ["ENV-5"], () => ({
    toRuntime: (message) => {
      if (message.type.startsWith("x-vendor.")) delete message.extensions?.["optional"];
      return [message];
    },
  })),
  broken(
    "gives an event another id at each sending",
    ["ENV-6", "RES-2", "RES-4", "RES-9", "RES-11", "ASK-7", "DEL-2"],
    () => ({
      toClient: (message) => (message.event_seq === undefined ? [message] : [{ ...message, id: freshId() }]),
    }),
  ),
  broken("does not say which request it answers", ["ENV-7"], () => ({
    toClient: (message) => {
      delete message.extensions?.[IN_REPLY_TO];
      return [message];
    },
  })),
  broken("does not echo a trace_id", ["ENV-7", "ENV-10", "DEL-1", "DEL-2"], () => ({
    toClient: (message) => {
      if (message.type === "job.accepted") message.trace_id = "f".repeat(32);
      return [message];
    },
  })),
  {
    name: "carries a repeated request out again",
    fails: ["ENV-8", "ENV-13", "RES-11", "ASK-2"],
    begin: () => {
      const originals = new Map<string, string>();
      return () => ({
        toRuntime: (message) => {
          if (isHello(message)) return [message];
          const id = freshId();
          originals.set(id, message.id);
          return [{ ...message, id }];
        },
        toClient: (message) => {
          const id = String(message.extensions?.[IN_REPLY_TO]);
          const original = originals.get(id);
          return original === undefined
            ? [message]
            : [JSON.parse(JSON.stringify(message).replaceAll(id, original)) as Message];
        },
      });
    },
  },
  broken("shows its stack", ["ENV-9"], () => ({
    toClient: (message) => {
      if (message.type === "job.error") message.payload["message"] += "\n    at run (/srv/app/src/main.ts:12:5)";
      return [message];
    },
  })),
  broken("takes no traceparent", ["ENV-10"], () => ({
    toRuntime: (message) => [(message.trace_id?.length ?? 0) > 32 ? { ...message, trace_id: "no" } : message],
  })),
  broken("takes any session_id", ["ENV-11", "ENV-13"], () => ({
    toRuntime: (message) => {
      delete message.session_id;
      return [message];
    },
  })),
  broken("takes a name for the nearest that it knows", ["ENV-12"], () => ({
    toRuntime: (message) => {
      if (String(message.payload["agent"]).startsWith("echo\ud800")) message.payload["agent"] = "echo";
      return [message];
    },
  })),
  // -------------------------------------------------------------------------------------- sessions
  broken("answers before the hello", ["SES-1"], () => ({
    toRuntime: (message, link) => {
      if (message.type === "session.ping" && !link.welcomed) {
        link.answer({
          arcp: "1.1",
          id: freshId(),
          type: "session.pong",
          payload: { ping_nonce: message.payload["nonce"] },
        });
      }
      return [message];
    },
  })),
  broken("waits for a hello for ever", ["SES-2"], () => {
    let waiting = false;
    return {
      toClient: (message) => {
        waiting = String(message.payload["message"]).startsWith("No session.hello");
        return waiting ? [] : [message];
      },
      closes: () => !waiting,
    };
  }),
  broken("takes a second hello for a message like any other", ["SES-2"], () => ({
    toRuntime: (message, link) => (isHello(message) && link.welcomed ? [] : [message]),
  })),
  broken("lets everybody in", ["SES-3", "SES-11"], () => ({
    toRuntime: (message) => {
      if (isHello(message) && tokenOf(message) !== "bob")
        message.payload["auth"] = { scheme: "bearer", token: "alice" };
      return [message];
    },
  })),
  broken(
    "gives every session all features",
    ["SES-4", "SES-5", "SES-19", "CRD-1", "CRD-8", "ENV-8", "JOB-21", "RES-10", "RES-11"],
    () => ({
      toRuntime: (message) => {
        if (isHello(message)) message.payload["capabilities"] = { features: FEATURES };
        return [message];
      },
    }),
  ),
  {
    name: "numbers events that a session does not get",
    fails: ["SES-5"],
    begin: () => {
      const narrow = new Set<unknown>();
      return () => {
        let added = false;
        return {
          toRuntime: (message) => {
            const features = featuresOf(message);
            if (!isHello(message) || features.includes("progress")) return [message];
            added = true;
            message.payload["capabilities"] = { features: [...features, "progress"] };
            return [message];
          },
          toClient: (message) => {
            if (message.type === "session.welcome") {
              if (added) narrow.add(message.session_id);
              if (narrow.has(message.session_id)) dropFeature(message, "progress");
            }
            return narrow.has(message.session_id) && message.payload["kind"] === "progress" ? [] : [message];
          },
        };
      };
    },
  },
  broken("does not answer pings", ["SES-6", "SES-13", "ENV-8", "ENV-14"], () => ({
    toClient: (message) => (message.type === "session.pong" ? [] : [message]),
  })),
  broken("promises a heartbeat and has none", ["SES-7"], () => {
    let asked = false;
    return {
      toRuntime: (message, link) => {
        asked ||= isHello(message) && !link.resumed && featuresOf(message).includes("heartbeat");
        if (asked && isHello(message)) dropFeature(message, "heartbeat");
        return [message];
      },
      toClient: (message) => {
        if (asked && message.type === "session.welcome") {
          (message.payload["capabilities"] as { features: string[] }).features.push("heartbeat");
          message.payload["heartbeat_interval_sec"] = 0.2;
        }
        return [message];
      },
    };
  }),
  broken("complains of an ack that is lower than one before", ["SES-8", "ENV-14"], () => {
    let highest = 0;
    return {
      toRuntime: (message, link) => {
        if (message.type !== "session.ack") return [message];
        const seq = Number(message.payload["last_processed_seq"]);
        if (seq >= 0 && seq < highest) link.answer(errorTo(message, "session.error", "INVALID_REQUEST", "too low"));
        highest = Math.max(highest, seq);
        return [message];
      },
    };
  }),
  broken("does not say session.closed", ["SES-9", "SES-16"], () => ({
    toClient: (message) => (message.type === "session.closed" ? [] : [message]),
  })),
  broken("cancels a session's jobs when it says goodbye", ["SES-9"], () => {
    const jobs: string[] = [];
    return {
      toRuntime: (message) =>
        message.type === "session.bye" || message.type === "session.close"
          ? [
              ...jobs.map((job_id) => ({ arcp: "1.1", id: freshId(), type: "job.cancel", job_id, payload: {} })),
              message,
            ]
          : [message],
      toClient: (message) => {
        if (message.type === "job.accepted" && message.job_id !== undefined) jobs.push(message.job_id);
        return [message];
      },
    };
  }),
  // --------------------------------------------------------------------------------------- resuming
  broken(
    "drops one event of a replay",
    [
      "RES-1",
      "RES-2",
      "RES-3",
      "RES-4",
      "RES-8",
      "RES-9",
      "SES-7",
      "SES-9",
      "JOB-11",
      "JOB-18",
      "RES-11",
      "ASK-7",
      "DEL-2",
    ],
    () => {
      let replayed = 0;
      return {
        toClient: (message, link) => {
          if (link.resumed && message.event_seq !== undefined) replayed += 1;
          return replayed === 2 && message.event_seq !== undefined ? [] : [message];
        },
      };
    },
  ),
  broken(
    "gives its first number after a resume a second time",
    [
      "RES-9",
      "RES-1",
      "RES-2",
      "RES-3",
      "RES-4",
      "RES-8",
      "ENV-6",
      "SES-7",
      "SES-9",
      "JOB-11",
      "JOB-18",
      "RES-11",
      "ASK-7",
      "DEL-2",
    ],
    () => {
      let previous = 0;
      return {
        toClient: (message, link) => {
          if (!link.resumed || message.event_seq === undefined) return [message];
          const seq = previous === 0 ? message.event_seq : message.event_seq - 1;
          previous = message.event_seq;
          return [{ ...message, event_seq: seq, id: `${message.session_id}.${seq}` }];
        },
      };
    },
  ),
  broken(
    "loses the end of a job to whoever was away",
    [
      "RES-3",
      "RES-1",
      "RES-2",
      "RES-4",
      "RES-8",
      "RES-9",
      "RES-10",
      "ENV-6",
      "ENV-8",
      "SES-7",
      "SES-8",
      "SES-9",
      "JOB-11",
      "JOB-18",
      "RES-11",
      "ASK-7",
      "DEL-2",
    ],
    () => ({
      toClient: (message, link) => (link.resumed && isTerminal(message) ? [] : [message]),
    }),
  ),
  {
    name: "refuses to resume who is caught up",
    fails: [
      "RES-2",
      "RES-1",
      "RES-3",
      "RES-6",
      "RES-7",
      "RES-8",
      "RES-9",
      "ENV-8",
      "SES-4",
      "SES-7",
      "SES-8",
      "SES-9",
      "JOB-11",
      "JOB-18",
      "SES-16",
    ],
    begin: () => {
      const newest = new Map<string, number>();
      return () => ({
        toRuntime: (message, link) => {
          const resume = isHello(message) && !link.welcomed ? resumeOf(message) : undefined;
          if (resume === undefined || resume.last_event_seq !== (newest.get(resume.session_id) ?? 0)) return [message];
          link.answer(errorTo(message, "session.error", "RESUME_WINDOW_EXPIRED", "nothing to replay"));
          link.close(4410);
          return [];
        },
        toClient: (message) => {
          if (message.event_seq !== undefined) newest.set(String(message.session_id), message.event_seq);
          return [message];
        },
      });
    },
  },
  broken("does not know session.resume", ["RES-4"], () => ({
    toRuntime: (message, link) => (message.type === "session.resume" && !link.welcomed ? [] : [message]),
  })),
  {
    name: "resumes from a number that it has not given yet",
    fails: ["RES-5"],
    begin: () => {
      const newest = new Map<string, number>();
      return () => ({
        toRuntime: (message) => {
          const resume = isHello(message) ? resumeOf(message) : undefined;
          const known = newest.get(resume?.session_id ?? "");
          if (resume !== undefined && known !== undefined)
            resume.last_event_seq = Math.min(resume.last_event_seq, known);
          return [message];
        },
        toClient: (message) => {
          if (message.event_seq !== undefined) newest.set(String(message.session_id), message.event_seq);
          return [message];
        },
      });
    },
  },
  {
    name: "accepts tokens that are retired",
    fails: ["RES-6"],
    begin: () => {
      const issued = new Map<string, string[]>();
      return () => ({
        toRuntime: (message) => {
          const resume = isHello(message) ? resumeOf(message) : undefined;
          const tokens = issued.get(resume?.session_id ?? "");
          if (resume !== undefined && tokens?.includes(resume.resume_token))
            resume.resume_token = String(tokens.at(-1));
          return [message];
        },
        toClient: (message) => {
          if (message.type === "session.welcome") {
            const session = String(message.session_id);
            issued.set(session, [...(issued.get(session) ?? []), String(message.payload["resume_token"])]);
          }
          return [message];
        },
      });
    },
  },
  {
    name: "gives a session to whoever has its token",
    fails: ["RES-7"],
    begin: () => {
      const owners = new Map<string, unknown>();
      return () => {
        let token: unknown;
        return {
          toRuntime: (message) => {
            if (!isHello(message)) return [message];
            const owner = owners.get(resumeOf(message)?.session_id ?? "");
            if (owner !== undefined) message.payload["auth"] = { scheme: "bearer", token: owner };
            token = tokenOf(message);
            return [message];
          },
          toClient: (message) => {
            if (message.type === "session.welcome") owners.set(String(message.session_id), token);
            return [message];
          },
        };
      };
    },
  },
  broken("does not tell a connection that it was superseded", ["RES-8"], () => ({
    toClient: (message, link) =>
      link.welcomed && (message.payload["details"] as { reason?: unknown } | undefined)?.reason === "superseded"
        ? []
        : [message],
  })),
  broken("lets a delayed hello evict its own successor", ["RES-8"], () => ({
    toRuntime: (message) => {
      if (isHello(message)) delete message.extensions;
      return [message];
    },
  })),
  broken(
    "leaves a number out after a resume",
    [
      "RES-1",
      "RES-2",
      "RES-3",
      "RES-4",
      "RES-8",
      "RES-9",
      "ENV-6",
      "ENV-8",
      "SES-7",
      "SES-8",
      "SES-9",
      "JOB-11",
      "JOB-18",
      "RES-11",
      "ASK-7",
      "DEL-2",
    ],
    () => ({
      toClient: (message, link) =>
        link.resumed && message.event_seq !== undefined
          ? [{ ...message, event_seq: message.event_seq + 1, id: `${message.session_id}.${message.event_seq + 1}` }]
          : [message],
    }),
  ),
  broken("sends no reply again", ["RES-10"], () => ({
    toClient: (message, link) => {
      const request = message.extensions?.[IN_REPLY_TO];
      return link.resumed && request !== undefined && !link.asked.has(String(request)) ? [] : [message];
    },
  })),
  // ------------------------------------------------------------------------------------------- jobs
  broken("says that a cancelled job failed", ["JOB-1", "JOB-6", "DEL-4"], () => ({
    toClient: (message) => {
      if (isTerminal(message) && codeOf(message) === "CANCELLED") message.payload["final_status"] = "error";
      return [message];
    },
  })),
  broken(
    "tells a job's end twice",
    [
      "JOB-1",
      "JOB-2",
      "JOB-5",
      "JOB-6",
      "JOB-11",
      "JOB-12",
      "ENV-1",
      "ENV-8",
      "SES-5",
      "SES-7",
      "SES-8",
      "SES-9",
      "RES-1",
      "RES-2",
      "RES-3",
      "RES-4",
      "RES-7",
      "RES-8",
      "RES-9",
      "JOB-18",
      "SES-12",
      "SES-19",
      "RES-11",
      "ASK-1",
      "ASK-7",
      "DEL-1",
      "DEL-2",
      "DEL-4",
      "JOB-20",
    ],
    () => ({
      toClient: (message) => (isTerminal(message) ? [message, message] : [message]),
    }),
  ),
  broken("answers out of order", ["JOB-2", "SES-15"], () => {
    const waiting = new Set<string>();
    let held: Message | undefined;
    return {
      toRuntime: (message, link) => {
        // What comes before the welcome is not answered, and a long id not in full.
        const isAnswered = link.welcomed && message.id.length < 100;
        if (isAnswered && ["job.submit", "session.list_jobs"].includes(message.type)) waiting.add(message.id);
        return [message];
      },
      toClient: (message) => {
        if (!waiting.delete(requestOf(message))) return [message];
        const before = held;
        held = before === undefined && waiting.size > 0 ? message : undefined;
        if (held !== undefined) return [];
        return before === undefined ? [message] : [message, before];
      },
    };
  }),
  broken("lets events go before their job's accepted", ["JOB-2", "ENV-14"], () => {
    let held: Message | undefined;
    return {
      toClient: (message, link) => {
        if (message.type === "job.accepted" && held === undefined && !link.resumed) {
          held = message;
          // A job that says nothing at once is accepted in time.
          let turns = 20;
          const look = () => {
            if (held !== message) return;
            turns -= 1;
            if (turns > 0) setImmediate(look);
            else {
              held = undefined;
              link.answer(message);
            }
          };
          setImmediate(look);
          return [];
        }
        if (held !== undefined && message.event_seq !== undefined && message.job_id === held.job_id) {
          const accepted = held;
          held = undefined;
          return [message, accepted];
        }
        return [message];
      },
    };
  }),
  broken("numbers a rejection", ["JOB-3", "JOB-7", "JOB-13", "RES-10", "JOB-17"], () => ({
    toClient: (message) => [isRejection(message) ? { ...message, event_seq: 1 } : message],
  })),
  {
    name: "rejects a submit with session.error",
    fails: ["JOB-3", "JOB-17", "SES-16"],
    begin: () => {
      const submits = new Set<unknown>();
      return () => ({
        toRuntime: (message) => {
          if (message.type === "job.submit") submits.add(message.id);
          return [message];
        },
        toClient: (message) => {
          const request = message.extensions?.[IN_REPLY_TO];
          if (!isRejection(message) || !submits.has(request)) return [message];
          return [{ ...message, type: "session.error", payload: { ...message.payload, request_id: request } }];
        },
      });
    },
  },
  broken("has one code for unknown agents and unknown versions", ["JOB-4"], () => ({
    toClient: (message) => {
      if (codeOf(message) === "AGENT_VERSION_NOT_AVAILABLE") message.payload["code"] = "AGENT_NOT_AVAILABLE";
      return [message];
    },
  })),
  broken("knows no idempotency keys", ["JOB-5", "ENV-3", "ENV-12", "ENV-13", "RES-11"], () => ({
    toRuntime: (message) => {
      if (message.type === "job.submit") delete message.payload["idempotency_key"];
      return [message];
    },
  })),
  broken(
    "says that it cancels, and does not",
    ["RES-3", "JOB-1", "JOB-6", "JOB-7", "JOB-10", "JOB-13", "JOB-17", "ASK-5", "CRD-8", "DEL-4", "DEL-5", "JOB-22"],
    () => ({
      toRuntime: (message, link) => {
        const job = message.job_id ?? message.payload["job_id"];
        if (message.type !== "job.cancel" || !String(job).startsWith("job_0")) return [message];
        link.answer({
          ...errorTo(message, "job.error", "", ""),
          type: "job.cancelled",
          job_id: String(job),
          payload: {},
        });
        return [];
      },
    }),
  ),
  {
    name: "lets every session of whoever cancel a job",
    fails: ["JOB-7", "JOB-13", "JOB-22"],
    begin: () => {
      const owners = new Map<unknown, Link>();
      return () => ({
        toRuntime: (message, link) => {
          const owner = message.type === "job.cancel" ? owners.get(message.job_id) : undefined;
          if (owner === undefined || owner === link || !owner.open) return [message];
          const { session_id: _session, ...rest } = message;
          owner.ask({ ...rest, id: freshId() } as Message);
          link.answer({ ...errorTo(message, "job.error", "", ""), type: "job.cancelled", payload: {} });
          return [];
        },
        toClient: (message, link) => {
          if (message.type === "job.accepted") owners.set(message.job_id, link);
          return [message];
        },
      });
    },
  },
  broken("has no limit on how long a job runs", ["JOB-8"], () => ({
    toRuntime: (message) => {
      if (Number(message.payload["max_runtime_sec"]) > 0) delete message.payload["max_runtime_sec"];
      return [message];
    },
  })),
  broken("lets a lease outlive its end", ["ENV-3", "JOB-3", "JOB-9", "LEA-13", "LEA-14"], () => ({
    toRuntime: (message) => {
      delete message.payload["lease_constraints"];
      return [message];
    },
  })),
  broken(
    "grants every lease",
    ["ENV-9", "JOB-3", "JOB-9", "ENV-13", "LEA-1", "LEA-4", "LEA-5", "LEA-6", "LEA-17"],
    () => ({
      toRuntime: (message) => {
        const lease = leaseOf(message);
        for (const capability of Object.keys(lease)) if (!UNDERSTOOD.includes(capability)) delete lease[capability];
        return [message];
      },
    }),
  ),
  broken("lists the oldest job first", ["JOB-10"], () => ({
    toClient: (message) => {
      const { jobs } = message.payload;
      if (message.type === "session.jobs" && Array.isArray(jobs)) jobs.reverse();
      return [message];
    },
  })),
  {
    name: "forgets a job with its end",
    fails: ["JOB-2", "JOB-11", "CRD-8", "JOB-21"],
    begin: () => {
      const ended = new Set<unknown>();
      return () => ({
        toRuntime: (message, link) => {
          if (message.type !== "job.subscribe" || !ended.has(message.payload["job_id"])) return [message];
          link.answer(errorTo(message, "session.error", "JOB_NOT_FOUND", "no such job"));
          return [];
        },
        toClient: (message) => {
          if (isTerminal(message)) ended.add(message.job_id);
          return [message];
        },
      });
    },
  },
  broken("goes on with a job that was unsubscribed", ["JOB-12"], () => ({
    toRuntime: (message) => (message.type === "job.unsubscribe" ? [] : [message]),
  })),
  broken("takes all tokens for one principal's", ["RES-7", "JOB-13", "JOB-17", "SES-14", "ASK-3", "CRD-8"], () => ({
    toRuntime: (message) => {
      if (tokenOf(message) === "bob") message.payload["auth"] = { scheme: "bearer", token: "alice" };
      return [message];
    },
  })),
  broken("answers a refused subscribe with job.error", ["JOB-13"], () => {
    const subscribes = new Set<unknown>();
    return {
      toRuntime: (message) => {
        if (message.type === "job.subscribe") subscribes.add(message.id);
        return [message];
      },
      toClient: (message) => [
        message.type === "session.error" && subscribes.has(message.extensions?.[IN_REPLY_TO])
          ? { ...message, type: "job.error", job_id: freshId() }
          : message,
      ],
    };
  }),
  broken("sends log events without a level", ["JOB-14"], () => ({
    toClient: (message) => {
      if (message.payload["kind"] === "log") delete (message.payload["body"] as { level?: unknown }).level;
      return [message];
    },
  })),
  broken("hides what its agents say of their input", ["JOB-15"], () => ({
    toClient: (message) => {
      if (isTerminal(message) && codeOf(message) === "INVALID_REQUEST") message.payload["message"] = "Failed.";
      return [message];
    },
  })),
  broken("does not say how large an input may be", ["JOB-19", "SES-15"], () => ({
    toClient: (message) => {
      delete (message.payload["details"] as { limit?: unknown } | undefined)?.limit;
      return [message];
    },
  })),
  // ----------------------------------------------------------------------- limits, time and restarts
  {
    name: "repeats all that was sent in what it says of it",
    fails: ["ENV-13"],
    begin: () => () => {
      const asked = new Map<string, string>();
      return {
        toRuntime: (message) => {
          asked.set(message.id, JSON.stringify(message.payload));
          return [message];
        },
        toClient: (message) => {
          const payload = asked.get(requestOf(message));
          if (payload !== undefined && codeOf(message) === "INVALID_REQUEST") message.payload["request"] = payload;
          return [message];
        },
      };
    },
  },
  broken("complains twice of one request", ["ENV-14"], () => ({
    toClient: (message) =>
      codeOf(message) === "INVALID_REQUEST" && String(message.payload["message"]).includes("nonce")
        ? [message, { ...message, id: freshId() }]
        : [message],
  })),
  broken("lets a connection outlive its token", ["SES-11"], () => {
    let expired = false;
    return {
      toClient: (message) => {
        expired ||= String(message.payload["message"]).startsWith("The token has expired");
        return expired ? [] : [message];
      },
      closes: () => !expired,
    };
  }),
  {
    name: "waits for the slowest of its readers",
    fails: ["SES-12"],
    begin: () => {
      const owners = new Map<unknown, Link>();
      const stalled = new Set<Link>();
      const held: [Link, Message][] = [];
      return () => ({
        reads: (reading, link) => {
          if (!reading) stalled.add(link);
          else if (stalled.delete(link)) for (const [to, message] of held.splice(0)) to.answer(message);
        },
        cut: (link) => void stalled.delete(link),
        toClient: (message, link) => {
          if (message.type === "job.accepted") owners.set(message.job_id, link);
          const owner = owners.get(message.job_id);
          const waits = owner !== undefined && owner !== link && stalled.has(owner);
          if (!waits || message.event_seq === undefined) return [message];
          held.push([link, message]);
          return [];
        },
      });
    },
  },
  broken("opens a session for whoever wants one more", ["SES-14"], () => {
    let hello: Message | undefined;
    let refused = false;
    return {
      toRuntime: (message) => {
        if (isHello(message)) hello = message;
        return [message];
      },
      toClient: (message, link) => {
        if (link.welcomed || hello === undefined || !isLimited(message)) return [message];
        refused = true;
        const capabilities = { encodings: ["json"], features: [], agents: [] };
        return [{ ...errorTo(hello, "session.error", "", ""), type: "session.welcome", payload: { capabilities } }];
      },
      closes: () => !refused,
    };
  }),
  broken("does not say when there will be room", ["SES-14", "SES-15", "SES-16", "JOB-17"], () => ({
    toClient: (message) => {
      delete detailsOf(message)["retry_after_ms"];
      return [message];
    },
  })),
  {
    name: "takes note of what it refused unseen",
    fails: ["SES-15", "SES-16"],
    begin: () => {
      const refusals = new Map<string, Message>();
      return () => ({
        toRuntime: (message, link) => {
          const refusal = refusals.get(message.id);
          if (refusal !== undefined) link.answer(refusal);
          return refusal === undefined ? [message] : [];
        },
        toClient: (message) => {
          if (isLimited(message)) refusals.set(requestOf(message), message);
          return [message];
        },
      });
    },
  },
  broken("answers a refused request out of its turn", ["SES-15"], () => {
    let held: Message | undefined;
    const lists = new Set<string>();
    return {
      toRuntime: (message) => {
        if (message.type === "session.list_jobs") lists.add(message.id);
        return [message];
      },
      toClient: (message) => {
        if (held === undefined && isLimited(message) && lists.has(requestOf(message))) {
          held = message;
          return [];
        }
        const late = held;
        held = undefined;
        return late === undefined ? [message] : [message, late];
      },
    };
  }),
  broken("hangs up on who closes in a flood", ["SES-16"], () => {
    let flooded = false;
    return {
      toClient: (message) => {
        flooded ||= isLimited(message);
        return flooded && message.type === "session.closed" ? [] : [message];
      },
    };
  }),
  broken("keeps what nobody reads for ever", ["SES-17"], () => {
    let unread = false;
    const lists = new Map<string, Message>();
    return {
      reads: () => {
        unread = true;
      },
      toRuntime: (message) => {
        if (message.type === "session.list_jobs") lists.set(message.id, message);
        return [message];
      },
      toClient: (message) => {
        lists.delete(requestOf(message));
        return [message];
      },
      closes: (link) => {
        if (!unread) return true;
        for (const request of lists.values()) {
          link.answer({ ...errorTo(request, "session.error", "", ""), type: "session.jobs", payload: { jobs: [] } });
        }
        return false;
      },
    };
  }),
  broken("does not tell who is behind", ["SES-19"], () => ({
    toClient: (message) => {
      const { body } = message.payload as { body?: { phase?: string } };
      if (body?.phase === "back_pressure") body.phase = "history_trimmed";
      return [message];
    },
  })),
  broken("reads all that comes before a hello", ["SES-20"], () => ({
    toRuntime: (message, link) => (link.welcomed || isHello(message) ? [message] : []),
  })),
  { name: "forgets everything with its process", fails: ["RES-11"], forgetful: true, begin: () => () => ({}) },
  {
    name: "accepts jobs that it has no room for",
    fails: ["JOB-17"],
    begin: () => () => ({
      toClient: (message) =>
        message.type === "job.error" && String(message.payload["message"]).startsWith("At most")
          ? [{ ...message, type: "job.accepted", payload: { job_id: message.job_id } }]
          : [message],
    }),
  },
  {
    name: "fails the jobs of a connection that is torn",
    fails: ["JOB-18", "ENV-6", "RES-1", "RES-2", "RES-3", "RES-4", "RES-9"],
    begin: () => {
      const failed = new Set<unknown>();
      return () => {
        const jobs: unknown[] = [];
        return {
          cut: () => {
            for (const job of jobs) failed.add(job);
          },
          toClient: (message) => {
            if (message.type === "job.accepted") jobs.push(message.job_id);
            if (!isTerminal(message) || !failed.has(message.job_id)) return [message];
            return [
              {
                ...message,
                type: "job.error",
                payload: { code: "INTERNAL_ERROR", message: "ECONNRESET", retryable: true },
              },
            ];
          },
        };
      };
    },
  },
  // ------------------------------------------------------------------------------- results and others' jobs
  broken("numbers the chunks of a result from one", ["JOB-20"], () => ({
    toClient: (message) => {
      const body = bodyOf(message);
      if (message.payload["kind"] === "result_chunk") body["chunk_seq"] = Number(body["chunk_seq"]) + 1;
      return [message];
    },
  })),
  broken("sends a result besides its chunks", ["JOB-21"], () => ({
    toClient: (message) => {
      if (message.payload["result_id"] !== undefined) message.payload["result"] = null;
      return [message];
    },
  })),
  {
    name: "lists jobs that it says are not there",
    fails: ["JOB-13", "JOB-22"],
    begin: () => {
      const jobs: unknown[] = [];
      return () => {
        let isBob = false;
        return {
          toRuntime: (message) => {
            if (isHello(message)) isBob = tokenOf(message) === "bob";
            return [message];
          },
          toClient: (message) => {
            if (message.type === "job.accepted" && !isBob) jobs.push(message.job_id);
            if (message.type === "session.jobs" && isBob) message.payload["jobs"] = jobs.map((job_id) => ({ job_id }));
            return [message];
          },
        };
      };
    },
  },
  // ---------------------------------------------------------------------------------------- questions
  broken("does not say who answered", ["ASK-1"], () => ({
    toClient: (message) => {
      delete bodyOf(message)["answered_by"];
      return [message];
    },
  })),
  broken("takes every answer for the first", ["ASK-2"], () => ({
    toClient: (message) => (detailsOf(message)["code"] === "ALREADY_ANSWERED" ? [answered(message)] : [message]),
  })),
  broken("lets every session answer", ["ASK-3"], () => {
    const answers = new Set<string>();
    return {
      toRuntime: (message) => {
        if (message.type === "x-vendor.holdfast.answer") answers.add(message.id);
        return [message];
      },
      toClient: (message) => {
        const isRefused = codeOf(message) === "PERMISSION_DENIED" && answers.has(requestOf(message));
        return [isRefused ? answered(message) : message];
      },
    };
  }),
  broken("takes any answer", ["ASK-4"], () => ({
    toRuntime: (message) => {
      const { answer } = message.payload as { answer?: { approve?: unknown } };
      if (message.type === "x-vendor.holdfast.answer" && typeof answer?.approve !== "boolean") {
        message.payload["answer"] = { approve: true };
      }
      return [message];
    },
  })),
  broken("says of a closed question that it was never asked", ["ASK-5"], () => ({
    toClient: (message) => {
      const details = detailsOf(message);
      if (details["code"] === "QUESTION_CLOSED") details["code"] = "QUESTION_NOT_FOUND";
      return [message];
    },
  })),
  broken("asks anew whoever comes back", ["ASK-7"], () => ({
    toClient: (message, link) => {
      const body = bodyOf(message);
      if (link.resumed && body["phase"] === "input_required") body["question_id"] = freshId();
      return [message];
    },
  })),
  // --------------------------------------------------------------------------------------- delegation
  broken("tells of a child before its parent's delegate event", ["DEL-1", "DEL-2"], () => {
    let held: Message | undefined;
    return {
      toClient: (message) => {
        const before = held;
        held = undefined;
        if (before !== undefined) return isChild(message) ? [message, before] : [before, message];
        if (message.payload["kind"] !== "delegate") return [message];
        held = message;
        return [];
      },
    };
  }),
  {
    name: "tells of a child once",
    fails: ["DEL-2"],
    begin: () => {
      const told = new Set<unknown>();
      return () => ({
        toClient: (message) => {
          const again = isChild(message) && told.has(message.job_id);
          if (isChild(message)) told.add(message.job_id);
          return again ? [] : [message];
        },
      });
    },
  },
  broken("gives a child a trace of its own", ["DEL-1", "DEL-2"], () => ({
    toClient: (message) => [isChild(message) ? { ...message, trace_id: "e".repeat(32) } : message],
  })),
  broken("gives a tool_result another call_id", ["DEL-3", "ACT-1", "ACT-2"], () => ({
    toClient: (message) => {
      if (message.payload["kind"] === "tool_result") bodyOf(message)["call_id"] = "call_other";
      return [message];
    },
  })),
  {
    name: "says that a child failed which was cancelled",
    fails: ["DEL-4", "DEL-5"],
    begin: () => {
      const children = new Set<unknown>();
      return () => ({
        toClient: (message) => {
          if (isChild(message)) children.add(message.job_id);
          if (isTerminal(message) && children.has(message.job_id) && codeOf(message) === "CANCELLED") {
            message.payload["code"] = "INTERNAL_ERROR";
          }
          return [message];
        },
      });
    },
  },
  broken("lists a child as nobody's", ["DEL-5"], () => ({
    toClient: (message) => {
      const { jobs } = message.payload;
      if (message.type === "session.jobs" && Array.isArray(jobs)) for (const job of jobs) job.parent_job_id = null;
      return [message];
    },
  })),
  broken("delegates once, however often it is asked to", ["DEL-7", "LEA-12"], () => ({
    toRuntime: (message) => {
      const input = inputOf(message);
      if (message.type === "job.submit" && "times" in input) input["times"] = 1;
      return [message];
    },
  })),
  // ------------------------------------------------------------------------------------------- leases
  broken("leaves a capability out that it does not know", ["LEA-1"], () => ({
    toRuntime: (message) => {
      delete leaseOf(message)["fly"];
      return [message];
    },
  })),
  rewritesTools("knows another dialect of patterns as well", ["LEA-2"], (tools) =>
    tools.map((tool) => tool.replace("?", "*")),
  ),
  rewritesTools("lets a wildcard cross segments", ["LEA-3", "LEA-8"], (tools) =>
    tools.map((tool) => tool.replace(/^search\/\*$/, "search/**")),
  ),
  rewritesTools("takes the beginning of a lease that is too long", ["LEA-4"], (tools) => tools.slice(0, 256)),
  misreports("lets a path lead out of the lease", ["LEA-5"], permits("fs.read")),
  misreports("lets a URL lead out of the lease", ["LEA-6"], permits("net.fetch")),
  broken("decodes the names of tools", ["LEA-7"], () => ({
    toRuntime: (message) => {
      const { authorize = [] } = inputOf(message) as { authorize?: { capability: string; target: string }[] };
      for (const wish of authorize) {
        if (wish.capability === "tool.call") wish.target = decodeURIComponent(wish.target);
      }
      return [message];
    },
  })),
  misreports("lets a job go on whose budget is spent", ["LEA-9", "LEA-11", "ACT-2"], (tried) =>
    tried.code === "BUDGET_EXHAUSTED" ? { value: "exact" } : tried,
  ),
  broken("does not tell the budget of a job", ["LEA-10"], () => ({
    toClient: (message) => {
      delete message.payload["budget"];
      return [message];
    },
  })),
  broken("takes an expiry of any time zone", ["LEA-13"], () => ({
    toRuntime: (message) => {
      const constraints = constraintsOf(message);
      if (String(constraints?.expires_at).endsWith("+02:00")) constraints.expires_at = "2098-12-31T22:00:00Z";
      return [message];
    },
  })),
  broken("gives a child more time than its parent has", ["LEA-14"], () => ({
    toClient: (message) => {
      const constraints = constraintsOf(message);
      if (isChild(message) && constraints.expires_at !== undefined) constraints.expires_at = "2099-12-31T00:00:00Z";
      return [message];
    },
  })),
  broken("does not tell what is left of a budget", ["LEA-15"], () => ({
    toClient: (message) => {
      const body = bodyOf(message);
      if (body["name"] === "cost.budget.remaining") body["name"] = "x.remaining";
      return [message];
    },
  })),
  broken("takes every model", ["LEA-16"], () => ({
    toRuntime: (message) => {
      delete leaseOf(message)["model.use"];
      return [message];
    },
  })),
  broken("does not say which capability it refuses", ["LEA-17"], () => ({
    toClient: (message) => {
      delete detailsOf(message)["capability"];
      return [message];
    },
  })),
  broken("shows no operation that was refused as refused", ["ACT-2", "DEL-3"], () => ({
    toClient: (message) => {
      const body = bodyOf(message);
      if (message.payload["kind"] !== "tool_result" || body["error"] === undefined) return [message];
      delete body["error"];
      body["result"] = null;
      return [message];
    },
  })),
  // -------------------------------------------------------------------------------------- credentials
  broken("lists credentials for who takes none", ["CRD-1"], () => ({
    toClient: (message) => {
      if (message.type === "job.accepted") message.payload["credentials"] ??= [];
      return [message];
    },
  })),
  broken("does not say what its credentials are good for", ["CRD-2"], () => ({
    toClient: (message) => {
      for (const credential of credentialsOf(message)) delete credential["endpoint"];
      return [message];
    },
  })),
  {
    name: "repeats the value of a credential",
    fails: ["CRD-7"],
    begin: () => {
      const values = new Map<unknown, unknown>();
      return () => ({
        toClient: (message) => {
          for (const { id, value } of credentialsOf(message)) values.set(id, value);
          if (message.type !== "job.result") return [message];
          const text = JSON.stringify(message).replaceAll(/\[credential ([^\]]*)\]/g, (_, id) =>
            String(values.get(id)),
          );
          return [JSON.parse(text) as Message];
        },
      });
    },
  },
  {
    name: "shows a job's credentials to whoever follows it",
    fails: ["CRD-8"],
    begin: () => {
      const issued = new Map<unknown, unknown>();
      return () => ({
        toClient: (message) => {
          const { credentials } = message.payload;
          if (message.type === "job.accepted" && credentials !== undefined) issued.set(message.job_id, credentials);
          const kept = message.type === "job.subscribed" ? issued.get(message.payload["job_id"]) : undefined;
          if (kept !== undefined) message.payload["credentials"] = kept;
          return [message];
        },
      });
    },
  },
];
