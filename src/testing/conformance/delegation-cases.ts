/** DEL: jobs that start jobs, as their submitter sees it. An agent `relay` does, with what it is given. */
import { childOf } from "./lease-cases.ts";
import { bodyOf, codeOf, detailsOf, type Peer, type Received, record } from "./peer.ts";
import { type ConformanceCase, checkStream, type Stage } from "./stage.ts";
import { check } from "./verdict.ts";

const MAY_DELEGATE = { lease_request: { "agent.delegate": ["**"] } };

const idOf = ({ envelope }: Received): string => envelope.job_id ?? "";

/** A parent that waits for a child, which ticks for as long as it is let. */
async function family(stage: Stage): Promise<{ peer: Peer; parentId: string; childId: string }> {
  const peer = await stage.connect();
  const input = { agent: "ticker", input: { n: 100, every_ms: 3_600_000 } };
  const parentId = await peer.start("relay", input, MAY_DELEGATE);
  return { peer, parentId, childId: idOf(await childOf(peer, parentId)) };
}

/** Fails unless a child was told of as DEL-1 has it, on one connection. */
function checkChild(peer: Peer, parentId: string, accepted: Received): void {
  const [told] = peer.events(parentId, "delegate");
  check(told !== undefined, "a delegate event of the parent", peer.of(parentId)[0]);
  check(told.index < accepted.index, "the child's job.accepted behind the parent's delegate event", accepted);
  const [first] = peer.of(idOf(accepted));
  check(first !== undefined && accepted.index < first.index, "the child's events behind its job.accepted", first);
  const { delegate_id: delegateId, parent_job_id: parent, trace_id: traceId } = accepted.envelope.payload;
  check(parent === parentId, `parent_job_id ${parentId} in the child's job.accepted`, accepted);
  check(delegateId === bodyOf(told)["delegate_id"], "the delegate event's delegate_id in job.accepted", accepted);
  const traces = new Set([accepted, first, told].map(({ envelope }) => envelope.trace_id));
  check(traces.size === 1 && traces.has(String(traceId)), "the parent's trace_id on what is the child's", accepted);
}

const toldInOrder: ConformanceCase = {
  rule: "DEL-1",
  title: "a delegate event, then the child's accepted, then the child's events; whoever merely follows hears of none",
  agents: ["relay"],
  async run(stage) {
    stage.needsFeatures("subscribe");
    const [peer, watcher] = [await stage.connect(), await stage.connect()];
    const input = { agent: "burst", input: { n: 3, bytes: 10, delay_ms: 50 } };
    const parentId = await peer.start("relay", input, MAY_DELEGATE);
    await watcher.ask("job.subscribe", { job_id: parentId, history: true });
    const accepted = await childOf(peer, parentId);
    const childEnd = await peer.terminal(idOf(accepted));
    const end = await peer.terminal(parentId);
    checkChild(peer, parentId, accepted);
    check(childEnd.envelope.type === "job.result", "job.result of the child", childEnd);
    const result = record(end.envelope.payload["result"]);
    check(result["n"] === 3, "the child's result to be the relay's, {n: 3}", end);
    const own = JSON.stringify(accepted.envelope.payload["lease"]);
    check(own === "{}", "a child that was given nothing to have an empty lease", accepted);
    await watcher.terminal(parentId);
    await watcher.fence();
    const heard = watcher.received.find(({ envelope }) => envelope.job_id === idOf(accepted));
    check(heard === undefined, "nothing of the child for who merely follows its parent", heard);
    checkStream(peer);
    checkStream(watcher);
  },
};

const toldAgain: ConformanceCase = {
  rule: "DEL-2",
  title: "a child of which nothing arrived is told of again after a resume, behind the delegate event",
  agents: ["relay"],
  async run(stage) {
    const first = await stage.connect();
    const input = { agent: "burst", input: { n: 5, bytes: 10, delay_ms: 60 } };
    const parentId = await first.start("relay", input, MAY_DELEGATE);
    const childId = idOf(await childOf(first, parentId));
    first.cut();
    const second = await stage.resume(first, { seq: 0 });
    await second.terminal(parentId);
    await second.terminal(childId);
    const accepted = await childOf(second, parentId);
    check(idOf(accepted) === childId, `job.accepted of the child ${childId} again`, accepted);
    checkChild(second, parentId, accepted);
    checkStream(first, second);
  },
};

const refusals: ConformanceCase = {
  rule: "DEL-3",
  title: "what refuses a delegation is a tool_result under its delegate_id in the parent's log",
  agents: ["relay"],
  async run(stage) {
    const peer = await stage.connect();
    const lease = { "agent.delegate": ["echo", "conformance-none"], "tool.call": ["search"] };
    for (const [input, code] of [
      [{ agent: "conformance-none" }, "AGENT_NOT_AVAILABLE"],
      [{ agent: "ticker", input: { n: 1, every_ms: 1 } }, "PERMISSION_DENIED"],
      [{ agent: "echo", lease: { "tool.call": ["**"] } }, "LEASE_SUBSET_VIOLATION"],
    ] as const) {
      const parentId = await peer.start("relay", input, { lease_request: lease });
      const end = await peer.terminal(parentId);
      const what = JSON.stringify(input);
      check(codeOf(end) === code, `${code} for the agent that delegates ${what}`, end);
      const [told] = peer.events(parentId, "delegate");
      const [result] = peer.events(parentId, "tool_result");
      check(told !== undefined && result !== undefined, `a delegate event and a tool_result for ${what}`, end);
      check(bodyOf(result)["call_id"] === bodyOf(told)["delegate_id"], "call_id of the delegate_id", result);
      check(record(bodyOf(result)["error"])["code"] === code, `tool_result with the error ${code} for ${what}`, result);
      const child = peer.received.find(({ envelope }) => envelope.payload["parent_job_id"] === parentId);
      check(child === undefined, "no child for a delegation that was refused", child);
    }
  },
};

/** Deeper than jobs may delegate. */
const TOO_DEEP = 6;

const depth: ConformanceCase = {
  rule: "DEL-3",
  title: "more than 4 levels of delegation are refused",
  agents: ["relay"],
  async run(stage) {
    const peer = await stage.connect();
    let input: object = { agent: "echo", input: "at last" };
    for (let level = 0; level < TOO_DEEP; level += 1) {
      input = { agent: "relay", input, lease: { "agent.delegate": ["relay", "echo"] } };
    }
    const end = await peer.terminal(await peer.start("relay", input, MAY_DELEGATE));
    check(
      codeOf(end) === "INTERNAL_ERROR" && detailsOf(end)["code"] === "LIMIT_EXCEEDED",
      `INTERNAL_ERROR with details.code "LIMIT_EXCEEDED" for ${TOO_DEEP + 1} levels of delegation`,
      end,
    );
    const children = peer.jobs.size - 1;
    check(children === 4, "4 levels of children", `${children} children`);
  },
};

const endsTogether: ConformanceCase = {
  rule: "DEL-4",
  title: "a cancel of the parent cancels its running child",
  agents: ["relay"],
  async run(stage) {
    const { peer, parentId, childId } = await family(stage);
    await peer.ask("job.cancel", {}, { job_id: parentId });
    for (const jobId of [parentId, childId]) {
      const end = await peer.terminal(jobId);
      const what = jobId === childId ? "the child of a job that was cancelled" : "a parent that was cancelled";
      check(
        codeOf(end) === "CANCELLED" && end.envelope.payload["final_status"] === "cancelled",
        `CANCELLED for ${what}`,
        end,
      );
    }
    checkStream(peer);
  },
};

const listed: ConformanceCase = {
  rule: "DEL-5",
  title: "a child is listed with its parent_job_id, and may be cancelled by who may cancel the parent",
  agents: ["relay"],
  async run(stage) {
    stage.needsFeatures("list_jobs");
    const { peer, parentId, childId } = await family(stage);
    const page = await peer.ask("session.list_jobs", { limit: 1_000 });
    const { jobs } = page.envelope.payload;
    const rows = (Array.isArray(jobs) ? jobs : []).map((job) => record(job));
    const row = (jobId: string) => rows.find((one) => one["job_id"] === jobId);
    check(row(childId)?.["parent_job_id"] === parentId, `the child with parent_job_id ${parentId}`, row(childId));
    check(row(parentId)?.["parent_job_id"] === null, "the parent with parent_job_id null", row(parentId));
    const answer = await peer.ask("job.cancel", {}, { job_id: childId });
    check(answer.envelope.type === "job.cancelled", "job.cancelled for a cancel of the child", answer);
    const childEnd = await peer.terminal(childId);
    check(codeOf(childEnd) === "CANCELLED", "CANCELLED for a child that was cancelled", childEnd);
    const end = await peer.terminal(parentId);
    check(codeOf(end) === "CANCELLED", "a child's failure for its parent to handle, which passes it on", end);
  },
};

const budgets: ConformanceCase = {
  rule: "DEL-7",
  title: "what a child did not spend of its budget returns to its parent",
  agents: ["relay", "meter"],
  async run(stage) {
    stage.needsFeatures("cost.budget");
    const peer = await stage.connect();
    const charges = [{ amount: 0.1, currency: "USD" }];
    const input = { agent: "meter", input: { charges }, lease: { "cost.budget": ["USD:0.6"] }, times: 4 };
    const lease = { "agent.delegate": ["meter"], "cost.budget": ["USD:0.9"] };
    const end = await peer.terminal(await peer.start("relay", input, { lease_request: lease }));
    check(end.envelope.type === "job.result", "four children of USD:0.6 that spend 0.1 each, one after the other", end);
    const more = await peer.terminal(await peer.start("relay", { ...input, times: 5 }, { lease_request: lease }));
    check(codeOf(more) === "LEASE_SUBSET_VIOLATION", "LEASE_SUBSET_VIOLATION for a fifth, when 0.5 are left", more);
  },
};

export const DELEGATION_CASES: readonly ConformanceCase[] = [
  toldInOrder,
  toldAgain,
  refusals,
  depth,
  endsTogether,
  listed,
  budgets,
];
