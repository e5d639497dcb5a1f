/** Whether what one process tells arrives at another one: asked of the way between two connections, by a doctor. */
import { randomUUID } from "node:crypto";
import { type Clock, systemClock } from "../../clock.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import { NotifyBus } from "./notify-bus.ts";
import type { PostgresPool } from "./pool.ts";
import { sourceOf } from "./source.ts";

const ASK_AGAIN_MS = 100;

/**
 * Tells one hint, which names nothing, again and again until it is heard.
 *
 * @returns after how many milliseconds it was; `undefined` when it was not within `timeoutMs`
 */
export async function probeHints(
  target: { url: string } | { pool: PostgresPool },
  options: {
    schema?: string;
    listenUrl?: string;
    timeoutMs: number;
    clock?: Clock;
    logger?: Logger;
  },
): Promise<number | undefined> {
  const { schema = "holdfast", listenUrl, timeoutMs, clock = systemClock, logger = silentLogger } = options;
  const source = sourceOf(target, { poolSize: 1, connectTimeoutMs: timeoutMs, listenUrl });
  await source.open();
  const notify = async (channel: string, messages: readonly string[]) => {
    const client = await source.connect();
    try {
      const text = "SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message";
      await client.query({ text, values: [channel, messages] });
    } finally {
      client.release();
    }
  };
  const [teller, listener] = [0, 1].map(
    () => new NotifyBus({ channel: schema, notify, connect: source.listen, clock, logger }),
  ) as [NotifyBus, NotifyBus];
  const sessionId = `doctor_${randomUUID()}`;
  const { promise, resolve } = Promise.withResolvers<number | undefined>();
  const since = clock.monotonic();
  let told = since;
  listener.on((hint) => {
    if ("sessionId" in hint && hint.sessionId === sessionId) resolve(clock.monotonic() - told);
  });
  const enough = clock.after(timeoutMs, () => resolve(undefined));
  let again = clock.after(0, function tell() {
    told = clock.monotonic();
    teller.tell([{ sessionId }]);
    again = clock.after(ASK_AGAIN_MS, tell);
  });
  try {
    return await promise;
  } finally {
    enough.cancel();
    again.cancel();
    for (const bus of [teller, listener]) bus.stop();
    await source.close();
  }
}
