/** The frame of the page: who is logged in, whether it is live, where one can go, and the view that one is at. */
import { Component, type ReactNode, useCallback, useEffect, useState } from "react";
import { access, logout, lookWhoWeAre, type Who } from "./api.ts";
import { clean } from "./format.ts";
import { useKeyboard } from "./keyboard.ts";
import { live } from "./live.ts";
import { LoginForm } from "./login.tsx";
import { useObservable } from "./observable.ts";
import { Dialog, Empty, Failure, Loading } from "./parts.tsx";
import { rightsOf } from "./roles.ts";
import { linkTo, place } from "./router.ts";
import { SessionPill } from "./session-pill.tsx";
import { Chat } from "./views/chat.tsx";
import { Conversation } from "./views/conversation.tsx";
import { Conversations } from "./views/conversations.tsx";
import { Deliveries } from "./views/deliveries.tsx";
import { Job } from "./views/job.tsx";
import { Jobs } from "./views/jobs.tsx";
import { Overview } from "./views/overview.tsx";
import { Processes } from "./views/processes.tsx";
import { Sessions } from "./views/sessions.tsx";
import { Submit } from "./views/submit.tsx";

interface ViewEntry {
  /** The first part of the path. */
  name: string;
  title: string;
  /** After `g`. */
  letter: string;
  changes?: true;
  show: (id: string | undefined) => ReactNode;
}

const VIEWS: readonly ViewEntry[] = [
  { name: "overview", title: "Overview", letter: "o", show: () => <Overview /> },
  { name: "sessions", title: "Sessions", letter: "s", show: () => <Sessions /> },
  {
    name: "jobs",
    title: "Jobs",
    letter: "j",
    show: (id) => (id === undefined ? <Jobs /> : <Job key={id} jobId={id} />),
  },
  {
    name: "conversations",
    title: "Conversations",
    letter: "c",
    show: (id) => (id === undefined ? <Conversations /> : <Conversation key={id} id={id} />),
  },
  { name: "deliveries", title: "Deliveries", letter: "d", show: () => <Deliveries /> },
  { name: "processes", title: "Active sessions", letter: "a", show: () => <Processes /> },
  { name: "submit", title: "Submit a job", letter: "n", changes: true, show: () => <Submit /> },
  { name: "chat", title: "Chat", letter: "t", changes: true, show: (id) => <Chat key={id} room={id} /> },
];
const LETTERS = new Map(VIEWS.map(({ letter, name }) => [letter, name]));

export function App() {
  const value = useObservable(access);
  const principal = value.state === "in" ? value.who.principal : undefined;
  useEffect(() => {
    if (principal !== undefined) live.start(principal);
  }, [principal]);
  switch (value.state) {
    case "unknown":
      return (
        <Door>
          <Loading what="Asking the server who you are" />
        </Door>
      );
    case "unreachable":
      return (
        <Door>
          <Failure problem={value.problem} again={() => void lookWhoWeAre()} />
        </Door>
      );
    case "in":
      return <Shell who={value.who} />;
    case "out":
      if (value.was !== undefined) {
        return (
          <>
            <Shell who={value.was} />
            <Dialog title="Log in again">
              <LoginForm was={value.was} />
            </Dialog>
          </>
        );
      }
      return (
        <Door>
          <LoginForm was={undefined} />
        </Door>
      );
  }
}

const Door = ({ children }: { children: ReactNode }) => (
  <main className="door">
    <h1>Holdfast</h1>
    {children}
  </main>
);

function Shell({ who }: { who: Who }) {
  const { view, id } = useObservable(place);
  const [helping, setHelping] = useState(false);
  const help = useCallback(() => setHelping(true), []);
  useKeyboard(LETTERS, help);
  const entry = VIEWS.find(({ name }) => name === view);
  const { mayChange } = rightsOf(who);
  useEffect(() => {
    document.title = `${entry?.title ?? "Not found"} · Holdfast`;
  }, [entry]);
  return (
    <div className="shell">
      <a className="skip" href="#content">
        Skip to the content
      </a>
      <header className="top">
        <a className="brand" {...linkTo("overview")}>
          Holdfast
        </a>
        <SessionPill />
        <span className="who">
          <span className="name" title={clean(who.principal)}>
            {clean(who.principal)}
          </span>
          <span className="quiet">{who.role}</span>
        </span>
        <button type="button" onClick={help} aria-label="Keys" title="Keys: ?">
          ?
        </button>
        <button type="button" onClick={() => void leave()}>
          Log out
        </button>
      </header>
      <nav className="views" aria-label="Views">
        {VIEWS.filter(({ changes }) => mayChange || changes === undefined).map(({ name, title }) => (
          <a key={name} {...linkTo(name)} aria-current={name === view ? "page" : undefined}>
            {title}
          </a>
        ))}
      </nav>
      <main id="content" tabIndex={-1}>
        <Fence key={`${view}/${id}`}>
          {entry === undefined ? (
            <Empty title="There is no such page.">
              <a {...linkTo("overview")}>Go to the overview</a>
            </Empty>
          ) : entry.changes && !mayChange ? (
            <Empty title="An observer only looks.">Log in with a user's token to do this.</Empty>
          ) : (
            entry.show(id)
          )}
        </Fence>
      </main>
      {helping ? <Keys onClose={() => setHelping(false)} /> : null}
    </div>
  );
}

async function leave(): Promise<void> {
  await live.stop();
  await logout();
}

const Keys = ({ onClose }: { onClose: () => void }) => (
  <Dialog title="Keys" onClose={onClose}>
    <dl className="keys">
      {VIEWS.map(({ name, title, letter }) => (
        <div key={name}>
          <dt>
            <kbd>g</kbd> <kbd>{letter}</kbd>
          </dt>
          <dd>{title}</dd>
        </div>
      ))}
      <div>
        <dt>
          <kbd>/</kbd>
        </dt>
        <dd>Filter what is listed</dd>
      </div>
      <div>
        <dt>
          <kbd>↑</kbd> <kbd>↓</kbd> <kbd>Home</kbd> <kbd>End</kbd>
        </dt>
        <dd>Move in a timeline; the chosen event is shown in full</dd>
      </div>
      <div>
        <dt>
          <kbd>Esc</kbd>
        </dt>
        <dd>Close what is open</dd>
      </div>
    </dl>
    <div className="actions">
      <button type="button" onClick={onClose}>
        Close
      </button>
    </div>
  </Dialog>
);

/** A view that breaks leaves the frame standing; the next view begins anew. */
class Fence extends Component<{ children: ReactNode }, { broken: Error | undefined }> {
  override state: { broken: Error | undefined } = { broken: undefined };

  static getDerivedStateFromError(error: unknown): { broken: Error } {
    return { broken: error instanceof Error ? error : new Error(String(error)) };
  }

  override render(): ReactNode {
    const { broken } = this.state;
    if (broken === undefined) return this.props.children;
    return (
      <Failure
        problem={{ code: "This view failed", message: broken.message }}
        again={() => this.setState({ broken: undefined })}
      />
    );
  }
}
