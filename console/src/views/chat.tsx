/** Talks with an agent: each line is a turn, answers show while they are made. */
import { type KeyboardEvent, useEffect, useMemo, useRef, useState } from "react";
import { type ChatLine, roomOf } from "../chat-room.ts";
import { block, clean, line, record } from "../format.ts";
import { live } from "../live.ts";
import { useObservable } from "../observable.ts";
import { Empty, Failure, Heading, JobLink, Status } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { go } from "../router.ts";
import { rowText } from "../row-text.ts";
import type { AgentShape } from "../shapes.ts";
import { newestOf, textOfResult } from "../timeline-rows.ts";
import { useJobLog } from "../use-job-log.ts";
import { failureOf } from "./submit.tsx";

const ON_BUSY = ["enqueue", "interrupt", "reject"] as const;

export function Chat({ room: name = "console" }: { room: string | undefined }) {
  const room = useMemo(() => roomOf(name), [name]);
  const lines = useObservable(room.lines);
  const agents = usePolled<{ agents: readonly AgentShape[] }>("/agents", 0);
  const session = useObservable(live.session);
  const [chosen, setAgent] = useState("");
  const [onBusy, setOnBusy] = useState<(typeof ON_BUSY)[number]>("enqueue");
  const [text, setText] = useState("");
  const [failure, setFailure] = useState<{ code: string; message: string }>();
  const [other, setOther] = useState(name);
  const end = useRef<HTMLDivElement>(null);
  const agent = chosen === "" ? (agents.data?.agents[0]?.name ?? "") : chosen;
  // A new line is to be seen.
  useEffect(() => {
    void end.current?.scrollIntoView({ block: "nearest" });
  }, [lines.length]);
  const say = async () => {
    const said = text.trim();
    if (said === "") return;
    setText("");
    setFailure(undefined);
    try {
      await room.say(agent, said, onBusy);
    } catch (error) {
      setFailure(failureOf(error));
      setText(said);
    }
  };
  const isBusy = lines.some(({ status }) => status === "working" || status === "waiting");
  return (
    <div className="chat">
      <Heading title={<>Chat · {line(name, 80)}</>}>
        <form
          className="inline"
          onSubmit={(event) => {
            event.preventDefault();
            if (other.trim() !== "") go("chat", other.trim());
          }}
        >
          <label>
            Room <input value={other} maxLength={200} onChange={(event) => setOther(event.target.value)} />
          </label>
        </form>
        <label>
          Agent{" "}
          <select name="agent" value={agent} onChange={(event) => setAgent(event.target.value)}>
            {agents.data?.agents.map((one) => (
              <option key={one.name} value={one.name}>
                {clean(one.name)}
              </option>
            ))}
          </select>
        </label>
        <label>
          While it is busy{" "}
          <select
            value={onBusy}
            onChange={(event) => setOnBusy(ON_BUSY.find((one) => one === event.target.value) ?? "enqueue")}
          >
            {ON_BUSY.map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
      </Heading>
      <div className="lines" role="log" aria-label="What was said">
        {lines.length === 0 ? (
          <Empty title="Nothing was said here yet.">
            What you say is a turn of a conversation of your own; the agent has it as its input's text.
          </Empty>
        ) : (
          lines.map((one) => <Line key={one.id} line={one} />)
        )}
        <div ref={end} />
      </div>
      {failure === undefined ? null : <Failure problem={failure} />}
      <form
        className="say"
        onSubmit={(event) => {
          event.preventDefault();
          void say();
        }}
      >
        <label className="visually-hidden" htmlFor="say">
          Message
        </label>
        <textarea
          id="say"
          rows={2}
          placeholder="Say something. Enter sends, Shift+Enter breaks the line."
          value={text}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={(event: KeyboardEvent) => {
            if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
            event.preventDefault();
            void say();
          }}
        />
        <button
          type="submit"
          className="primary"
          disabled={session === undefined || agent === "" || text.trim() === ""}
        >
          Send
        </button>
        <button
          type="button"
          disabled={!isBusy}
          onClick={() => void room.stop().catch((error) => setFailure(failureOf(error)))}
        >
          Stop
        </button>
      </form>
    </div>
  );
}

const Line = ({ line: one }: { line: ChatLine }) =>
  one.jobId === undefined ? (
    <article className="line user" aria-label="You">
      <p>{clean(one.text)}</p>
    </article>
  ) : (
    <Answer one={one} jobId={one.jobId} />
  );

function Answer({ one, jobId }: { one: ChatLine; jobId: string }) {
  const { state } = useJobLog(jobId);
  const { terminal, rows } = state;
  const status = terminal?.final_status ?? one.status;
  const { chunks } = rows;
  const said = useMemo(
    () => (chunks === undefined ? undefined : chunks.done ? textOfResult(chunks.result) : newestOf(chunks.result)),
    [chunks],
  );
  const last = rows.rows.at(-1);
  return (
    <article className="line agent" aria-label="Agent" data-status={status}>
      {said !== undefined ? (
        <p>{block(said, 50_000)}</p>
      ) : terminal?.final_status === "success" ? (
        <p>{block(textOf(terminal.result), 50_000)}</p>
      ) : terminal !== undefined ? (
        <p className="bad">
          {line(terminal.code)}: {line(terminal.message, 2_000)}
        </p>
      ) : (
        <p className="quiet">{last === undefined ? "…" : rowText(last).text}</p>
      )}
      <footer>
        <Status of={status} /> {status === "waiting" && one.place !== undefined ? `place ${one.place} ` : ""}
        <JobLink id={jobId} />
      </footer>
    </article>
  );
}

/** A text, or the text in an object: what agents that talk return. */
const textOf = (result: unknown): unknown => {
  const { text } = record(result);
  return typeof text === "string" ? text : (result ?? null);
};
