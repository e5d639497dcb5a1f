/**
 * `/metrics` for Prometheus (SRV-32). Everything is a number of this process; what changes with each event is a plain
 * counter of the runtime that is read when somebody scrapes. No label holds what a stranger can name, so the number of
 * series is fixed: it does not grow with principals, jobs or paths.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { ArcpError } from "../protocol/index.ts";
import type { Runtime, StoreErrorWhile } from "../runtime/index.ts";
import type { Site } from "./site.ts";
import { tellProblem } from "./v1/problem.ts";

export const METRICS_PATH = "/metrics";

/** Of a store on a local disk to one far away. */
const APPEND_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const HTTP_SECONDS = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** A request under `/v1` as it is counted. */
export interface CountedRequest {
  /** As declared: `/v1/jobs/{id}`; `undefined` where nothing is served. */
  route: string | undefined;
  method: string;
  status: number;
  ms: number;
}

export class Metrics {
  readonly registry = new Registry();
  readonly #requests: Counter<"route" | "method" | "status">;
  readonly #requestSeconds: Histogram;

  /** @param connections how many sockets are open */
  constructor(runtime: Runtime, connections: () => number) {
    const { registry } = this;
    const { stats } = runtime;
    const gauge = (name: string, help: string, value: () => number) =>
      void new Gauge({
        name: `holdfast_${name}`,
        help,
        registers: [registry],
        collect() {
          this.set(value());
        },
      });
    const total = (name: string, help: string, value: () => number) =>
      void new Counter({
        name: `holdfast_${name}_total`,
        help,
        registers: [registry],
        collect() {
          this.reset();
          this.inc(value());
        },
      });
    const totals = (name: string, label: string, help: string, values: () => Readonly<Record<string, number>>) =>
      void new Counter({
        name: `holdfast_${name}_total`,
        help,
        labelNames: [label],
        registers: [registry],
        collect() {
          this.reset();
          for (const [value, count] of Object.entries(values())) this.inc({ [label]: value }, count);
        },
      });

    gauge("connections", "WebSockets that are open.", connections);
    gauge("sessions_attached", "Sessions whose connection is here.", () => runtime.attachedSessions);
    gauge("followers", "Streams of events over HTTP that are open.", () => runtime.jobs.followers);
    gauge("jobs_running", "Jobs that run here.", () => runtime.runningJobs);
    gauge("events_unstored", "Events of running jobs that wait to be stored.", () => runtime.unstoredEvents);
    total("jobs_started", "Jobs that began to run here.", () => stats.jobsStarted);
    totals("jobs_ended", "status", "Jobs whose end was stored here, by final status.", () => stats.jobsEnded);
    total("events_appended", "Events that were stored here.", () => stats.eventsAppended);
    totals("events_sent", "to", "Events that were handed to readers: sessions, or followers over HTTP.", () => ({
      session: stats.eventsSent,
      follower: stats.eventsFollowed,
    }));
    totals(
      "store_errors",
      "during",
      "Operations of the store that failed or were not answered in time.",
      (): Readonly<Record<StoreErrorWhile, number>> => stats.storeErrors,
    );
    const append = new Histogram({
      name: "holdfast_append_seconds",
      help: "How long the store takes for an append of events.",
      buckets: APPEND_SECONDS,
      registers: [registry],
    });
    stats.onAppend = (ms) => append.observe(ms / 1_000);
    this.#requests = new Counter({
      name: "holdfast_http_requests_total",
      help: "Requests under /v1, by route, method and status.",
      labelNames: ["route", "method", "status"],
      registers: [registry],
    });
    this.#requestSeconds = new Histogram({
      name: "holdfast_http_request_seconds",
      help: "How long the head of an answer under /v1 takes.",
      buckets: HTTP_SECONDS,
      registers: [registry],
    });
  }

  count({ route = "none", method, status, ms }: CountedRequest): void {
    this.#requests.inc({ route, method: METHODS.has(method) ? method : "other", status: String(status) });
    this.#requestSeconds.observe(ms / 1_000);
  }
}

const METHODS: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "DELETE"]);

/** @param access `token`: for whoever has a good one; `open`: for everybody who reaches the server */
export function metricsSite(runtime: Runtime, metrics: Metrics, access: "token" | "open"): Site {
  return {
    covers: (path) => path === METRICS_PATH,
    async answer(request, response) {
      const token = /^Bearer +(\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
      if (access === "token" && (token === undefined || (await runtime.authenticate(token)) === undefined)) {
        tellProblem(response, new ArcpError("UNAUTHENTICATED", "Send a good token as `Authorization: Bearer TOKEN`."));
      } else if (request.method !== "GET" && request.method !== "HEAD") {
        tellProblem(response, new ArcpError("INVALID_REQUEST", "Only GET and HEAD are possible here."), 405, {
          allow: "GET, HEAD",
        });
      } else {
        const text = await metrics.registry.metrics();
        response.writeHead(200, { "content-type": metrics.registry.contentType, "cache-control": "no-store" });
        response.end(request.method === "HEAD" ? undefined : text);
      }
    },
  };
}
