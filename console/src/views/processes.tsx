/** Active sessions of the server's machine, as its presence service lists them (`holdfast ps`). */
import { useState } from "react";
import { clean, duration } from "../format.ts";
import { Badge, Empty, Filter, Heading, Listing } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import type { LocalProcess, Snapshot } from "../shapes.ts";
import { Table } from "../table.tsx";

export function Processes() {
  const snapshot = usePolled<Snapshot>("/active-sessions", 3_000);
  const [text, setText] = useState("");
  const wanted = text.toLowerCase();
  const items = snapshot.data?.sessions.filter((process) =>
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
