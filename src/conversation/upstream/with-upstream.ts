/**
 * Work in a record's upstream session, healed once: a session that the backend does not know is made anew, and the
 * work done again. What is left is one clear error for whoever asked.
 */
import { ArcpError } from "../../protocol/index.ts";
import { BackendError } from "./backend.ts";
import { UpstreamError } from "./errors.ts";
import type { UpstreamRecord } from "./record.ts";
import type { EnsureOptions, UpstreamSession } from "./session.ts";

/**
 * @param work is begun anew when its session is not there, and must not have shown anything by then
 * @throws ArcpError BACKEND_UNAVAILABLE (try again later), BACKEND_REFUSED; whatever else `work` throws
 */
export async function withUpstream<T>(
  session: UpstreamSession<UpstreamRecord>,
  work: (upstreamSessionId: string) => Promise<T>,
  options: EnsureOptions = {},
): Promise<T> {
  const { record, backend, logger } = session;
  try {
    const first = await session.ensure(options);
    try {
      return await work(first);
    } catch (error) {
      if (!(error instanceof BackendError) || error.kind !== "session_not_found") throw error;
      logger.warn({ record_id: record.id, backend: backend.name, upstream_id: first }, "an upstream session was lost");
      await record.lost?.(first);
      return await work(await session.recreate({ ...options, insteadOf: first }));
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!(error instanceof BackendError || error instanceof UpstreamError)) throw error;
    logger.warn({ err: error, record_id: record.id, backend: backend.name }, "an agent backend failed");
    const details = { backend: backend.name, record_id: record.id, reason: error.kind };
    switch (error.kind) {
      case "unavailable":
      case "conflict":
      case "session_not_found":
        throw ArcpError.detail(
          "BACKEND_UNAVAILABLE",
          `The agent's backend ${backend.name} is not available; try again later.`,
          details,
          error,
        );
      case "rejected":
      case "malformed":
      case "invalid_record":
        throw ArcpError.detail(
          "BACKEND_REFUSED",
          `The agent's backend ${backend.name} does not take this turn (${error.kind}); its operator finds why in the log.`,
          details,
          error,
        );
    }
  }
}
