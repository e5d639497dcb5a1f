/** Conversations, newest activity first: who is at work in them, and who waits. */
import { useState } from "react";
import { keyText } from "../conversation-key.ts";
import { amount, clean } from "../format.ts";
import { usePages } from "../paging.ts";
import { Ago, Badge, Empty, Filter, Heading, Id, Listing, useTick } from "../parts.tsx";
import { linkTo } from "../router.ts";
import type { ConversationShape } from "../shapes.ts";
import { Pager, Table } from "../table.tsx";

export function Conversations() {
  const [lockedOnly, setLockedOnly] = useState(false);
  const [text, setText] = useState("");
  const pages = usePages<{ conversations: readonly ConversationShape[]; next_cursor: string | null }>(
    "/conversations",
    lockedOnly ? "locked=true" : "",
    2_000,
  );
  useTick(1_000);
  const wanted = text.toLowerCase();
  const items = pages.data?.conversations.filter((one) =>
    `${one.conversation_id} ${one.source} ${keyText(one.key)} ${one.user_id}`.toLowerCase().includes(wanted),
  );
  return (
    <>
      <Heading title="Conversations">
        <label className="check">
          <input type="checkbox" checked={lockedOnly} onChange={(event) => setLockedOnly(event.target.checked)} />
          busy only
        </label>
        <Filter label="Filter conversations" value={text} onChange={setText} />
      </Heading>
      <Listing
        what="conversations"
        items={items}
        problem={pages.problem}
        again={pages.again}
        empty={
          <Empty title={text === "" && !lockedOnly ? "Nobody has said anything yet." : "No conversation matches."} />
        }
      >
        {(conversations) => (
          <Table
            caption="Conversations"
            items={conversations}
            keyOf={(one) => one.conversation_id}
            columns={[
              {
                label: "Conversation",
                cell: (one) => (
                  <a {...linkTo("conversations", one.conversation_id)}>
                    <Id of={one.conversation_id} />
                  </a>
                ),
              },
              { label: "Source", cell: ({ source }) => clean(source) },
              { label: "Key", cell: ({ key }) => keyText(key) },
              { label: "Who", cell: (one) => clean(one.principal ?? one.user_id) },
              {
                label: "Lock",
                cell: ({ lock }) =>
                  lock === null ? (
                    <Badge tone="quiet">free</Badge>
                  ) : (
                    <>
                      <Badge tone="accent">epoch {lock.epoch}</Badge> <Id of={lock.holder} />
                    </>
                  ),
              },
              { label: "Queue", numeric: true, cell: ({ queued }) => amount(queued) },
              { label: "Active", cell: (one) => <Ago at={one.active_at} /> },
            ]}
          />
        )}
      </Listing>
      <Pager pages={pages} />
    </>
  );
}
