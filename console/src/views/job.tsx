/** One job: how far it is, what it spends, asks and hands on, its result as it comes, and all its events. */
import { type FormEvent, useMemo, useState } from "react";
import { draftOf } from "../answer-draft.ts";
import { ask, Problem } from "../api.ts";
import { amount, block, clean, editable, line, record } from "../format.ts";
import type { LogState } from "../job-log.ts";
import { type JobNode, treeOf } from "../job-tree.ts";
import { Ago, Badge, Bar, Empty, Failure, Heading, Id, JobLink, Status, useTick } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { ReasonDialog } from "../reason-dialog.tsx";
import { useRights } from "../roles.ts";
import { progressOf, rowText } from "../row-text.ts";
import type { JobShape } from "../shapes.ts";
import { Timeline } from "../timeline.tsx";
import { type Budget, newestOf, type Row, textOfResult } from "../timeline-rows.ts";
import { useJobLog } from "../use-job-log.ts";
import { ranFor } from "./jobs.tsx";

export function Job({ jobId }: { jobId: string }) {
  const [ended, setEnded] = useState(false);
  const polled = usePolled<JobShape>(`/jobs/${encodeURIComponent(jobId)}`, ended ? 0 : 1_000);
  const { state, again } = useJobLog(jobId);
  const [selected, setSelected] = useState<number>();
  const [cancelling, setCancelling] = useState(false);
  const rights = useRights();
  useTick(1_000);
  const job = polled.data;
  if (job?.ended_at !== undefined && !ended) setEnded(true);
  if (job === undefined && polled.problem?.status === 404) {
    return <Empty title="There is no such job.">It was removed after its time, or is not yours to see.</Empty>;
  }
  const mayCancel =
    job !== undefined && !ended && rights.mayChange && (rights.isOperator || job.principal === rights.principal);
  const row = selected === undefined ? undefined : state.rows.at(selected);
  return (
    <div className="job">
      <Heading
        title={
          <>
            {job === undefined ? "Job" : clean(job.agent)} <Id of={jobId} />
          </>
        }
      >
        {job === undefined ? null : <Status of={job.status} />}
        {job?.cancel_requested && !ended ? <Badge tone="warn">to stop</Badge> : null}
        {mayCancel ? (
          <button type="button" className="danger" onClick={() => setCancelling(true)}>
            Cancel
          </button>
        ) : null}
      </Heading>
      {job === undefined ? null : <Facts job={job} />}
      <div className="cards">
        <Progress state={state} />
        <Budgets budgets={[...state.rows.budgets.values()]} />
        {job === undefined ? null : <Tree job={job} delegations={state.rows.delegations} />}
      </div>
      {state.rows.openQuestions.map((question) => (
        <Question key={question.index} jobId={jobId} row={question} mayChange={rights.mayChange} />
      ))}
      <Result state={state} />
      {state.failure === undefined ? null : <Failure problem={state.failure} again={again} />}
      <div className={row === undefined ? "split" : "split open"}>
        <Timeline state={state} selected={selected} onSelect={(chosen) => setSelected(chosen?.index)} />
        {row === undefined ? null : <Detail row={row} onClose={() => setSelected(undefined)} />}
      </div>
      {cancelling ? (
        <ReasonDialog
          title="Cancel the job"
          explanation="It is asked to stop; what it has done stays done."
          action="Cancel it"
          needsReason={false}
          act={async (reason) => {
            await ask("POST", `/jobs/${encodeURIComponent(jobId)}/cancel`, { body: reason === "" ? {} : { reason } });
            polled.again();
          }}
          onClose={() => setCancelling(false)}
        />
      ) : null}
    </div>
  );
}

function Facts({ job }: { job: JobShape }) {
  const lease = Object.entries(job.lease);
  return (
    <p className="facts-line">
      <span>{clean(job.principal)}</span>
      <span>
        submitted <Ago at={job.created_at} />
      </span>
      <span>
        {job.ended_at === undefined ? "runs for" : "ran"} {ranFor(job)}
      </span>
      {job.parent_job_id === null ? null : (
        <span>
          for <JobLink id={job.parent_job_id} />
        </span>
      )}
      {lease.length === 0 ? null : (
        <details>
          <summary>lease</summary>
          <pre>{block(job.lease, 8_000)}</pre>
        </details>
      )}
    </p>
  );
}

function Progress({ state }: { state: LogState }) {
  const { progress, status } = state.rows;
  if (progress === undefined && status === undefined) return null;
  const told = progress === undefined ? undefined : progressOf(progress.body);
  const { phase, message } = record(status?.body);
  return (
    <section className="card" aria-label="Progress">
      <h2>Progress</h2>
      {told === undefined ? null : (
        <>
          {told.total === undefined ? null : <Bar value={told.current} max={told.total} label="Progress" />}
          <p>{told.text}</p>
        </>
      )}
      {status === undefined ? null : (
        <p className="quiet">
          {line(phase)} {line(message)}
        </p>
      )}
    </section>
  );
}

const Budgets = ({ budgets }: { budgets: readonly Budget[] }) =>
  budgets.length === 0 ? null : (
    <section className="card" aria-label="Budget">
      <h2>Budget</h2>
      {budgets.map(({ currency, total, remaining }) => (
        <div key={currency} className="gauge">
          <Bar
            role="meter"
            value={remaining}
            max={total}
            label={`${line(currency, 16)} left`}
            tone={remaining <= total * 0.2 ? "bad" : "good"}
          />
          <span>
            {amount(remaining)} of {amount(total)} {line(currency, 16)} left
          </span>
        </div>
      ))}
    </section>
  );

/** The jobs that it handed work to: those that were submitted while it ran, and name it. */
function Tree({ job, delegations }: { job: JobShape; delegations: number }) {
  const window = new URLSearchParams({ limit: "500", created_after: job.created_at });
  if (job.ended_at !== undefined)
    window.set("created_before", new Date(Date.parse(job.ended_at) + 1_000).toISOString());
  const polled = usePolled<{ jobs: readonly JobShape[] }>(
    delegations === 0 ? undefined : `/jobs?${window}`,
    job.ended_at === undefined ? 2_000 : 0,
  );
  if (delegations === 0) return null;
  const others = (polled.data?.jobs ?? []).filter(({ job_id: id }) => id !== job.job_id);
  const tree = treeOf(job.job_id, [job, ...others]);
  return (
    <section className="card" aria-label="Delegation">
      <h2>Delegation</h2>
      {tree === undefined ? null : (
        <ul className="tree">
          <Branch node={tree} self={job.job_id} />
        </ul>
      )}
    </section>
  );
}

const Branch = ({ node, self }: { node: JobNode; self: string }) => (
  <li>
    <span>
      {clean(node.job.agent)} {node.job.job_id === self ? <Id of={self} /> : <JobLink id={node.job.job_id} />}{" "}
      <Status of={node.job.status} />
    </span>
    {node.children.length === 0 ? null : (
      <ul>
        {node.children.map((child) => (
          <Branch key={child.job.job_id} node={child} self={self} />
        ))}
      </ul>
    )}
  </li>
);

function Question({
  jobId,
  row,
  mayChange,
}: {
  jobId: string;
  row: Extract<Row, { kind: "question" }>;
  mayChange: boolean;
}) {
  const { message, to, schema, question_id: questionId } = record(row.event.body);
  const [text, setText] = useState(() => editable(draftOf(schema)));
  const [failure, setFailure] = useState<{ code: string; message: string }>();
  const [busy, setBusy] = useState(false);
  const send = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      const path = `/jobs/${encodeURIComponent(jobId)}/questions/${encodeURIComponent(String(questionId))}/answer`;
      await ask("POST", path, { body: { answer: JSON.parse(text) as unknown } });
      setFailure(undefined);
    } catch (error) {
      const isJson = error instanceof Problem;
      setFailure(isJson ? error : { code: "Answer", message: "It is no JSON; a text stands in double quotes." });
    } finally {
      setBusy(false);
    }
  };
  return (
    <section className="card question" aria-label="Question">
      <h2>
        It asks{to === undefined ? "" : ` ${line(to, 80)}`}: {line(message)}
      </h2>
      {mayChange ? (
        <form onSubmit={(event) => void send(event)}>
          <label>
            Answer, as JSON
            <textarea rows={4} spellCheck={false} value={text} onChange={(event) => setText(event.target.value)} />
          </label>
          <details>
            <summary>what it may be</summary>
            <pre>{block(schema, 8_000)}</pre>
          </details>
          {failure === undefined ? null : <Failure problem={failure} />}
          <div className="actions">
            <button type="submit" className="primary" disabled={busy}>
              Answer
            </button>
          </div>
        </form>
      ) : null}
    </section>
  );
}

/** What it returns: pieces while they come, then all of it. */
function Result({ state }: { state: LogState }) {
  const { terminal, rows } = state;
  const { chunks } = rows;
  const text = useMemo(
    () => (chunks === undefined ? undefined : chunks.done ? textOfResult(chunks.result) : newestOf(chunks.result)),
    [chunks],
  );
  if (terminal === undefined && text === undefined) return null;
  const failed = terminal !== undefined && terminal.final_status !== "success";
  return (
    <section className="card" aria-label="Result">
      <h2>
        {failed ? "End" : "Result"} {terminal === undefined ? null : <Status of={terminal.final_status} />}{" "}
        {chunks?.result.contentType === undefined ? null : (
          <span className="quiet">{line(chunks.result.contentType, 80)}</span>
        )}
      </h2>
      {failed ? (
        <p className="bad">
          {line(terminal.code)}: {line(terminal.message, 2_000)}
        </p>
      ) : null}
      {terminal?.summary === undefined ? null : <p>{line(terminal.summary, 2_000)}</p>}
      {text !== undefined ? (
        <pre className="result">{block(text)}</pre>
      ) : failed || terminal === undefined ? null : (
        <pre className="result">{block(terminal.result ?? null)}</pre>
      )}
    </section>
  );
}

function Detail({ row, onClose }: { row: Row; onClose: () => void }) {
  return (
    <aside className="card detail" aria-label="Event">
      <header className="heading">
        <h2>{rowText(row).label}</h2>
        <button type="button" onClick={onClose} aria-label="Close the event">
          ×
        </button>
      </header>
      {partsOf(row).map(([name, value]) => (
        <section key={name}>
          <h3>{name}</h3>
          <pre>{block(value, 100_000)}</pre>
        </section>
      ))}
    </aside>
  );
}

/** What there is to be read of a row, under its names. */
function partsOf(row: Row): readonly (readonly [string, unknown])[] {
  switch (row.kind) {
    case "tool": {
      const { tool, args } = record(row.call.body);
      const { result, error } = record(row.result?.body);
      const outcome: readonly (readonly [string, unknown])[] =
        row.result === undefined ? [] : error === undefined ? [["result", result ?? null]] : [["error", error]];
      return [["tool", tool], ["arguments", args ?? null], ...outcome];
    }
    case "progress":
      return [
        ["newest", row.event.body],
        ["reports", row.count],
      ];
    case "chunks":
      return [["assembled", textOfResult(row.result)]];
    case "question":
      return [
        ["question", row.event.body],
        ...(row.outcome === undefined ? [] : [["outcome", row.outcome.body] as const]),
      ];
    case "end":
      return [["end", row.terminal]];
    case "plain":
      return [
        ["kind", row.event.kind],
        ["body", row.event.body],
      ];
  }
}
