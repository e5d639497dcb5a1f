import type { Clock } from "../../clock.ts";
import type { EventBody } from "../../protocol/index.ts";

/** What the log of a job says that is given back: the payload of a `status` event, which its run did not write (CLU-1). */
export const givenBackPayload = (clock: Clock, body: EventBody<"status">): string =>
  JSON.stringify({ kind: "status", ts: new Date(clock.wall()).toISOString(), body });
