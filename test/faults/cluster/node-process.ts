/**
 * One node of a cluster, in a process of its own: started with its settings as JSON, it prints its port, serves
 * whoever comes, and ends with its standard input. Its timeouts are short, so that a run of some seconds sees what
 * takes minutes with the defaults.
 */
import { Conversations } from "../../../src/conversation/index.ts";
import { Runtime } from "../../../src/runtime/index.ts";
import { bearerTokens, serve } from "../../../src/server/index.ts";
import { postgres } from "../../../src/store/postgres/index.ts";
import { counting, paging } from "../agents.ts";
import { logFile } from "../log-file.ts";
import { LOCK_TTL_MS, PRINCIPAL } from "../turns/plan.ts";
import { talking } from "../turns/talking.ts";

export interface NodeSettings {
  /** Of the database, by the node's own links. */
  url: string;
  listenUrl: string;
  nodeTimeoutMs: number;
  /** Where agents report that they have started, where those of turns write down what they do, and the log. */
  starts: string;
  runs: string;
  log: string;
}

/** More nodes than a run loses: a job that may be run again is never given up. */
const RESTARTS = 1_000;

const settings = JSON.parse(process.argv[2] ?? "") as NodeSettings;
const logger = logFile(settings.log);
const runtime = new Runtime({
  store: postgres(
    { url: settings.url },
    { listenUrl: settings.listenUrl, statementTimeoutMs: 2_000, connectTimeoutMs: 1_500, logger },
  ),
  auth: bearerTokens({ token: PRINCIPAL }),
  logger,
  heartbeatIntervalSec: 1,
  nodeHeartbeatMs: 250,
  nodeTimeoutMs: settings.nodeTimeoutMs,
  sweepIntervalMs: 500,
  storeTimeoutMs: 2_000,
  cancelGraceMs: 600,
  maxRunningJobsPerPrincipal: 100_000,
})
  .agent("counting", counting(settings.starts))
  .agent("paging", paging(settings.starts), { restartable: RESTARTS })
  .agent("talk", talking(settings.runs))
  .agent("tale", talking(settings.runs, { again: true }), { restartable: RESTARTS });
const conversations = new Conversations(runtime, { lockTtlMs: LOCK_TTL_MS, maxQueuedTurns: 30 });
const server = await serve(runtime, { port: 0, conversations });
process.stdout.write(`${server.port}\n`);

process.on("SIGTERM", () => {
  void server.stop({ drainMs: 300 }).then(() => process.exit(0));
});
process.stdin.on("end", () => process.exit(0)).resume();
