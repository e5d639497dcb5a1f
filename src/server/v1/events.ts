/**
 * A job's events as Server-Sent Events (SRV-23): the same log that sessions read, from wherever the reader stands. An
 * event's `id` is its own n, so `Last-Event-ID` goes on after what was had, on whichever node. A reader costs a
 * listener and, while it is slow, one page; the next is read when the socket has taken what it was given.
 */
import type { Context } from "hono";
import { z } from "zod";
import type { Clock } from "../../clock.ts";
import { ArcpError } from "../../protocol/index.ts";
import type { FollowedPage, JobFollow, Runtime } from "../../runtime/index.ts";
import type { Api } from "./api.ts";
import { askerOf, type Env, invalid } from "./request.ts";

/** A comment goes out at least so often: proxies and readers see that the stream lives. */
const HEARTBEAT_MS = 15_000;
/** Pieces that are handed to the socket. */
const PIECE_CHARS = 64 * 1024;
const MAX_STREAMS_PER_PRINCIPAL = 200;
const MAX_STREAMS = 10_000;

const LAST_EVENT_ID = "last-event-id";

export function eventRoutes(api: Api, runtime: Runtime): void {
  const { jobs, clock } = runtime;
  const streams = new Map<string, number>();

  /** @throws ArcpError LIMIT_EXCEEDED */
  const requireRoom = (principal: string) => {
    const own = streams.get(principal) ?? 0;
    if (own < MAX_STREAMS_PER_PRINCIPAL && jobs.followers < MAX_STREAMS) return;
    throw ArcpError.detail("LIMIT_EXCEEDED", "Too many streams of events are open; close some.", {
      retry_after_ms: HEARTBEAT_MS,
      limit: own < MAX_STREAMS_PER_PRINCIPAL ? MAX_STREAMS : MAX_STREAMS_PER_PRINCIPAL,
    });
  };
  const open = (jobId: string, afterN: number, principal: string): JobFollow => {
    const follow = jobs.follow(jobId, afterN);
    streams.set(principal, (streams.get(principal) ?? 0) + 1);
    const over = () => {
      const left = (streams.get(principal) ?? 1) - 1;
      if (left > 0) streams.set(principal, left);
      else streams.delete(principal);
    };
    follow.closed.addEventListener("abort", over, { once: true });
    return follow;
  };

  api.route(
    {
      method: "get",
      path: "/jobs/{id}/events",
      access: "look",
      tag: "jobs",
      summary: "A job's events, from its first or after Last-Event-ID, until its terminal one.",
      headers: {
        [LAST_EVENT_ID]: {
          schema: z
            .string()
            .regex(/^\d{1,15}$/)
            .optional(),
          description: "The id of the newest event that the reader has.",
        },
      },
      answers: {
        200: {
          description:
            "Events `job.event`, `job.result`, `job.error` with the payloads of the wire, and `gap` for events that " +
            "were removed before they could be read: {from, through, count}.",
          schema: { contentType: "text/event-stream" },
        },
        204: { description: "The reader has the terminal event.", schema: { contentType: "text/event-stream" } },
      },
    },
    async ({ param, context }) => {
      const jobId = param("id");
      const { newestN, ended } = await jobs.observe(jobId, askerOf(context));
      const afterN = positionIn(context, newestN);
      if (ended && afterN === newestN) return new Response(null, { status: 204 });
      const headers = { "content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no" };
      if (context.req.method === "HEAD") return new Response(null, { headers });
      const principal = context.get("principal");
      requireRoom(principal);
      const follow = open(jobId, afterN, principal);
      const stream = eventStream(follow);
      endWith(follow, context, clock);
      return new Response(stream, { headers });
    },
  );
}

/** @throws ArcpError INVALID_REQUEST naming the header */
function positionIn(context: Context<Env>, newestN: number): number {
  const given = context.req.header(LAST_EVENT_ID);
  if (given === undefined || given === "") return 0;
  const afterN = /^\d{1,15}$/.test(given) ? Number(given) : Number.NaN;
  if (afterN <= newestN) return afterN;
  throw invalid(
    `Last-Event-ID: ${JSON.stringify(given.slice(0, 32))} is no event of this job; its newest is ${newestN}. ` +
      "Leave it out to begin with the first.",
  );
}

/** A stream ends with its reader, and with the token that opened it. */
function endWith(follow: JobFollow, context: Context<Env>, clock: Clock): void {
  const { gone } = context.env;
  const close = () => follow.close();
  gone.addEventListener("abort", close, { once: true });
  const { expiresAt } = context.get("identity");
  const expiry = expiresAt === undefined ? undefined : clock.after(expiresAt - clock.wall(), close);
  follow.closed.addEventListener("abort", () => {
    expiry?.cancel();
    gone.removeEventListener("abort", close);
  });
  if (gone.aborted) close();
}

function eventStream(follow: JobFollow): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let begun = false;
  return new ReadableStream(
    {
      async pull(controller) {
        if (!begun) {
          begun = true;
          controller.enqueue(encoder.encode("retry: 1000\n\n"));
          return;
        }
        const page = await follow.next(HEARTBEAT_MS);
        if (page.kind !== "end") {
          for (const piece of piecesOf(page)) controller.enqueue(encoder.encode(piece));
        } else {
          controller.close();
        }
      },
      cancel: () => follow.close(),
    },
    { highWaterMark: 0 },
  );
}

function* piecesOf(page: Exclude<FollowedPage, { kind: "end" }>): Generator<string> {
  switch (page.kind) {
    case "quiet":
      yield ":\n\n";
      return;
    case "gap": {
      const { fromN, throughN } = page;
      const data = JSON.stringify({ from: fromN, through: throughN, count: throughN - fromN + 1 });
      yield `id: ${throughN}\nevent: gap\ndata: ${data}\n\n`;
      return;
    }
    case "events": {
      let piece = "";
      for (const { n, kind, payload } of page.events) {
        const event = kind === "job.result" || kind === "job.error" ? kind : "job.event";
        piece += `id: ${n}\nevent: ${event}\ndata: ${payload}\n\n`;
        if (piece.length < PIECE_CHARS) continue;
        yield piece;
        piece = "";
      }
      if (piece !== "") yield piece;
    }
  }
}
