/** Values in words. What a stranger named is cleaned of characters that would change how the page reads around it. */
import { systemClock } from "../../src/clock.ts";

/** Control characters, and those that turn the direction of text or hide in it. */
const UNSEEN = /(?![\t\n\r])[\p{Cc}\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu;

export const clean = (text: string): string => text.replace(UNSEEN, "\ufffd");

/** A value on one line: text as it is, the rest as JSON. */
export function line(value: unknown, max = 400): string {
  if (value === undefined) return "";
  // Cut first: a megabyte in a row of a table is work for nothing.
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  const cut = text.length > max ? `${text.slice(0, max)}…` : text;
  return clean(cut.replace(/\s+/g, " "));
}

/** A value as JSON that a person may edit: what cannot be seen is written out. */
export const editable = (value: unknown): string =>
  (JSON.stringify(value, null, 2) ?? "null").replace(
    UNSEEN,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

/** A value in full, over lines. */
export const block = (value: unknown, max = 200_000): string => {
  const text = typeof value === "string" ? value : (JSON.stringify(value, null, 2) ?? "");
  const cut = text.length > max ? `${text.slice(0, max)}\n… ${text.length - max} characters more` : text;
  return clean(cut);
};

const NUMBER = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });
export const amount = (value: number): string => NUMBER.format(value);

export function bytes(size: number): string {
  if (size < 1_024) return `${size} B`;
  return size < 1_048_576 ? `${amount(size / 1_024)} KiB` : `${amount(size / 1_048_576)} MiB`;
}

export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

/** How long ago, or how long until. */
export function ago(iso: string): string {
  const ms = systemClock.wall() - Date.parse(iso);
  if (Number.isNaN(ms)) return clean(iso);
  if (Math.abs(ms) < 2_000) return "now";
  return ms > 0 ? `${duration(ms)} ago` : `in ${duration(-ms)}`;
}

/** The time of day in UTC. */
export const timeOfDay = (iso: string): string => clean(iso.slice(11, 23));

/** The end of an id, which is what tells two apart. */
export const shortId = (id: string): string => (id.length > 14 ? `…${clean(id.slice(-10))}` : clean(id));

export const record = (value: unknown): Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
