/**
 * What a job had spent before its node was lost. The counters of a budget are in memory; what was charged to them is
 * in the logs of the job and of those that it delegated, and counts again for the next attempt (CLU-7). Costs a read
 * of these logs, and only where the lease has a budget.
 */
import { type Budget, isCostMetric } from "../../lease/index.ts";
import type { EventBody } from "../../protocol/index.ts";
import { type JobFacet, StoreRefusal } from "../../store/store.ts";

export async function chargeSpentBefore(jobs: JobFacet, jobId: string, budget: Budget): Promise<void> {
  if (Object.keys(budget.remaining()).length === 0) return;
  for (const one of [jobId, ...(await jobs.descendants(jobId))]) await chargeLog(jobs, one, budget);
}

async function chargeLog(jobs: JobFacet, jobId: string, budget: Budget): Promise<void> {
  let afterN = (await jobs.get(jobId))?.floorN ?? 0;
  for (;;) {
    const { events } = await jobs.read(jobId, afterN).catch((error: unknown) => {
      // Trimmed while it was read: what went before the floor is charged no more than it was to begin with.
      if (error instanceof StoreRefusal) return { events: [] };
      throw error;
    });
    if (events.length === 0) return;
    for (const { kind, payload } of events) {
      if (kind !== "metric") continue;
      const { name, unit, value } = (JSON.parse(payload) as { body: EventBody<"metric"> }).body;
      if (isCostMetric(name) && unit !== undefined) budget.spend(unit, value);
    }
    afterN = events.at(-1)?.n ?? afterN;
  }
}
