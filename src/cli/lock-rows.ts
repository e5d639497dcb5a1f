/** A conversation's lock, as `/v1` tells it and as people read it. */
import { z } from "zod";
import { readableTime, shortened } from "./terminal.ts";

export const LockShape = z.looseObject({
  holder: z.string(),
  epoch: z.number(),
  node_id: z.string(),
  pid: z.number().nullable(),
  host: z.string().nullable(),
  since: z.string(),
  until: z.string(),
  job_id: z.string().nullable(),
});

export type Lock = z.infer<typeof LockShape>;

const MAX_CHARS = 80;

/** Which process of which host, or at least which node. */
export const whereHeld = ({ pid, host, node_id: nodeId }: Lock): string =>
  pid === null
    ? shortened(nodeId, MAX_CHARS)
    : shortened(`process ${pid}${host === null ? "" : ` on ${host}`}`, MAX_CHARS);

export const lockRows = (lock: Lock): [name: string, value: string][] => [
  ["lock", `${shortened(lock.holder, MAX_CHARS)}, epoch ${lock.epoch}`],
  ...(lock.job_id === null || lock.job_id === lock.holder
    ? []
    : ([["job", shortened(lock.job_id, MAX_CHARS)]] satisfies [string, string][])),
  ["held by", `${whereHeld(lock)} (${shortened(lock.node_id, MAX_CHARS)})`],
  ["since", readableTime(lock.since)],
  ["until", `${readableTime(lock.until)}, unless it is refreshed`],
];
