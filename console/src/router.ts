/** Where in the console we are: the path below `/console/`, kept in the address so that links and reloads work. */
import type { MouseEvent } from "react";
import { Observable } from "./observable.ts";

const BASE = "/console/";

export interface Place {
  /** The first part, such as `jobs`. */
  view: string;
  /** The second one. */
  id: string | undefined;
}

const segment = (text: string): string => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

function read(): Place {
  const [view = "", id] = location.pathname.slice(BASE.length).split("/");
  return {
    view: view === "" ? "overview" : segment(view),
    id: id === undefined || id === "" ? undefined : segment(id),
  };
}

export const place = new Observable<Place>(read());

export const hrefOf = (view: string, id?: string): string =>
  `${BASE}${view === "overview" ? "" : encodeURIComponent(view)}${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;

export function go(view: string, id?: string): void {
  history.pushState(null, "", hrefOf(view, id));
  place.set(read());
}

addEventListener("popstate", () => place.set(read()));

/** What a link needs; a click with a modifier is the browser's. */
export const linkTo = (view: string, id?: string) => ({
  href: hrefOf(view, id),
  onClick: (event: MouseEvent) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || event.button !== 0) return;
    event.preventDefault();
    go(view, id);
  },
});
