/**
 * Turns of conversations, as a client submits one and learns its place (SPEC.md, TRN-7). What a key says is read by
 * the runtime alone: a client has no rules of its own that could differ from its.
 */
import { ArcpError } from "../protocol/index.ts";

/** `slack:C1/1700.1`, as the command line writes a key, or the key's parts: `{ source: "cli", name: "notes" }`. */
export type TurnKey = string | Readonly<{ source: string; [part: string]: unknown }>;

/** What became of a turn when it was accepted. */
export interface Turn {
  conversationId: string;
  /** Whether the conversation is new. */
  created: boolean;
  /** `repeated`: the message had its turn before, and the handle is that one's. */
  state: "running" | "queued" | "repeated";
  /** Of a queued one, how many turns it waits for, itself included: 1 is the next to run. */
  place?: number;
}

/** The turn that an accepted submit speaks of; `undefined` for one that is none. */
export function turnOf(extension: unknown): Turn | undefined {
  if (typeof extension !== "object" || extension === null) return undefined;
  const { conversation_id: conversationId, created, state, place } = extension as Record<string, unknown>;
  if (typeof conversationId !== "string") return undefined;
  if (state !== "running" && state !== "queued" && state !== "repeated") return undefined;
  return {
    conversationId,
    created: created === true,
    state,
    ...(typeof place === "number" ? { place } : {}),
  };
}

/** A runtime that does not know turns has started a job beside whatever runs in the conversation. */
export const noTurns = (): ArcpError =>
  new ArcpError(
    "INVALID_REQUEST",
    "The runtime keeps no conversations: it took the turn for a job, which is cancelled.",
  );
