/** Answers on their way to people: which failed and why, sent again or given up by an operator; and where to they go. */
import { useState } from "react";
import { ask, Problem } from "../api.ts";
import { block, clean, line } from "../format.ts";
import { usePages } from "../paging.ts";
import { Ago, Badge, Empty, Failure, Filter, Heading, Id, JobLink, Listing, Status, useTick } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { useRights } from "../roles.ts";
import { linkTo } from "../router.ts";
import type { DeliveryShape, RouteShape } from "../shapes.ts";
import { Pager, Table } from "../table.tsx";

const STATES = ["failed", "pending", "sending", "open", "delivered", "discarded"];

export function Deliveries() {
  const [state, setState] = useState("");
  const [text, setText] = useState("");
  const { isOperator } = useRights();
  const pages = usePages<{ deliveries: readonly DeliveryShape[]; next_cursor: string | null }>(
    "/deliveries",
    state === "" ? "" : `state=${state}`,
    2_000,
  );
  useTick(1_000);
  const wanted = text.toLowerCase();
  const items = pages.data?.deliveries.filter((delivery) =>
    `${delivery.delivery_id} ${delivery.channel} ${delivery.route_key} ${delivery.last_error ?? ""}`
      .toLowerCase()
      .includes(wanted),
  );
  return (
    <>
      <Heading title="Deliveries">
        <label>
          <span className="visually-hidden">State</span>
          <select value={state} onChange={(event) => setState(event.target.value)}>
            <option value="">any state</option>
            {STATES.map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <Filter label="Filter deliveries" value={text} onChange={setText} />
      </Heading>
      <Listing
        what="deliveries"
        items={items}
        problem={pages.problem}
        again={pages.again}
        empty={<Empty title={state + text === "" ? "Nothing is on its way." : "No delivery matches."} />}
      >
        {(deliveries) => <DeliveryTable deliveries={deliveries} again={pages.again} />}
      </Listing>
      <Pager pages={pages} />
      {isOperator ? <Routes /> : null}
    </>
  );
}

export function DeliveryTable({ deliveries, again }: { deliveries: readonly DeliveryShape[]; again: () => void }) {
  const { isOperator } = useRights();
  const [problem, setProblem] = useState<Problem>();
  const act = async (id: string, what: "retry" | "discard") => {
    try {
      await ask("POST", `/deliveries/${encodeURIComponent(id)}/${what}`);
      setProblem(undefined);
    } catch (error) {
      setProblem(error instanceof Problem ? error : new Problem(0, "ERROR", String(error)));
    }
    again();
  };
  return (
    <>
      {problem === undefined ? null : <Failure problem={problem} />}
      <Table
        caption="Deliveries"
        items={deliveries}
        keyOf={(delivery) => delivery.delivery_id}
        columns={[
          { label: "Delivery", cell: (delivery) => <Id of={delivery.delivery_id} /> },
          { label: "State", cell: (delivery) => <Status of={delivery.state} /> },
          { label: "Channel", cell: (delivery) => clean(delivery.channel) },
          {
            label: "Route",
            cell: (delivery) => (
              <details>
                <summary>{line(delivery.route_key, 60)}</summary>
                <pre>{block(delivery.route, 4_000)}</pre>
              </details>
            ),
          },
          {
            label: "Tries",
            numeric: true,
            cell: (delivery) => (
              <>
                {delivery.attempts}{" "}
                {delivery.next_try_at === null ? null : (
                  <span className="quiet">
                    next <Ago at={delivery.next_try_at} />
                  </span>
                )}
              </>
            ),
          },
          {
            label: "Error",
            cell: ({ last_error: error }) => (error === null ? "–" : <span className="bad">{line(error, 300)}</span>),
          },
          {
            label: "Conversation",
            cell: ({ conversation_id: id }) =>
              id === null ? (
                "–"
              ) : (
                <a {...linkTo("conversations", id)}>
                  <Id of={id} />
                </a>
              ),
          },
          { label: "Job", cell: ({ job_id: id }) => (id === null ? "–" : <JobLink id={id} />) },
          { label: "Changed", cell: (delivery) => <Ago at={delivery.changed_at} /> },
          ...(isOperator
            ? [
                {
                  label: "Do",
                  cell: ({ delivery_id: id, state }: DeliveryShape) =>
                    state !== "failed" ? (
                      <Badge tone="quiet">–</Badge>
                    ) : (
                      <span className="actions">
                        <button type="button" onClick={() => void act(id, "retry")}>
                          Retry
                        </button>
                        <button type="button" onClick={() => void act(id, "discard")}>
                          Discard
                        </button>
                      </span>
                    ),
                },
              ]
            : []),
        ]}
      />
    </>
  );
}

function Routes() {
  const routes = usePolled<{ routes: readonly RouteShape[] }>("/routes?limit=50", 5_000);
  return (
    <section aria-label="Routes">
      <h2>Routes, newest first</h2>
      <Listing
        what="routes"
        items={routes.data?.routes}
        problem={routes.problem}
        again={routes.again}
        empty={<p className="quiet">No route is known.</p>}
      >
        {(items) => (
          <Table
            caption="Routes"
            items={items}
            keyOf={({ key }) => key}
            columns={[
              { label: "Key", cell: ({ key }) => line(key, 120) },
              { label: "Leads to", cell: ({ route }) => <code>{line(route, 200)}</code> },
              { label: "Partition", numeric: true, cell: ({ partition }) => clean(String(partition)) },
              { label: "Updated", cell: (route) => <Ago at={route.updated_at} /> },
              { label: "Ends", cell: (route) => <Ago at={route.expires_at} /> },
            ]}
          />
        )}
      </Listing>
    </section>
  );
}
