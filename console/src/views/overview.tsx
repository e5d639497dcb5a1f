/** What goes on now: this process in numbers, the nodes that share its store, and the jobs that run. */
import { useEffect, useState } from "react";
import { amount, clean, duration } from "../format.ts";
import { Ago, Badge, Heading, Id, JobLink, Listing, Status, useTick } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { Rates, sparkline } from "../rates.ts";
import { linkTo } from "../router.ts";
import type { AgentShape, JobShape, NodeShape, Stats } from "../shapes.ts";
import { Table } from "../table.tsx";

const WIDTH = 240;
const HEIGHT = 40;

export function Overview() {
  const stats = usePolled<Stats>("/stats", 1_000);
  const ready = usePolled<{ status: string }>("/ready", 5_000);
  const nodes = usePolled<{ nodes: readonly NodeShape[] }>("/nodes", 5_000);
  const agents = usePolled<{ agents: readonly AgentShape[] }>("/agents", 30_000);
  const jobs = usePolled<{ jobs: readonly JobShape[] }>("/jobs?status=running&limit=10", 2_000);
  const [rates, setRates] = useState(new Rates());
  useTick(1_000);
  const { data } = stats;
  useEffect(() => {
    if (data !== undefined) setRates((now) => now.with({ total: data.events_appended, atMs: data.uptime_ms }));
  }, [data]);
  return (
    <>
      <Heading title="Overview">
        {ready.problem === undefined ? (
          ready.data && <Badge tone="good">takes work</Badge>
        ) : (
          <Badge tone="bad">takes no work</Badge>
        )}
      </Heading>
      <Listing what="numbers" items={data && [data]} problem={stats.problem} again={stats.again} empty={null}>
        {([now]) => now && <Numbers now={now} rates={rates} />}
      </Listing>
      <h2>Running jobs</h2>
      <Listing
        what="jobs"
        items={jobs.data?.jobs}
        problem={jobs.problem}
        again={jobs.again}
        empty={<p className="quiet">No job runs.</p>}
      >
        {(items) => (
          <Table
            caption="Running jobs"
            items={items}
            keyOf={(job) => job.job_id}
            columns={[
              { label: "Job", cell: (job) => <JobLink id={job.job_id} /> },
              { label: "Agent", cell: (job) => clean(job.agent) },
              { label: "Who", cell: (job) => clean(job.principal) },
              { label: "Events", numeric: true, cell: (job) => amount(job.events) },
              { label: "Since", cell: (job) => <Ago at={job.created_at} /> },
            ]}
          />
        )}
      </Listing>
      <h2>Nodes</h2>
      <Listing
        what="nodes"
        items={nodes.data?.nodes}
        problem={nodes.problem}
        again={nodes.again}
        empty={<p className="quiet">No node.</p>}
      >
        {(items) => (
          <Table
            caption="Nodes"
            items={items}
            keyOf={(node) => node.node_id}
            columns={[
              {
                label: "Node",
                cell: (node) => (
                  <>
                    <Id of={node.node_id} /> {node.self ? <Badge tone="accent">this one</Badge> : null}
                  </>
                ),
              },
              { label: "State", cell: (node) => <Status of={node.state} /> },
              { label: "Host", cell: (node) => (node.host === null ? "–" : clean(node.host)) },
              { label: "Process", numeric: true, cell: (node) => node.pid ?? "–" },
              { label: "Jobs", numeric: true, cell: (node) => amount(node.jobs) },
              { label: "Sessions", numeric: true, cell: (node) => amount(node.sessions) },
              { label: "Started", cell: (node) => <Ago at={node.started_at} /> },
            ]}
          />
        )}
      </Listing>
      <h2>Agents</h2>
      <Listing
        what="agents"
        items={agents.data?.agents}
        problem={agents.problem}
        again={agents.again}
        empty={<p className="quiet">No agent is offered.</p>}
      >
        {(items) => (
          <ul className="chips">
            {items.map(({ name, versions }) => (
              <li key={name} className="badge plain">
                {clean(name)} <span className="quiet">{clean(versions.join(", "))}</span>
              </li>
            ))}
          </ul>
        )}
      </Listing>
    </>
  );
}

function Numbers({ now, rates }: { now: Stats; rates: Rates }) {
  const ended = Object.values(now.jobs_ended).reduce((sum, count) => sum + count, 0);
  const errors = Object.values(now.store_errors).reduce((sum, count) => sum + count, 0);
  return (
    <section className="tiles" aria-label="This process">
      <div className="tile wide">
        <span className="quiet">Events a second</span>
        <strong data-rate={rates.newest}>{amount(Math.round(rates.newest))}</strong>
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label="The last minute">
          <polyline points={sparkline(rates.points, WIDTH, HEIGHT)} />
        </svg>
      </div>
      <Tile label="Jobs running" value={now.jobs_running} note={`${amount(ended)} ended here`} view="jobs" />
      <Tile label="Sessions attached" value={now.sessions_attached} view="sessions" />
      <Tile label="Followers over HTTP" value={now.followers} />
      <Tile label="Events stored" value={now.events_appended} note={`${amount(now.events_unstored)} wait`} />
      <Tile
        label="Store errors"
        value={errors}
        tone={errors === 0 ? "" : "bad"}
        note={`up ${duration(now.uptime_ms)}`}
      />
    </section>
  );
}

const Tile = (props: { label: string; value: number; note?: string; tone?: string; view?: string }) => (
  <div className={`tile ${props.tone ?? ""}`}>
    <span className="quiet">
      {props.view === undefined ? props.label : <a {...linkTo(props.view)}>{props.label}</a>}
    </span>
    <strong>{amount(props.value)}</strong>
    <span className="quiet">{props.note ?? "\u00a0"}</span>
  </div>
);
