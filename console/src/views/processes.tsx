/** Active sessions of the server's machine, as its presence service lists them (`holdfast ps`). */
import { useState } from "react";
import { clean, duration } from "../format.ts";
import { Badge, Empty, Filter, Heading, Listing } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { useRights } from "../roles.ts";
import type { LocalProcess, Snapshot } from "../shapes.ts";
import { Table } from "../table.tsx";

export function Processes() {
  const { isOperator } = useRights();
  const snapshot = usePolled<Snapshot>(isOperator ? "/active-sessions" : undefined, 3_000);
  const [text, setText] = useState("");
  const wanted = text.toLowerCase();
  if (!isOperator) {
    return (
      <>
        <Heading title="Active sessions" />
        <Empty title="Only operators see the processes of the server's machine." />
      </>
    );
  }
  // Hidden is what machines are to know of, and people not to see.
  const processes = snapshot.data?.sessions.filter(({ hidden }) => hidden !== true);
  const items = processes?.filter((process) =>
    `${process.pid} ${process.session_name} ${process.frontend ?? ""}`.toLowerCase().includes(wanted),
  );
  return (
    <>
      <Heading title="Active sessions">
        <Filter label="Filter processes" value={text} onChange={setText} />
      </Heading>
      {snapshot.data?.error === undefined ? null : <p className="stale">{clean(snapshot.data.error)}</p>}
      <Listing
        what="active sessions"
        items={items}
        problem={snapshot.problem}
        again={snapshot.again}
        empty={<Empty title={text === "" ? "No process of this machine tells of itself." : "No process matches."} />}
      >
        {(processes) => (
          <Table
            caption="Active sessions"
            items={processes}
            keyOf={({ pid }) => String(pid)}
            columns={[
              { label: "Process", numeric: true, cell: ({ pid }) => pid },
              { label: "Name", cell: (process) => clean(String(process.session_name)) },
              { label: "Role", cell: (process) => clean(String(process.role)) },
              { label: "Frontend", cell: ({ frontend }) => (frontend === undefined ? "–" : clean(String(frontend))) },
              {
                label: "Connected",
                cell: ({ connected }) => (connected ? <Badge tone="good">yes</Badge> : <Badge tone="quiet">no</Badge>),
              },
              { label: "Listens at", cell: listenerOf },
              { label: "Up", numeric: true, cell: (process) => duration(process.uptime_seconds * 1_000) },
            ]}
          />
        )}
      </Listing>
    </>
  );
}

const listenerOf = ({ listener }: LocalProcess): string =>
  listener === null ? "–" : clean(`${listener.host}:${listener.port}`);
