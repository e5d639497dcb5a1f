/** Keys that work everywhere but where somebody writes: `g` and a letter goes to a view, `/` filters, `?` explains. */
import { useEffect } from "react";
import { systemClock } from "../../src/clock.ts";
import { go } from "./router.ts";

/** How long `g` waits for its letter. */
const CHORD_MS = 1_500;

const isWritten = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && target.closest("input, textarea, select, [contenteditable]") !== null;

/** @param letters the views by the letter after `g` */
export function useKeyboard(letters: ReadonlyMap<string, string>, onHelp: () => void): void {
  useEffect(() => {
    let sinceMs = Number.NEGATIVE_INFINITY;
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isWritten(event.target)) return;
      if (document.querySelector("dialog[open]") !== null) return;
      const now = systemClock.monotonic();
      const view = now - sinceMs < CHORD_MS ? letters.get(event.key) : undefined;
      sinceMs = Number.NEGATIVE_INFINITY;
      if (view !== undefined) {
        event.preventDefault();
        go(view);
      } else if (event.key === "g") {
        sinceMs = now;
      } else if (event.key === "?") {
        event.preventDefault();
        onHelp();
      } else if (event.key === "/") {
        const filter = document.querySelector<HTMLInputElement>("[data-filter]");
        if (filter === null) return;
        event.preventDefault();
        filter.focus();
      }
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, [letters, onHelp]);
}
