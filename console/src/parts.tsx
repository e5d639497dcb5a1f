/** The small pieces that all views are made of. */
import { type ReactNode, type RefObject, useEffect, useRef, useState } from "react";
import { systemClock } from "../../src/clock.ts";
import type { Problem } from "./api.ts";
import { ago, clean, shortId } from "./format.ts";
import { linkTo } from "./router.ts";
import type { Tone } from "./row-text.ts";

export const Badge = ({ tone = "plain", children }: { tone?: Tone; children: ReactNode }) => (
  <span className={`badge ${tone}`}>{children}</span>
);

const STATUS_TONE: Readonly<Record<string, Tone>> = {
  running: "accent",
  success: "good",
  error: "bad",
  timed_out: "bad",
  cancelled: "warn",
  pending: "quiet",
  queued: "quiet",
  attached: "good",
  detached: "warn",
  alive: "good",
  dead: "bad",
  left: "quiet",
  delivered: "good",
  failed: "bad",
  discarded: "quiet",
  working: "accent",
  waiting: "quiet",
  refused: "bad",
};

export const Status = ({ of }: { of: string }) => (
  <Badge tone={STATUS_TONE[of] ?? "plain"}>{clean(of).replaceAll("_", " ")}</Badge>
);

export const Ago = ({ at }: { at: string }) => (
  <time dateTime={at} title={clean(at)}>
    {ago(at)}
  </time>
);

export const Id = ({ of }: { of: string }) => (
  <code className="id" title={clean(of)}>
    {shortId(of)}
  </code>
);

export const JobLink = ({ id }: { id: string }) => (
  <a {...linkTo("jobs", id)}>
    <Id of={id} />
  </a>
);

export function Heading({ title, children }: { title: ReactNode; children?: ReactNode }) {
  return (
    <header className="heading">
      <h1>{title}</h1>
      <div className="actions">{children}</div>
    </header>
  );
}

export const Empty = ({ title, children }: { title: string; children?: ReactNode }) => (
  <div className="empty">
    <strong>{title}</strong>
    {children === undefined ? null : <p>{children}</p>}
  </div>
);

export const Loading = ({ what }: { what: string }) => (
  <div className="loading" role="status">
    <span className="visually-hidden">{what}</span>
    <i />
    <i />
    <i />
  </div>
);

export const Failure = ({ problem, again }: { problem: { code: string; message: string }; again?: () => void }) => (
  <div className="failure" role="alert">
    <strong>{clean(problem.code)}</strong>
    <p>{clean(problem.message)}</p>
    {again === undefined ? null : (
      <button type="button" onClick={again}>
        Try again
      </button>
    )}
  </div>
);

/** What stands for a list until there is one: loading, a refusal, or that nothing is there. */
export function Listing<T>(props: {
  what: string;
  items: readonly T[] | undefined;
  problem: Problem | undefined;
  again: () => void;
  empty: ReactNode;
  children: (items: readonly T[]) => ReactNode;
}) {
  const { items, problem, what } = props;
  if (items === undefined) {
    if (problem === undefined) return <Loading what={`Loading ${what}`} />;
    if (problem.status === 404) {
      return <Empty title={`This server does not offer ${what}.`}>It was started without them.</Empty>;
    }
    return <Failure problem={problem} again={props.again} />;
  }
  return (
    <>
      {problem === undefined ? null : <p className="stale">Shown as last known: {clean(problem.message)}</p>}
      {items.length === 0 ? props.empty : props.children(items)}
    </>
  );
}

export const Bar = ({
  value,
  max,
  label,
  tone = "accent",
  role = "progressbar",
}: {
  value: number;
  max: number;
  label: string;
  tone?: Tone;
  role?: "progressbar" | "meter";
}) => (
  // biome-ignore lint/a11y/useAriaPropsSupportedByRole: both of its roles have a name and a value
  <span
    className={`bar ${tone}`}
    role={role}
    aria-label={label}
    aria-valuemin={0}
    aria-valuemax={max}
    aria-valuenow={Math.min(max, Math.max(0, value))}
  >
    <span style={{ width: `${max <= 0 ? 0 : Math.min(100, Math.max(0, (100 * value) / max))}%` }} />
  </span>
);

/** Renders again every so often, for times that are told as "3 s ago". */
export function useTick(everyMs: number): void {
  const [tick, setTick] = useState(0);
  useEffect(() => {
    const timer = systemClock.after(everyMs, () => setTick(tick + 1));
    return () => timer.cancel();
  }, [tick, everyMs]);
}

/** A search field that `/` focuses. */
export function Filter(props: { label: string; value: string; onChange: (value: string) => void }) {
  return (
    <input
      type="search"
      className="filter"
      data-filter
      aria-label={props.label}
      placeholder={`${props.label}  /`}
      value={props.value}
      onChange={(event) => props.onChange(event.target.value)}
    />
  );
}

export function Dialog({ title, onClose, children }: { title: string; onClose?: () => void; children: ReactNode }) {
  const dialog: RefObject<HTMLDialogElement | null> = useRef(null);
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-label={title}
      onCancel={(event) => {
        event.preventDefault();
        onClose?.();
      }}
    >
      <h2>{title}</h2>
      {children}
    </dialog>
  );
}
