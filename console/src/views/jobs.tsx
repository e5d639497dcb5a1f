/** Jobs, newest first, by status, agent and text. */
import { useState } from "react";
import { systemClock } from "../../../src/clock.ts";
import { amount, clean, duration } from "../format.ts";
import { usePages } from "../paging.ts";
import { Ago, Badge, Empty, Filter, Heading, JobLink, Listing, Status, useTick } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import type { AgentShape, JobShape } from "../shapes.ts";
import { Pager, Table } from "../table.tsx";

const STATUSES = ["pending", "running", "success", "error", "cancelled", "timed_out"];

/** How long a job has run, or ran. */
export const ranFor = (job: JobShape): string =>
  duration((job.ended_at === undefined ? systemClock.wall() : Date.parse(job.ended_at)) - Date.parse(job.created_at));

export function Jobs() {
  const [status, setStatus] = useState("");
  const [agent, setAgent] = useState("");
  const [text, setText] = useState("");
  const query = new URLSearchParams();
  if (status !== "") query.set("status", status);
  if (agent !== "") query.set("agent", agent);
  const pages = usePages<{ jobs: readonly JobShape[]; next_cursor: string | null }>("/jobs", String(query), 2_000);
  const agents = usePolled<{ agents: readonly AgentShape[] }>("/agents", 0);
  useTick(1_000);
  const wanted = text.toLowerCase();
  const items = pages.data?.jobs.filter((job) =>
    `${job.job_id} ${job.agent} ${job.principal}`.toLowerCase().includes(wanted),
  );
  return (
    <>
      <Heading title="Jobs">
        <label>
          <span className="visually-hidden">Status</span>
          <select value={status} onChange={(event) => setStatus(event.target.value)}>
            <option value="">any status</option>
            {STATUSES.map((name) => (
              <option key={name} value={name}>
                {name.replaceAll("_", " ")}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span className="visually-hidden">Agent</span>
          <select value={agent} onChange={(event) => setAgent(event.target.value)}>
            <option value="">any agent</option>
            {agents.data?.agents.map(({ name }) => (
              <option key={name} value={name}>
                {clean(name)}
              </option>
            ))}
          </select>
        </label>
        <Filter label="Filter jobs" value={text} onChange={setText} />
      </Heading>
      <Listing
        what="jobs"
        items={items}
        problem={pages.problem}
        again={pages.again}
        empty={<Empty title={status + agent + text === "" ? "There are no jobs yet." : "No job matches."} />}
      >
        {(jobs) => (
          <Table
            caption="Jobs"
            items={jobs}
            keyOf={(job) => job.job_id}
            columns={[
              { label: "Job", cell: (job) => <JobLink id={job.job_id} /> },
              { label: "Agent", cell: (job) => clean(job.agent) },
              {
                label: "Status",
                cell: (job) => (
                  <>
                    <Status of={job.status} />{" "}
                    {job.cancel_requested && job.ended_at === undefined ? <Badge tone="warn">to stop</Badge> : null}
                  </>
                ),
              },
              { label: "Who", cell: (job) => clean(job.principal) },
              { label: "Events", numeric: true, cell: (job) => amount(job.events) },
              { label: "Ran", numeric: true, cell: ranFor },
              {
                label: "Parent",
                cell: (job) => (job.parent_job_id === null ? "–" : <JobLink id={job.parent_job_id} />),
              },
              { label: "Submitted", cell: (job) => <Ago at={job.created_at} /> },
            ]}
          />
        )}
      </Listing>
      <Pager pages={pages} />
    </>
  );
}
