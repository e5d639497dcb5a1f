/**
 * Requests of Slack's that come a second time (SLK-16). Bolt takes a signed request for five minutes, as often as it
 * comes. Slack signs each of its own retries anew, so one with a time and a signature that was answered already is
 * somebody else's copy. Turns do not need this: a message is one turn in any case. Remembers at most
 * {@link MAX_REMEMBERED} requests; of more, the oldest are taken again.
 */
import type { RequestListener } from "node:http";
import { type Clock, systemClock } from "../../clock.ts";

/** As long as Bolt takes a request, and as its clock may differ from Slack's. */
const REMEMBERED_MS = 10 * 60_000;
const MAX_REMEMBERED = 20_000;

/** Has Bolt's `HTTPReceiver` answer 401 to what it took before. @returns the receiver */
export function refuseReplays<R extends { requestListener: RequestListener }>(
  receiver: R,
  { clock = systemClock }: { clock?: Clock } = {},
): R {
  const listen = receiver.requestListener;
  /** Until when, oldest first. */
  const taken = new Map<string, number>();
  receiver.requestListener = (request, response) => {
    const { "x-slack-request-timestamp": timestamp, "x-slack-signature": signature } = request.headers;
    const mark = `${String(timestamp)} ${String(signature)}`;
    const now = clock.monotonic();
    for (const [oldest, until] of taken) {
      if (until > now && taken.size <= MAX_REMEMBERED) break;
      taken.delete(oldest);
    }
    if (taken.has(mark)) {
      response.writeHead(401).end();
      request.resume();
      return;
    }
    // What was not signed, or could not be stored, was not answered 200, and may come again.
    response.once("finish", () => {
      if (response.statusCode === 200 && signature !== undefined) taken.set(mark, clock.monotonic() + REMEMBERED_MS);
    });
    listen(request, response);
  };
  return receiver;
}
