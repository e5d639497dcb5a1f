/** Sessions that can be resumed: whose, whether somebody is connected, and how far behind. */
import { useState } from "react";
import { amount, clean } from "../format.ts";
import { live } from "../live.ts";
import { useObservable } from "../observable.ts";
import { usePages } from "../paging.ts";
import { Ago, Badge, Empty, Filter, Heading, Id, Listing, Status, useTick } from "../parts.tsx";
import type { SessionShape } from "../shapes.ts";
import { Pager, Table } from "../table.tsx";

export function Sessions() {
  const pages = usePages<{ sessions: readonly SessionShape[]; next_cursor: string | null }>("/sessions", "", 2_000);
  const mine = useObservable(live.session)?.id;
  const [text, setText] = useState("");
  useTick(1_000);
  const wanted = text.toLowerCase();
  const items = pages.data?.sessions.filter((session) =>
    `${session.session_id} ${session.principal} ${session.client.name}`.toLowerCase().includes(wanted),
  );
  return (
    <>
      <Heading title="Sessions">
        <Filter label="Filter sessions" value={text} onChange={setText} />
      </Heading>
      <Listing
        what="sessions"
        items={items}
        problem={pages.problem}
        again={pages.again}
        empty={<Empty title={text === "" ? "Nobody has a session." : "No session matches."} />}
      >
        {(sessions) => (
          <Table
            caption="Sessions"
            items={sessions}
            keyOf={(session) => session.session_id}
            columns={[
              {
                label: "Session",
                cell: (session) => (
                  <>
                    <Id of={session.session_id} />{" "}
                    {session.session_id === mine ? <Badge tone="accent">this page</Badge> : null}
                  </>
                ),
              },
              { label: "Who", cell: (session) => clean(session.principal) },
              { label: "Client", cell: (session) => clean(`${session.client.name} ${session.client.version}`) },
              {
                label: "Connection",
                cell: (session) => (
                  <>
                    <Status of={session.state} />{" "}
                    {session.resumable_until === null ? null : (
                      <span className="quiet">
                        ends <Ago at={session.resumable_until} />
                      </span>
                    )}
                  </>
                ),
              },
              {
                label: "Lag",
                numeric: true,
                cell: ({ lag }) => (lag > 0 ? <Badge tone="warn">{amount(lag)}</Badge> : "0"),
              },
              {
                label: "Seq",
                numeric: true,
                cell: (session) => (
                  <span title="newest / acknowledged">
                    {amount(session.last_event_seq)} / {amount(session.acked_seq)}
                  </span>
                ),
              },
              { label: "Jobs", numeric: true, cell: (session) => amount(session.jobs) },
              { label: "Connections", numeric: true, cell: (session) => amount(session.connection_epoch) },
              {
                label: "Node",
                cell: (session) => (session.node_id === null ? "–" : <Id of={session.node_id} />),
              },
              { label: "Since", cell: (session) => <Ago at={session.created_at} /> },
            ]}
          />
        )}
      </Listing>
      <Pager pages={pages} />
    </>
  );
}
