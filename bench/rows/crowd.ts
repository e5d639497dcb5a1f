/** What ten thousand sessions that do nothing cost the one that does something. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { burst } from "../burst.ts";
import { decimal, type Row, whole } from "./row.ts";

const SESSIONS = 10_000;
const EVENTS = 200_000;

export const crowdRow: Row = {
  name: "crowd",
  async measure(server, scale) {
    const input = { n: EVENTS * scale, bytes: 200 };
    await burst(server.url, { n: 20_000 * scale, bytes: 200 });
    const alone = await burst(server.url, input);
    const script = join(import.meta.dirname, "../crowd.ts");
    const crowd = fork(script, [server.url, String(SESSIONS * scale)]);
    const ended = once(crowd, "exit");
    await Promise.race([
      once(crowd, "message"),
      ended.then(([status]) => {
        throw new Error(`crowd.ts ended with ${status}.`);
      }),
    ]);
    const among = await burst(server.url, input);
    crowd.disconnect();
    await ended;
    return { alone, among, kept: among / alone };
  },
  lines: (holdfast, baseline) => [
    {
      what: "10,000 idle sessions: the busy one's rate, against alone",
      baseline: `${whole(baseline["among"])} of ${whole(baseline["alone"])} events/s (${decimal(baseline["kept"])})`,
      holdfast: `${whole(holdfast["among"])} of ${whole(holdfast["alone"])} events/s`,
      result: `${decimal(holdfast["kept"])} × alone`,
      target: "≥ 0.9 × alone",
      met: (holdfast["kept"] ?? Number.NaN) >= 0.9,
    },
  ],
};
