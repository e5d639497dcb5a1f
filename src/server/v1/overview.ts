/** What a console looks at first (SRV-29, SRV-30): whether there is service, by which nodes and agents, and sessions. */
import { z } from "zod";
import type { Runtime } from "../../runtime/index.ts";
import type { NodeCensus, SessionRecord } from "../../store/store.ts";
import type { Api } from "./api.ts";
import { askerOf, PAGE } from "./request.ts";

const Status = z.object({ status: z.literal("ok") });
const Session = z.object({
  session_id: z.string(),
  principal: z.string(),
  client: z.object({ name: z.string(), version: z.string() }),
  state: z.enum(["attached", "detached"]),
  node_id: z.string().nullable(),
  created_at: z.iso.datetime(),
  resumable_until: z.iso.datetime().nullable(),
  connection_epoch: z.int(),
  last_event_seq: z.int(),
  acked_seq: z.int(),
  lag: z.int(),
  jobs: z.int(),
});
const Node = z.object({
  node_id: z.string(),
  state: z.enum(["alive", "dead", "left"]),
  self: z.boolean(),
  started_at: z.iso.datetime(),
  beaten_at: z.iso.datetime(),
  version: z.string(),
  jobs: z.int(),
  sessions: z.int(),
  pid: z.int().nullable(),
  host: z.string().nullable(),
});
const Counts = z.record(z.string(), z.int());
const Stats = z.object({
  uptime_ms: z.int(),
  sessions_attached: z.int(),
  followers: z.int(),
  jobs_running: z.int(),
  events_unstored: z.int(),
  jobs_started: z.int(),
  jobs_ended: Counts,
  events_appended: z.int(),
  events_sent: z.int(),
  events_followed: z.int(),
  store_errors: Counts,
});
const Agent = z.object({ name: z.string(), versions: z.array(z.string()), default: z.string().optional() });

const iso = (wallMs: number): string => new Date(wallMs).toISOString();

export function overviewRoutes(api: Api, runtime: Runtime): void {
  const startedAt = runtime.clock.monotonic();

  api.route(
    {
      method: "get",
      path: "/health",
      access: "open",
      tag: "service",
      summary: "Whether the process answers.",
      answers: { 200: { description: "It does.", schema: Status } },
    },
    ({ context }) => context.json({ status: "ok" }),
  );

  api.route(
    {
      method: "get",
      path: "/ready",
      access: "open",
      tag: "service",
      summary: "Whether new work is taken: the store answers, and the process is not about to stop.",
      answers: { 200: { description: "It is; otherwise 503.", schema: Status } },
    },
    async ({ context }) => {
      await runtime.ready();
      return context.json({ status: "ok" });
    },
  );

  api.route(
    {
      method: "get",
      path: "/sessions",
      access: "look",
      tag: "service",
      summary: "Sessions that can be resumed, newest first: one's own, an operator's request everybody's.",
      query: z.strictObject(PAGE),
      answers: {
        200: {
          description: "A page.",
          schema: z.object({ sessions: z.array(Session), next_cursor: z.string().nullable() }),
        },
      },
    },
    async ({ query, context }) => {
      const page = await runtime.sessions(askerOf(context), query);
      return context.json({ sessions: page.sessions.map(sessionForWire), next_cursor: page.nextCursor ?? null });
    },
  );

  api.route(
    {
      method: "get",
      path: "/nodes",
      access: "look",
      tag: "service",
      summary:
        "The processes that share the store, and those that did until a day ago; which machine they are on, operators are told.",
      answers: { 200: { description: "Oldest first.", schema: z.object({ nodes: z.array(Node) }) } },
    },
    async ({ context }) => {
      const { nodes } = await runtime.census();
      return context.json({ nodes: nodes.map((node) => nodeForWire(node, runtime.nodeId, context.get("operator"))) });
    },
  );

  api.route(
    {
      method: "get",
      path: "/stats",
      access: "look",
      tag: "service",
      summary: "What this process does, in numbers since its start: for rates, ask again.",
      answers: { 200: { description: "Of this process alone, whoever asks.", schema: Stats } },
    },
    ({ context }) => {
      const { stats } = runtime;
      return context.json({
        uptime_ms: Math.round(runtime.clock.monotonic() - startedAt),
        sessions_attached: runtime.attachedSessions,
        followers: runtime.jobs.followers,
        jobs_running: runtime.runningJobs,
        events_unstored: runtime.unstoredEvents,
        jobs_started: stats.jobsStarted,
        jobs_ended: stats.jobsEnded,
        events_appended: stats.eventsAppended,
        events_sent: stats.eventsSent,
        events_followed: stats.eventsFollowed,
        store_errors: stats.storeErrors,
      });
    },
  );

  api.route(
    {
      method: "get",
      path: "/agents",
      access: "look",
      tag: "service",
      summary: "The agents that this process offers.",
      answers: { 200: { description: "With their versions.", schema: z.object({ agents: z.array(Agent) }) } },
    },
    ({ context }) => context.json({ agents: runtime.agents }),
  );
}

const sessionForWire = (session: SessionRecord): z.infer<typeof Session> => ({
  session_id: session.sessionId,
  principal: session.principal,
  client: { name: session.clientName, version: session.clientVersion },
  state: session.resumableUntil === undefined ? "attached" : "detached",
  node_id: session.nodeId ?? null,
  created_at: iso(session.createdAt),
  resumable_until: session.resumableUntil === undefined ? null : iso(session.resumableUntil),
  connection_epoch: session.connectionEpoch,
  last_event_seq: session.lastSeq,
  acked_seq: session.ackedSeq,
  lag: session.lastSeq - session.ackedSeq + session.undelivered,
  jobs: session.follows,
});

const nodeForWire = (node: NodeCensus, self: string, operator: boolean): z.infer<typeof Node> => ({
  node_id: node.nodeId,
  state: node.state === "alive" && node.provenDead === true ? "dead" : node.state,
  self: node.nodeId === self,
  started_at: iso(node.startedAt),
  beaten_at: iso(node.beatenAt),
  version: node.version,
  jobs: node.jobs,
  sessions: node.sessions,
  pid: operator ? node.pid : null,
  host: operator ? node.host : null,
});
