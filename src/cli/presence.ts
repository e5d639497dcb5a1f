/**
 * This process among the active sessions of the machine, as `holdfast ps` lists them. On for every command that serves
 * or follows; HOLDFAST_ACTIVE_SESSIONS=0 switches it off. It costs the command no time at its start and at most a
 * moment at its end: a process that has gone is off the list in any case.
 */
import type { Session } from "../client/index.ts";
import { systemClock } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { ActiveSessions, Lifecycle, type SessionStart } from "../presence/index.ts";
import { shortened } from "./terminal.ts";

/** What a command waits at its end for its removal from the list. */
const FAREWELL_MS = 100;
const MAX_NAME_CHARS = 80;

export interface Announced extends AsyncDisposable {
  readonly lifecycle: Lifecycle;
}

export function announce(start: SessionStart, logger: Logger = silentLogger): Announced {
  const lifecycle = new Lifecycle(new ActiveSessions({ enabled: true, logger }), { logger });
  lifecycle.start({ ...start, sessionName: shortened(start.sessionName, MAX_NAME_CHARS) });
  return {
    lifecycle,
    [Symbol.asyncDispose]: async () => {
      const late = Promise.withResolvers<void>();
      const timer = systemClock.after(FAREWELL_MS, late.resolve, { keepAlive: true });
      await Promise.race([lifecycle.stop({ background: true }), late.promise]);
      timer.cancel();
    },
  };
}

/** Lists a command that follows something, with how its session fares, while `work` goes on; that begins at once. */
export async function whileListed<T>(
  { name, jobId }: { name: string; jobId?: string },
  session: Session,
  work: () => Promise<T>,
): Promise<T> {
  const metadata = () => (jobId === undefined ? {} : { job_id: jobId });
  await using listed = announce({ sessionName: name, role: "session", frontend: "cli", metadata });
  const { lifecycle } = listed;
  const told = (async () => {
    for await (const { state } of session.statuses()) lifecycle.updateConnected(state === "connected");
  })();
  told.catch(() => undefined);
  return await work();
}
