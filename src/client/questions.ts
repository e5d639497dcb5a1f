/** Questions among a job's events (SPEC.md, ASK): ordinary `status` events, read as what they say. */
import type { JobEvent } from "./event-buffer.ts";

/** What a job asks; `Session.answer` answers it. */
export interface JobQuestion {
  questionId: string;
  message: string;
  /** JSON Schema (draft 2020-12) of the answer. */
  schema: unknown;
  /** Whom the agent means to ask. */
  to: string | undefined;
}

/** The question that an event asks; `undefined` for any other event. */
export function questionOf(event: JobEvent): JobQuestion | undefined {
  if (event.kind !== "status" || typeof event.body !== "object" || event.body === null) return undefined;
  const { phase, question_id: questionId, message, schema, to } = event.body as Record<string, unknown>;
  if (phase !== "input_required" || typeof questionId !== "string") return undefined;
  return {
    questionId,
    message: typeof message === "string" ? message : "",
    schema,
    to: typeof to === "string" ? to : undefined,
  };
}
