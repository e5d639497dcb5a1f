/** Talks with an agent: each line is a turn, answers show while they are made. */
import { type KeyboardEvent, useEffect, useMemo, useRef, useState } from "react";
import type { ChatMessage } from "../../../src/client/index.ts";
import { ChatRoom, openTurnsOf } from "../chat-room.ts";
import { block, bytes, clean, line } from "../format.ts";
import { useObservable } from "../observable.ts";
import { Empty, Failure, Heading, JobLink, Loading, Status } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { go } from "../router.ts";
import type { AgentShape } from "../shapes.ts";
import { failureOf } from "./submit.tsx";

const ON_BUSY = ["enqueue", "interrupt", "reject"] as const;

export function Chat({ room: name = "console" }: { room: string | undefined }) {
  const room = useMemo(() => new ChatRoom(name), [name]);
  const [attempt, setAttempt] = useState(0);
  // Another attempt opens it again.
  useEffect(() => room.open(), [room, attempt]);
  const state = useObservable(room.state);
  const messages = useObservable(room.messages);
  const openTurns = useMemo(() => openTurnsOf(messages), [messages]);
  const agents = usePolled<{ agents: readonly AgentShape[] }>("/agents", 0);
  const [chosen, setAgent] = useState("");
  const [onBusy, setOnBusy] = useState<(typeof ON_BUSY)[number]>("enqueue");
  const [text, setText] = useState("");
  const [failure, setFailure] = useState<{ code: string; message: string }>();
  const [other, setOther] = useState(name);
  const end = useRef<HTMLDivElement>(null);
  const others = agents.data?.agents.filter((one) => one.name !== "chat-room") ?? [];
  const agent = chosen === "" ? (others[0]?.name ?? "") : chosen;
  // A new line is to be seen.
  useEffect(() => {
    void end.current?.scrollIntoView({ block: "nearest" });
  }, [messages.length]);
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
  if (state.phase === "not offered") {
    return (
      <>
        <Heading title="Chat" />
        <Empty title="This server does not offer chats.">It was started without chat rooms.</Empty>
      </>
    );
  }
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
            {others.map((one) => (
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
        {state.phase === "refused" ? (
          <Failure problem={state} again={() => setAttempt(attempt + 1)} />
        ) : messages.length === 0 && state.phase === "opening" ? (
          <Loading what="Opening the room" />
        ) : messages.length === 0 ? (
          <Empty title="Nothing was said here yet.">
            What you say is a turn of a conversation of your own; the agent has it as its input's text.
          </Empty>
        ) : (
          messages.map((one) => (
            <Line
              key={`${one.part} ${one.id}`}
              message={one}
              behind={one.from === "user" && one.jobId !== undefined ? openTurns.indexOf(one.jobId) : -1}
            />
          ))
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
          disabled={state.phase !== "open" || agent === "" || text.trim() === ""}
        >
          Send
        </button>
        <button
          type="button"
          disabled={openTurns.length === 0}
          onClick={() => void room.stop().catch((error) => setFailure(failureOf(error)))}
        >
          Stop
        </button>
      </form>
    </div>
  );
}

function Line({ message, behind }: { message: ChatMessage; behind: number }) {
  const { from, text, status, jobId, files } = message;
  const isAnswer = from === "agent";
  // What was said is working, or waits, until its turn is over; its answer then tells how that ended.
  const shown = isAnswer || behind < 0 ? status : behind === 0 ? "working" : "waiting";
  const isOver = !isAnswer && behind < 0 && status !== "refused";
  return (
    <article className={`line ${from}`} aria-label={isAnswer ? "Agent" : "You"} data-status={shown}>
      <p>{block(text, 60_000)}</p>
      {files.length === 0 ? null : (
        <ul>
          {files.map((file, index) => (
            <li key={index}>
              {line(file.name, 128)} <span className="quiet">{bytes(file.bytes)}</span>
            </li>
          ))}
        </ul>
      )}
      {isOver ? null : (
        <footer>
          <Status of={shown} /> {behind > 0 ? `place ${behind} ` : ""}
          {jobId === undefined ? null : <JobLink id={jobId} />}
        </footer>
      )}
    </article>
  );
}
