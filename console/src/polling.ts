/**
 * Lists that nobody tells us of: asked for again every so often, never while the page is hidden, one request at a
 * time, and with what was known before still shown while one fails.
 */
import { useCallback, useEffect, useRef, useState } from "react";
import { systemClock, type Timer } from "../../src/clock.ts";
import { access, ask, Problem } from "./api.ts";
import { useObservable } from "./observable.ts";

const RETRY_MS = 3_000;

export interface Polled<T> {
  data: T | undefined;
  problem: Problem | undefined;
  /** Asks now. */
  again(): void;
}

/** @param path `undefined`: nothing is asked @param everyMs 0 asks once */
export function usePolled<T>(path: string | undefined, everyMs: number): Polled<T> {
  const [state, setState] = useState<{ path: string | undefined; data?: T; problem?: Problem }>({ path });
  // While nobody is logged in there is nothing to ask for.
  const isIn = useObservable(access).state === "in";
  const kick = useRef<() => void>(() => undefined);

  useEffect(() => {
    if (path === undefined || !isIn) return;
    const stop = new AbortController();
    let timer: Timer | undefined;
    let asking = false;
    const look = async () => {
      if (asking || stop.signal.aborted) return;
      timer?.cancel();
      asking = true;
      let nextMs = everyMs;
      try {
        const data = await ask<T>("GET", path, { signal: stop.signal });
        if (!stop.signal.aborted) setState({ path, data });
      } catch (error) {
        if (stop.signal.aborted) return;
        const problem = error instanceof Problem ? error : new Problem(0, "ERROR", String(error));
        // What is asked for once is asked for again when the server was away.
        if (problem.status === 0 || problem.status >= 500) nextMs = Math.max(everyMs, RETRY_MS);
        setState((before) => (before.path === path ? { ...before, problem } : { path, problem }));
      } finally {
        asking = false;
      }
      if (nextMs > 0 && !stop.signal.aborted && !document.hidden) timer = systemClock.after(nextMs, () => void look());
    };
    const onVisible = () => {
      if (!document.hidden) void look();
    };
    kick.current = () => void look();
    document.addEventListener("visibilitychange", onVisible);
    void look();
    return () => {
      stop.abort();
      timer?.cancel();
      document.removeEventListener("visibilitychange", onVisible);
    };
  }, [path, everyMs, isIn]);

  const again = useCallback(() => kick.current(), []);
  const current = state.path === path ? state : { path };
  return { data: current.data, problem: current.problem, again };
}
