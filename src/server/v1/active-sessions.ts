/**
 * The active sessions of the server's machine (SRV-37), as `holdfast ps` lists them: for operators, since they are
 * processes of the user that the server runs as, whoever asks.
 */
import { z } from "zod";
import type { Snapshot } from "../../presence/index.ts";
import type { Api } from "./api.ts";

/** Asks the presence service; never rejects, and starts nothing. */
export type AskActiveSessions = () => Promise<Snapshot>;

const ListedSession = z.looseObject({
  pid: z.int(),
  session_name: z.string(),
  role: z.enum(["session", "detachable", "headless"]),
  frontend: z.string().optional(),
  game_code: z.string().optional(),
  started_at: z.int(),
  last_seen_at: z.int(),
  connected: z.boolean(),
  hidden: z.boolean(),
  uptime_seconds: z.int(),
  listener: z.object({ host: z.string(), port: z.int() }).nullable(),
});
const Listed = z.object({
  source: z.literal("ActiveSessionsAPI"),
  total: z.int(),
  connected: z.int(),
  detachable: z.int(),
  sessions: z.array(ListedSession),
  error: z.string().optional(),
});

export function activeSessionRoutes(api: Api, { ask }: { ask: AskActiveSessions }): void {
  api.route(
    {
      method: "get",
      path: "/active-sessions",
      access: "operator",
      tag: "service",
      summary: "The processes of the server's machine that tell of themselves.",
      answers: {
        200: { description: "By pid; with `error` and none where the presence service is away.", schema: Listed },
      },
    },
    async ({ context }) => context.json(await ask()),
  );
}
