/**
 * Messages that a host adds to the wire under its own name, and that its code answers (SPEC.md, EXT). Each is a
 * request like any other: checked, answered in its turn, and not carried out again when it comes again. Its handler works outside the store, so a process that dies
 * right after it may have done the work without having noted it; the request's id tells a repeat.
 */
import type { VendorType } from "../protocol/index.ts";
import type { Duplicate, RequestFacet, RequestRef } from "../store/store.ts";
import type { JobInfo } from "./job-desk.ts";
import { checked, type ValueSchema } from "./value-schema.ts";
import { checkVendorName } from "./vendor-name.ts";

export interface ExtensionContext {
  /** Whose session it is. */
  readonly principal: string;
  readonly sessionId: string;
  /** The message's id: the same when a client sends it again. */
  readonly requestId: string;
  /** A job that the principal may see. Rejects with `JOB_NOT_FOUND` for any other. */
  job(jobId: string): Promise<JobInfo>;
}

export interface Extension<T> {
  /** @default any object */
  schema?: ValueSchema<T> | undefined;
  /**
   * Does what the message asks for, and says what to answer: an object, or `undefined` for no answer. An
   * `ArcpError` that it throws is the answer as it is, anything else becomes `INTERNAL_ERROR` with a neutral
   * message. Answers leave in the order of the requests, so be quick: after the store's timeout (5 s) the
   * client is told `TIMEOUT`, and is given the answer when it sends the message again.
   */
  handle(payload: T, context: ExtensionContext): unknown;
  /** The type of the answer. Without one, there is none. */
  reply?: VendorType | undefined;
}

/** The type and the payload of an answer, if there is one. */
type Answer = { type: VendorType; payload: object } | undefined;

/** A message that is being carried out, or was, and could not be noted: its connection had been superseded. */
interface Work {
  /** Set when the handler begins. */
  outcome: Promise<Answer> | undefined;
  /** How many wait for it. */
  waiting: number;
  /** The handler is done and the store does not know. */
  unclaimed: boolean;
}

interface Message {
  reply: VendorType | undefined;
  /** @throws ArcpError INVALID_REQUEST */
  carryOut(payload: unknown, context: ExtensionContext): unknown;
}

const MAX_ANSWER_BYTES = 1024 * 1024;
/** Messages that were carried out and not stored, for whoever sends them again; of more the oldest go. */
const MAX_UNCLAIMED = 1_000;

export class Extensions {
  readonly #messages = new Map<string, Message>();
  /** By session and message: a repeat waits for the same outcome. */
  readonly #works = new Map<string, Work>();

  /** @throws RangeError for a name that is no vendor's, is Holdfast's, or is taken */
  register<T>(type: string, extension: Extension<T>): void {
    const { schema, reply } = extension;
    this.#checkName("type", type);
    if (reply !== undefined) {
      this.#checkName("reply", reply);
      if (reply === type) throw new RangeError(`reply: ${JSON.stringify(reply)} is the message itself.`);
    }
    this.#messages.set(type, {
      reply,
      // Without a schema T is what the host says it is, and the host alone knows why.
      carryOut: (payload, context) =>
        extension.handle(
          schema === undefined ? (payload as T) : checked(schema, payload, `Invalid ${type}: payload`),
          context,
        ),
    });
  }

  has(type: string): boolean {
    return this.#messages.has(type);
  }

  /**
   * Carries out a message, once, and stores its reply.
   *
   * @param frame frames the answer
   * @returns the frame to be sent, if any
   * @throws ArcpError; StoreRefusal superseded; and whatever a handler throws
   */
  async carryOut(
    requests: Pick<RequestFacet, "find" | "note">,
    request: { ref: RequestRef; type: string; payload: unknown; context: ExtensionContext },
    frame: (type: VendorType, payload: object) => string,
  ): Promise<string | undefined> {
    const { ref, type, payload, context } = request;
    const message = this.#messages.get(type);
    if (message === undefined) throw new Error(`${type} is not registered.`);
    const key = `${ref.sessionId} ${ref.messageId}`;
    const work = this.#workOf(key);
    // From here to the end the work stays where a repeat finds it, whatever else happens to it.
    work.waiting += 1;
    try {
      const before = await requests.find(ref);
      if (before !== undefined) return before.frame;
      work.outcome ??= (async () => toAnswer(type, message.reply, await message.carryOut(payload, context)))();
      const answer = await work.outcome;
      work.unclaimed = true;
      const text = answer === undefined ? undefined : frame(answer.type, answer.payload);
      const noted: { outcome: "noted" } | Duplicate = await requests.note({ ...ref, frame: text });
      work.unclaimed = false;
      return noted.outcome === "duplicate" ? noted.frame : text;
    } finally {
      work.waiting -= 1;
      if (work.waiting === 0 && !work.unclaimed) this.#works.delete(key);
    }
  }

  #workOf(key: string): Work {
    const known = this.#works.get(key);
    if (known !== undefined) return known;
    for (const [other, { waiting }] of this.#works) {
      if (this.#works.size < MAX_UNCLAIMED) break;
      if (waiting === 0) this.#works.delete(other);
    }
    const work: Work = { outcome: undefined, waiting: 0, unclaimed: false };
    this.#works.set(key, work);
    return work;
  }

  #checkName(field: string, name: string): void {
    checkVendorName(field, name);
    if (this.#messages.has(name)) throw new RangeError(`${field}: ${JSON.stringify(name)} is registered already.`);
    if ([...this.#messages.values()].some((message) => field === "type" && message.reply === name)) {
      throw new RangeError(`${field}: ${JSON.stringify(name)} is the answer to another message.`);
    }
  }
}

function toAnswer(type: string, reply: VendorType | undefined, payload: unknown): Answer {
  if (payload === undefined || reply === undefined) return undefined;
  if (typeof payload !== "object" || payload === null || Array.isArray(payload)) {
    throw new TypeError(`The handler of ${type} returned no object.`);
  }
  const bytes = Buffer.byteLength(JSON.stringify(payload));
  if (bytes > MAX_ANSWER_BYTES) throw new RangeError(`The answer to ${type} takes ${bytes} bytes.`);
  return { type: reply, payload };
}
