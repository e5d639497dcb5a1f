/** One job emits as fast as it is let, one client reads it all. */
import { burst } from "../burst.ts";
import { type Row, ratioLine } from "./row.ts";

const EVENTS = 200_000;

export const burstRow: Row = {
  name: "burst",
  async measure(server, scale) {
    await burst(server.url, { n: 20_000 * scale, bytes: 200 });
    await server.prepared();
    return { rate: await burst(server.url, { n: EVENTS * scale, bytes: 200 }) };
  },
  lines: (holdfast, baseline) => [
    ratioLine("burst of 200,000 events to one client", "events/s", [holdfast["rate"], baseline["rate"]], {
      atLeast: 0.7,
    }),
  ],
};
