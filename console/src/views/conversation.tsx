/** One conversation: who holds its lock since when, who waits, where its backend's session is and its answers go. */
import { useState } from "react";
import { ask } from "../api.ts";
import { keyText } from "../conversation-key.ts";
import { block, clean, line } from "../format.ts";
import { Ago, Badge, Empty, Heading, Id, JobLink, Listing, Status, useTick } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { ReasonDialog } from "../reason-dialog.tsx";
import { useRights } from "../roles.ts";
import type { BindingShape, ConversationDetail, DeliveryShape, LockShape, TurnShape } from "../shapes.ts";
import { Table } from "../table.tsx";
import { DeliveryTable } from "./deliveries.tsx";

export function Conversation({ id }: { id: string }) {
  const detail = usePolled<ConversationDetail>(`/conversations/${encodeURIComponent(id)}`, 1_000);
  useTick(1_000);
  return (
    <>
      <Heading title={<>Conversation {detail.data === undefined ? <Id of={id} /> : keyText(detail.data.key)}</>} />
      {detail.data === undefined && detail.problem !== undefined && [400, 404].includes(detail.problem.status) ? (
        <Empty title="There is no such conversation.">It was removed, or is not yours to see.</Empty>
      ) : (
        <Listing
          what="the conversation"
          items={detail.data && [detail.data]}
          problem={detail.problem}
          again={detail.again}
          empty={null}
        >
          {([shown]) => shown && <Shown conversation={shown} again={detail.again} />}
        </Listing>
      )}
    </>
  );
}

function Shown({ conversation, again }: { conversation: ConversationDetail; again: () => void }) {
  const { conversation_id: id, key, lock, turns } = conversation;
  const [breaking, setBreaking] = useState(false);
  const { isOperator } = useRights();
  return (
    <>
      <div className="cards">
        <section className="card" aria-label="About">
          <h2>About</h2>
          <dl className="facts">
            <dt>Id</dt>
            <dd>
              <code>{clean(id)}</code>
            </dd>
            <dt>Source</dt>
            <dd>{clean(conversation.source)}</dd>
            <dt>Key</dt>
            <dd>
              <code>{line(key)}</code>
            </dd>
            <dt>Who</dt>
            <dd>{clean(conversation.principal ?? conversation.user_id)}</dd>
            <dt>Begun</dt>
            <dd>
              <Ago at={conversation.created_at} />
            </dd>
            <dt>Active</dt>
            <dd>
              <Ago at={conversation.active_at} />
            </dd>
            <dt>Queue</dt>
            <dd>{conversation.queued}</dd>
          </dl>
        </section>
        <section className="card" aria-label="Lock">
          <h2>Lock {lock === null ? <Badge tone="quiet">free</Badge> : <Badge tone="accent">held</Badge>}</h2>
          {lock === null ? <p className="quiet">Nobody is at work here.</p> : <Lock lock={lock} />}
          {lock !== null && isOperator ? (
            <button type="button" className="danger" onClick={() => setBreaking(true)}>
              Break the lock
            </button>
          ) : null}
        </section>
        <Bindings bindings={conversation.bindings ?? []} />
      </div>
      <h2>Turns</h2>
      {turns.length === 0 ? <p className="quiet">No turn is kept.</p> : <Turns turns={turns} />}
      <Route conversationId={id} />
      {breaking && lock !== null ? (
        <ReasonDialog
          title="Break the lock"
          explanation="The turn that holds it ends with this reason, and the next one begins."
          action="Break it"
          needsReason
          act={async (reason) => {
            await ask("POST", `/conversations/${encodeURIComponent(id)}/lock/break`, { body: { reason } });
            again();
          }}
          onClose={() => setBreaking(false)}
        />
      ) : null}
    </>
  );
}

const Lock = ({ lock }: { lock: LockShape }) => (
  <dl className="facts">
    <dt>Holder</dt>
    <dd>{lock.job_id === null ? <Id of={lock.holder} /> : <JobLink id={lock.job_id} />}</dd>
    <dt>Epoch</dt>
    <dd>{lock.epoch}</dd>
    <dt>Since</dt>
    <dd>
      <Ago at={lock.since} />
    </dd>
    <dt>Until</dt>
    <dd>
      <Ago at={lock.until} />, unless it is refreshed
    </dd>
    <dt>Process</dt>
    <dd>{lock.pid === null ? "–" : `${lock.pid} on ${clean(lock.host ?? "?")}`}</dd>
    <dt>Node</dt>
    <dd>
      <Id of={lock.node_id} />
    </dd>
  </dl>
);

const Bindings = ({ bindings }: { bindings: readonly BindingShape[] }) => (
  <section className="card" aria-label="Binding">
    <h2>Binding</h2>
    {bindings.length === 0 ? (
      <p className="quiet">It has no session with an agent backend.</p>
    ) : (
      bindings.map((binding) => (
        <dl key={binding.backend} className="facts">
          <dt>Backend</dt>
          <dd>
            {clean(binding.backend)} <Status of={binding.state} />
          </dd>
          <dt>Session</dt>
          <dd>{binding.upstream_id === null ? "–" : <code>{clean(binding.upstream_id)}</code>}</dd>
          <dt>Generation</dt>
          <dd>{binding.generation}</dd>
        </dl>
      ))
    )}
  </section>
);

const Turns = ({ turns }: { turns: readonly TurnShape[] }) => (
  <Table
    caption="Turns"
    items={turns}
    keyOf={(turn) => turn.job_id}
    columns={[
      { label: "Job", cell: (turn) => <JobLink id={turn.job_id} /> },
      {
        label: "State",
        cell: (turn) => (
          <>
            <Status of={turn.state === "queued" ? "queued" : turn.status} />{" "}
            {turn.place === undefined ? null : <span className="quiet">place {turn.place}</span>}
          </>
        ),
      },
      { label: "Agent", cell: (turn) => clean(turn.agent) },
      { label: "Who", cell: (turn) => clean(turn.user_id) },
      { label: "Message", cell: (turn) => (turn.message_id === undefined ? "–" : line(turn.message_id, 60)) },
      { label: "Epoch", numeric: true, cell: (turn) => turn.epoch ?? "–" },
      { label: "Said", cell: (turn) => <Ago at={turn.submitted_at} /> },
    ]}
  />
);

/** Where its answers went last, and how they fared; nothing where the server delivers nothing. */
function Route({ conversationId }: { conversationId: string }) {
  const polled = usePolled<{ deliveries: readonly DeliveryShape[] }>(
    `/deliveries?limit=10&conversation_id=${encodeURIComponent(conversationId)}`,
    3_000,
  );
  const [newest] = polled.data?.deliveries ?? [];
  return (
    <section aria-label="Route">
      <h2>Route</h2>
      <Listing
        what="deliveries"
        items={polled.data?.deliveries}
        problem={polled.problem}
        again={polled.again}
        empty={<p className="quiet">Its answers go to whoever follows the turns, and nowhere else.</p>}
      >
        {(deliveries) => (
          <>
            {newest === undefined ? null : (
              <pre>
                {line(newest.route_key)} → {block(newest.route, 2_000)}
              </pre>
            )}
            <DeliveryTable deliveries={deliveries} again={polled.again} />
          </>
        )}
      </Listing>
    </section>
  );
}
