/** Whether the page is live: its session's connection, and how often it was lost and resumed. */
import { Problem } from "./api.ts";
import { clean, duration } from "./format.ts";
import { type Connection, live } from "./live.ts";
import { useObservable } from "./observable.ts";

function wordsOf({ status, resumed }: Connection): { text: string; title: string; tone: string } {
  switch (status.state) {
    case "connected": {
      const times = resumed === 1 ? "once" : `${resumed} times`;
      const title = resumed === 0 ? "Connected." : `Connected; the connection was lost and resumed ${times}.`;
      return { text: resumed === 0 ? "live" : `live · resumed ${resumed}×`, title, tone: "good" };
    }
    case "reconnecting": {
      const title = `The connection is lost. Try ${status.attempt}, in ${duration(status.delayMs)}.`;
      return { text: `reconnecting · ${status.attempt}`, title, tone: "warn" };
    }
    case "closed": {
      const { error } = status;
      const why = error instanceof Problem ? error.message : (error?.message ?? status.reason);
      return { text: "offline", title: `${clean(why)} A new session is opened.`, tone: "bad" };
    }
    case "connecting":
    case "idle":
      return { text: "connecting", title: "The first connection is being made.", tone: "quiet" };
  }
}

export function SessionPill() {
  const connection = useObservable(live.connection);
  const { text, title, tone } = wordsOf(connection);
  return (
    <span
      className={`pill ${tone}`}
      role="status"
      title={title}
      data-state={connection.status.state}
      data-resumed={connection.resumed}
    >
      <i aria-hidden="true" />
      {text}
    </span>
  );
}
