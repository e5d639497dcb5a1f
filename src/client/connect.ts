/** Where a client starts. */
import type { Transport } from "../transport/transport.ts";
import { openWebSocket } from "../transport/websocket.ts";
import { LiveSession } from "./live-session.ts";
import { type ConnectOptions, settle } from "./options.ts";
import type { Session } from "./session.ts";

/**
 * Opens a session, or goes on with one (`resume`); resolves at the runtime's welcome (CLT-1).
 *
 * Rejects with the runtime's `ArcpError` when it refuses (`UNAUTHENTICATED`, `RESUME_WINDOW_EXPIRED`,
 * ...), with an `Error` that says what failed when the runtime cannot be reached within `timeoutMs`, and
 * with the signal's reason when it aborts. The first connection is tried once; later ones as
 * `reconnect` says.
 *
 * @param target a WebSocket address (`ws://127.0.0.1:7777/arcp`), or what opens a transport; it is
 *   called for each connection.
 */
export async function connect(target: string | (() => Promise<Transport>), options: ConnectOptions): Promise<Session> {
  const settings = settle(options);
  const { WebSocket } = options;
  const open =
    typeof target === "string"
      ? (signal: AbortSignal) =>
          openWebSocket(target, { WebSocket, signal, clock: settings.clock, timeoutMs: settings.timeoutMs })
      : () => target();
  const session = new LiveSession(open, settings);
  await session.open(options.signal);
  return session;
}
