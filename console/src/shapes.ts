/** What `/v1` answers, as far as the page reads it. */

export interface Stats {
  sessions_attached: number;
  followers: number;
  jobs_running: number;
  events_unstored: number;
  jobs_started: number;
  jobs_ended: Readonly<Record<string, number>>;
  events_appended: number;
  events_sent: number;
  events_followed: number;
  store_errors: Readonly<Record<string, number>>;
  /** Monotonic time of the process, for rates. */
  uptime_ms: number;
}

export interface NodeShape {
  node_id: string;
  state: "alive" | "dead" | "left";
  self: boolean;
  started_at: string;
  jobs: number;
  sessions: number;
  pid: number | null;
  host: string | null;
}

export interface SessionShape {
  session_id: string;
  principal: string;
  client: { name: string; version: string };
  state: "attached" | "detached";
  node_id: string | null;
  created_at: string;
  resumable_until: string | null;
  connection_epoch: number;
  last_event_seq: number;
  acked_seq: number;
  lag: number;
  jobs: number;
}

export interface JobShape {
  job_id: string;
  principal: string;
  agent: string;
  status: string;
  lease: Readonly<Record<string, readonly string[]>>;
  lease_constraints?: { expires_at: string };
  parent_job_id: string | null;
  trace_id: string;
  created_at: string;
  ended_at?: string;
  cancel_requested: boolean;
  events: number;
}

export interface AgentShape {
  name: string;
  versions: readonly string[];
  default?: string;
}

export interface LockShape {
  holder: string;
  epoch: number;
  node_id: string;
  pid: number | null;
  host: string | null;
  since: string;
  until: string;
  job_id: string | null;
}

export interface ConversationShape {
  conversation_id: string;
  source: string;
  key: unknown;
  principal: string | null;
  user_id: string;
  created_at: string;
  active_at: string;
  queued: number;
  lock: LockShape | null;
}

export interface TurnShape {
  job_id: string;
  agent: string;
  user_id: string;
  message_id?: string;
  state: "queued" | "running" | "ended";
  place?: number;
  status: string;
  epoch?: number;
  submitted_at: string;
}

export interface BindingShape {
  backend: string;
  state: string;
  generation: number;
  upstream_id: string | null;
  changed_at: string | null;
}

export interface ConversationDetail extends ConversationShape {
  turns: readonly TurnShape[];
  bindings: readonly BindingShape[];
}

export interface DeliveryShape {
  delivery_id: string;
  state: string;
  channel: string;
  route_key: string;
  route: unknown;
  conversation_id: string | null;
  job_id: string | null;
  principal: string | null;
  attempts: number;
  failures: number;
  last_error: string | null;
  next_try_at: string | null;
  created_at: string;
  changed_at: string;
}

export interface RouteShape {
  key: string;
  partition: number | string;
  route: unknown;
  updated_at: string;
  expires_at: string;
}

/** A process as the presence service lists it; times in epoch seconds. */
export interface LocalProcess {
  pid: number;
  session_name: string;
  role: string;
  frontend?: string;
  started_at: number;
  last_seen_at: number;
  connected: boolean;
  hidden: boolean;
  uptime_seconds: number;
  listener: { host: string; port: number } | null;
}

export interface Snapshot {
  total: number;
  connected: number;
  detachable: number;
  sessions: readonly LocalProcess[];
  error?: string;
}
