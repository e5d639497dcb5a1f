/**
 * `fetch` for a server that may hang: the SDK knows no timeout, and OpenCode leaves a request that comes while its
 * socket opens without an answer for ever. Each call ends by itself, an answer is read before it is handed on, and
 * nothing that the server sends is held beyond a cap. An event stream is handed on as it comes: its answer has to
 * begin in time, and it may not fall silent.
 */
import type { Clock } from "../../clock.ts";
import { BackendError } from "../../conversation/index.ts";

export interface BoundedFetchOptions {
  clock: Clock;
  /** From the call to the last byte of its answer; of an event stream, to its first. */
  requestMs: number;
  /** How long an event stream may be silent. OpenCode sends a heartbeat every 10 s. */
  silenceMs: number;
  /** For HTTP basic authentication, as `OPENCODE_SERVER_PASSWORD` asks for it. */
  password: string | undefined;
}

const USER = "opencode";
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
/** Of a stream, what comes without the blank line that ends an event. */
const MAX_FRAME_BYTES = 8 * 1024 * 1024;

/** Rejects with BackendError, `unavailable` when nothing comes in time or at all, or with the signal's reason. */
export function boundedFetch(options: BoundedFetchOptions): (request: Request) => Promise<Response> {
  const { clock, requestMs, password } = options;
  return async (request) => {
    const { pathname } = new URL(request.url);
    const what = `${request.method} ${pathname}`;
    const late = new AbortController();
    const timer = clock.after(requestMs, () =>
      late.abort(new BackendError("unavailable", `OpenCode did not answer ${what} within ${requestMs} ms.`)),
    );
    const headers = new Headers(request.headers);
    if (password !== undefined) {
      headers.set("authorization", `Basic ${Buffer.from(`${USER}:${password}`).toString("base64")}`);
    }
    try {
      const signal = AbortSignal.any([request.signal, late.signal]);
      // A redirect would carry the password to wherever it says.
      const response = await fetch(new Request(request, { headers, signal, redirect: "error" }));
      if (response.ok && response.headers.get("content-type")?.startsWith("text/event-stream") === true) {
        return eventStream(response, what, late, options);
      }
      const { status, statusText } = response;
      const text = await wholeText(response, what);
      return new Response(hasNoBody(status) ? null : text, { status, statusText, headers: response.headers });
    } catch (error) {
      if (request.signal.aborted) throw request.signal.reason;
      if (late.signal.aborted) throw late.signal.reason;
      if (error instanceof BackendError) throw error;
      throw new BackendError("unavailable", `OpenCode is not reached for ${what}: ${why(error)}.`, { cause: error });
    } finally {
      timer.cancel();
    }
  };
}

const hasNoBody = (status: number): boolean => status === 204 || status === 205 || status === 304;

/** Node tells what went wrong in the cause: "fetch failed" alone says nothing. */
function why(error: unknown): string {
  const { code, message } = ((error as Error).cause ?? error) as NodeJS.ErrnoException;
  return code ?? message;
}

async function wholeText(response: Response, what: string): Promise<string> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    bytes += piece.byteLength;
    if (bytes > MAX_ANSWER_BYTES) {
      throw new BackendError("malformed", `OpenCode's answer to ${what} is longer than ${MAX_ANSWER_BYTES} bytes.`);
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

/** The same stream, with its silence and its frames measured. */
function eventStream(
  response: Response,
  what: string,
  over: AbortController,
  { clock, silenceMs }: BoundedFetchOptions,
): Response {
  const reader = response.body?.getReader();
  const watch = () =>
    clock.after(silenceMs, () =>
      over.abort(new BackendError("unavailable", `OpenCode's ${what} has been silent for ${silenceMs} ms.`)),
    );
  const frame = new FrameLength();
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const silence = watch();
      try {
        const read = await reader?.read();
        if (read === undefined || read.done) {
          controller.close();
          return;
        }
        if (frame.add(read.value) > MAX_FRAME_BYTES) {
          throw new BackendError("malformed", `An event of OpenCode's is longer than ${MAX_FRAME_BYTES} bytes.`);
        }
        controller.enqueue(read.value);
      } catch (error) {
        over.abort(error);
        controller.error(error);
      } finally {
        silence.cancel();
      }
    },
    async cancel(reason) {
      await reader?.cancel(reason);
    },
  });
  return new Response(body, { status: response.status, headers: response.headers });
}

const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;

/** How much has come since the last blank line. */
class FrameLength {
  #length = 0;
  #last = 0;

  add(piece: Uint8Array): number {
    for (const byte of piece) {
      if (byte === CARRIAGE_RETURN) continue;
      this.#length = byte === LINE_FEED && this.#last === LINE_FEED ? 0 : this.#length + 1;
      this.#last = byte;
    }
    return this.#length;
  }
}
