/** A list of `/v1` a page at a time, so that however long it is the page in view stays small. */
import { useEffect, useState } from "react";
import { type Polled, usePolled } from "./polling.ts";

const PAGE_SIZE = 50;

export interface Pages<T> extends Polled<T> {
  /** From 1. */
  page: number;
  older: (() => void) | undefined;
  newer: (() => void) | undefined;
}

/** @param query as in an address, without `limit` and `cursor`; another one starts with the first page */
export function usePages<T extends { next_cursor: string | null }>(
  path: string | undefined,
  query: string,
  everyMs: number,
): Pages<T> {
  const [cursors, setCursors] = useState<readonly string[]>([]);
  // Another list begins at its first page.
  useEffect(() => setCursors([]), [path, query]);
  const cursor = cursors.at(-1);
  const parameters = new URLSearchParams(query);
  parameters.set("limit", String(PAGE_SIZE));
  if (cursor !== undefined) parameters.set("cursor", cursor);
  const polled = usePolled<T>(path === undefined ? undefined : `${path}?${parameters}`, everyMs);
  const next = polled.data?.next_cursor ?? null;
  return {
    ...polled,
    page: cursors.length + 1,
    older: next === null ? undefined : () => setCursors([...cursors, next]),
    newer: cursors.length === 0 ? undefined : () => setCursors(cursors.slice(0, -1)),
  };
}
