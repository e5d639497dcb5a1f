/**
 * A job's timeline. Only the rows in sight are in the page, each of one height, so a hundred thousand events scroll as
 * ten do. It stays at the newest row until somebody scrolls up, and says how to get back.
 */
import { type KeyboardEvent, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { amount, timeOfDay } from "./format.ts";
import type { LogState } from "./job-log.ts";
import { Bar, Filter } from "./parts.tsx";
import { progressOf, rowText } from "./row-text.ts";
import type { Row, TimelineRows } from "./timeline-rows.ts";

export const ROW_HEIGHT = 30;
const OVERSCAN = 8;

const KINDS = ["all", "logs", "tools", "thoughts", "progress", "status", "metrics"] as const;
type Kind = (typeof KINDS)[number];

function isOfKind(row: Row, kind: Kind): boolean {
  if (kind === "all") return true;
  if (row.kind === "tool") return kind === "tools";
  if (row.kind === "progress") return kind === "progress";
  if (row.kind === "question" || row.kind === "end") return kind === "status";
  if (row.kind === "chunks") return false;
  switch (row.event.kind) {
    case "log":
      return kind === "logs";
    case "thought":
      return kind === "thoughts";
    case "status":
      return kind === "status";
    case "metric":
      return kind === "metrics";
    case "delegate":
    case "tool_result":
      return kind === "tools";
    default:
      return false;
  }
}

/** The places of the rows that a filter lets through; looks at each row once, however often it is asked. */
class Filtered {
  #indexes: number[] = [];
  #seen = 0;
  readonly #rows: TimelineRows;
  readonly #kind: Kind;
  readonly #text: string;

  constructor(rows: TimelineRows, kind: Kind, text: string) {
    this.#rows = rows;
    this.#kind = kind;
    this.#text = text.toLowerCase();
  }

  get everything(): boolean {
    return this.#kind === "all" && this.#text === "";
  }

  /** How many there are now. */
  look(): number {
    const { rows, dropped } = this.#rows;
    if (this.everything) return rows.length;
    for (let place = Math.max(0, this.#seen - dropped); place < rows.length; place += 1) {
      const row = rows[place];
      if (row !== undefined && this.#passes(row)) this.#indexes.push(row.index);
    }
    this.#seen = dropped + rows.length;
    if ((this.#indexes[0] ?? dropped) < dropped) this.#indexes = this.#indexes.filter((index) => index >= dropped);
    return this.#indexes.length;
  }

  at(place: number): Row | undefined {
    if (this.everything) return this.#rows.rows[place];
    const index = this.#indexes[place];
    return index === undefined ? undefined : this.#rows.at(index);
  }

  #passes(row: Row): boolean {
    if (!isOfKind(row, this.#kind)) return false;
    if (this.#text === "") return true;
    const { label, text } = rowText(row);
    return `${label} ${text}`.toLowerCase().includes(this.#text);
  }
}

function RowLine({
  row,
  place,
  count,
  selected,
  onSelect,
}: {
  row: Row;
  place: number;
  count: number;
  selected: boolean;
  onSelect: (row: Row) => void;
}) {
  const { label, text, tone } = rowText(row);
  const progress = row.kind === "progress" ? progressOf(row.event.body) : undefined;
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the listbox that it is in has the keys
    <div
      role="option"
      id={`row-${row.index}`}
      tabIndex={-1}
      aria-selected={selected}
      aria-posinset={place + 1}
      aria-setsize={count}
      className={`row ${tone}`}
      style={{ transform: `translateY(${place * ROW_HEIGHT}px)` }}
      onClick={() => onSelect(row)}
    >
      <span className="seq">{row.kind === "end" ? "" : row.seq}</span>
      <span className="time">{timeOfDay(row.ts)}</span>
      <span className="label">{label}</span>
      {progress?.total === undefined ? null : (
        <Bar value={progress.current} max={progress.total} label={progress.text} />
      )}
      <span className="text">{text}</span>
    </div>
  );
}

export function Timeline({
  state,
  selected,
  onSelect,
}: {
  state: LogState;
  /** The place of a row in the job's timeline. */
  selected: number | undefined;
  onSelect: (row: Row | undefined) => void;
}) {
  const { rows } = state;
  const [kind, setKind] = useState<Kind>("all");
  const [text, setText] = useState("");
  const [view, setView] = useState({ top: 0, height: 600 });
  const [following, setFollowing] = useState(true);
  const scroller = useRef<HTMLDivElement>(null);
  const dropped = useRef(0);
  const filtered = useMemo(() => new Filtered(rows, kind, text), [rows, kind, text]);
  const count = filtered.look();
  const first = Math.max(0, Math.floor(view.top / ROW_HEIGHT) - OVERSCAN);
  const last = Math.min(count, Math.ceil((view.top + view.height) / ROW_HEIGHT) + OVERSCAN);

  useEffect(() => {
    const element = scroller.current;
    if (element === null) return;
    const observer = new ResizeObserver(() => setView((before) => ({ ...before, height: element.clientHeight })));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  // Whenever there are more rows.
  useLayoutEffect(() => {
    const element = scroller.current;
    if (element === null) return;
    const gone = rows.dropped - dropped.current;
    dropped.current = rows.dropped;
    if (following) element.scrollTop = element.scrollHeight;
    else if (gone > 0 && filtered.everything) element.scrollTop -= gone * ROW_HEIGHT;
  }, [count, following, rows.dropped, filtered]);

  const onScroll = () => {
    const element = scroller.current;
    if (element === null) return;
    setView({ top: element.scrollTop, height: element.clientHeight });
    setFollowing(element.scrollTop + element.clientHeight >= element.scrollHeight - ROW_HEIGHT);
  };

  const choose = (place: number) => {
    const row = filtered.at(place);
    const element = scroller.current;
    if (row === undefined || element === null) return;
    onSelect(row);
    const top = place * ROW_HEIGHT;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + ROW_HEIGHT > element.scrollTop + element.clientHeight) {
      element.scrollTop = top + ROW_HEIGHT - element.clientHeight;
    }
  };

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      onSelect(undefined);
      return;
    }
    const page = Math.max(1, Math.floor(view.height / ROW_HEIGHT) - 1);
    let now = -1;
    for (let place = first; place < last && now < 0; place += 1)
      if (filtered.at(place)?.index === selected) now = place;
    const target: Record<string, number> = {
      ArrowDown: now < 0 ? first : now + 1,
      ArrowUp: now < 0 ? last - 1 : now - 1,
      PageDown: now + page,
      PageUp: now - page,
      Home: 0,
      End: count - 1,
    };
    const place = target[event.key];
    if (place === undefined) return;
    event.preventDefault();
    choose(Math.min(count - 1, Math.max(0, place)));
  };

  const shown: { place: number; row: Row }[] = [];
  for (let place = first; place < last; place += 1) {
    const row = filtered.at(place);
    if (row !== undefined) shown.push({ place, row });
  }
  const hasRows = count > 0;
  return (
    <section className="timeline" aria-label="Timeline">
      <div className="toolbar">
        <fieldset className="chips">
          <legend className="visually-hidden">Kinds of events</legend>
          {KINDS.map((name) => (
            <button
              key={name}
              type="button"
              className="chip"
              aria-pressed={kind === name}
              onClick={() => setKind(name)}
            >
              {name}
            </button>
          ))}
        </fieldset>
        <Filter label="Filter events" value={text} onChange={setText} />
        <span className="quiet count" data-events={rows.events}>
          {amount(rows.events)} events
        </span>
      </div>
      {rows.dropped === 0 ? null : (
        <p className="stale">The {amount(rows.dropped)} oldest rows are no longer shown; the job's log has them.</p>
      )}
      <div
        ref={scroller}
        className="rows"
        onScroll={onScroll}
        {...(hasRows
          ? {
              role: "listbox",
              tabIndex: 0,
              "aria-label": "Events",
              onKeyDown,
              ...(selected === undefined ? {} : { "aria-activedescendant": `row-${selected}` }),
            }
          : {})}
      >
        {hasRows ? (
          <div className="space" role="presentation" style={{ height: `${count * ROW_HEIGHT}px` }}>
            {shown.map(({ place, row }) => (
              <RowLine
                key={row.index}
                row={row}
                place={place}
                count={count}
                selected={row.index === selected}
                onSelect={onSelect}
              />
            ))}
          </div>
        ) : (
          <div className="empty">
            <strong>
              {state.phase === "opening"
                ? "Waiting for the events…"
                : rows.events === 0
                  ? "No events yet."
                  : "No event matches."}
            </strong>
          </div>
        )}
      </div>
      {following || !hasRows ? null : (
        <button type="button" className="to-end" onClick={() => setFollowing(true)}>
          ↓ newest
        </button>
      )}
    </section>
  );
}
