/**
 * A job's events as the rows of its timeline. One row stands for what belongs together: a tool call and its result, a
 * stretch of progress, the chunks of a result, what the job asks and the answer. A row that grows is replaced, never
 * changed, so that a view sees which ones are new. Costs a row per event at most; beyond a cap the oldest go, counted.
 */
import type { JobEvent, Terminal } from "../../src/client/index.ts";
import { joinPieces, pieceOf } from "./chunks.ts";
import { record } from "./format.ts";

interface Common {
  /** The place in the job's timeline; never changes. */
  index: number;
  /** Of its first event. */
  seq: number;
  ts: string;
}

export type Row = Common &
  (
    | { kind: "plain"; event: JobEvent }
    | { kind: "tool"; call: JobEvent; result: JobEvent | undefined }
    | { kind: "progress"; event: JobEvent; count: number }
    | { kind: "chunks"; result: ChunkedResult; count: number; done: boolean }
    | { kind: "question"; event: JobEvent; outcome: JobEvent | undefined }
    | { kind: "end"; terminal: Terminal }
  );

/** The pieces of a result. What is over the cap is counted and not kept. */
export interface ChunkedResult {
  contentType: string | undefined;
  pieces: (string | Uint8Array)[];
  size: number;
  kept: number;
}

export interface Budget {
  currency: string;
  /** What the job was given. */
  total: number;
  remaining: number;
}

const MAX_ROWS = 250_000;
/** Dropped at once, so that dropping costs little for each. */
const DROP = 25_000;
const MAX_CHUNK_BYTES = 8 * 1024 * 1024;

/** What the runtime tells this page's session of its own reading: no events of the job. */
const OF_THE_READER: ReadonlySet<unknown> = new Set(["back_pressure", "history_trimmed"]);

type Fresh = Row extends infer R ? (R extends Row ? Omit<R, "index"> : never) : never;

export class TimelineRows {
  /** The newest ones; `rows[i].index` is `dropped + i`. */
  readonly rows: Row[] = [];
  dropped = 0;
  events = 0;
  /** The newest of its kind, for the head of the page. */
  progress: JobEvent | undefined;
  status: JobEvent | undefined;
  /** The result that came last, or comes. */
  chunks: Extract<Row, { kind: "chunks" }> | undefined;
  delegations = 0;
  readonly budgets = new Map<string, Budget>();
  /** Grows with every change. */
  version = 0;
  readonly #calls = new Map<string, number>();
  readonly #questions = new Map<string, number>();
  readonly #chunks = new Map<string, number>();

  get openQuestions(): Extract<Row, { kind: "question" }>[] {
    return [...this.#questions.values()].flatMap((index) => {
      const row = this.at(index);
      return row?.kind === "question" ? [row] : [];
    });
  }

  /** By its place in the job's timeline. */
  at(index: number): Row | undefined {
    return this.rows[index - this.dropped];
  }

  setBudget(budget: Readonly<Record<string, number>> | undefined): void {
    for (const [currency, total] of Object.entries(budget ?? {})) {
      if (!this.budgets.has(currency)) this.budgets.set(currency, { currency, total, remaining: total });
    }
    this.version += 1;
  }

  add(event: JobEvent): void {
    this.version += 1;
    const body = record(event.body);
    if (event.kind === "status" && OF_THE_READER.has(body["phase"])) {
      this.#push({ ...of(event), kind: "plain", event });
      return;
    }
    this.events += 1;
    switch (event.kind) {
      case "tool_call":
        this.#calls.set(
          String(body["call_id"]),
          this.#push({ ...of(event), kind: "tool", call: event, result: undefined }),
        );
        return;
      case "tool_result":
        this.#toolResult(event, String(body["call_id"]));
        return;
      case "progress":
        this.#progress(event);
        return;
      case "result_chunk":
        this.#chunk(event, body);
        return;
      case "status":
        this.#status(event, body);
        return;
      case "metric":
        this.#metric(body);
        break;
      case "delegate":
        this.delegations += 1;
        break;
    }
    this.#push({ ...of(event), kind: "plain", event });
  }

  end(terminal: Terminal, ts: string): void {
    this.version += 1;
    // Nobody is asked any more.
    this.#questions.clear();
    this.#push({ seq: 0, ts, kind: "end", terminal });
  }

  #push(row: Fresh): number {
    if (this.rows.length >= MAX_ROWS) {
      this.rows.splice(0, DROP);
      this.dropped += DROP;
    }
    const index = this.dropped + this.rows.length;
    this.rows.push({ ...row, index });
    return index;
  }

  #replace(row: Row): void {
    const place = row.index - this.dropped;
    if (place >= 0) this.rows[place] = row;
  }

  #toolResult(event: JobEvent, callId: string): void {
    const index = this.#calls.get(callId);
    const row = index === undefined ? undefined : this.at(index);
    this.#calls.delete(callId);
    if (row?.kind === "tool") this.#replace({ ...row, result: event });
    else this.#push({ ...of(event), kind: "plain", event });
  }

  #progress(event: JobEvent): void {
    this.progress = event;
    const last = this.rows.at(-1);
    if (last?.kind === "progress") this.#replace({ ...last, event, count: last.count + 1 });
    else this.#push({ ...of(event), kind: "progress", event, count: 1 });
  }

  #chunk(event: JobEvent, body: Record<string, unknown>): void {
    const id = String(body["result_id"]);
    const known = this.#chunks.get(id);
    const row = known === undefined ? undefined : this.at(known);
    const result: ChunkedResult =
      row?.kind === "chunks" ? row.result : { contentType: undefined, pieces: [], size: 0, kept: 0 };
    const piece = pieceOf(body);
    const size = typeof piece === "string" ? piece.length : piece.byteLength;
    result.size += size;
    if (result.kept + size <= MAX_CHUNK_BYTES) {
      result.pieces.push(piece);
      result.kept += size;
    }
    if (typeof body["content_type"] === "string") result.contentType = body["content_type"];
    const done = body["more"] === false;
    if (row?.kind === "chunks") {
      this.chunks = { ...row, count: row.count + 1, done };
      this.#replace(this.chunks);
    } else {
      const index = this.#push({ ...of(event), kind: "chunks", result, count: 1, done });
      const first = this.at(index);
      if (first?.kind === "chunks") this.chunks = first;
      this.#chunks.set(id, index);
    }
  }

  #status(event: JobEvent, body: Record<string, unknown>): void {
    const { phase, question_id: question } = body;
    if (phase === "input_required" && typeof question === "string") {
      this.#questions.set(question, this.#push({ ...of(event), kind: "question", event, outcome: undefined }));
      return;
    }
    const asked = typeof question === "string" ? this.#questions.get(question) : undefined;
    const row = asked === undefined ? undefined : this.at(asked);
    if (row?.kind === "question") {
      this.#questions.delete(String(question));
      this.#replace({ ...row, outcome: event });
      return;
    }
    this.status = event;
    this.#push({ ...of(event), kind: "plain", event });
  }

  #metric({ name, value, unit }: Record<string, unknown>): void {
    if (name !== "cost.budget.remaining" || typeof value !== "number" || typeof unit !== "string") return;
    const known = this.budgets.get(unit);
    this.budgets.set(unit, { currency: unit, total: Math.max(known?.total ?? 0, value), remaining: value });
  }
}

const of = (event: JobEvent) => ({ seq: event.seq, ts: event.ts });

/** The text of a result's pieces; bytes that are none of text are told by their number. */
export function textOfResult(result: ChunkedResult): string {
  const whole = joinPieces(result.pieces);
  const text = typeof whole === "string" ? whole : `${whole.byteLength} bytes that are no text`;
  return result.kept < result.size ? `${text}\n… cut: ${result.size - result.kept} more` : text;
}

const NEWEST_PIECES = 8;
const NEWEST_CHARS = 4_000;

/** The end of a result that still comes: cheap, however much there is. */
export function newestOf(result: ChunkedResult): string {
  const whole = joinPieces(result.pieces.slice(-NEWEST_PIECES));
  const isCut = result.pieces.length > NEWEST_PIECES;
  const text = typeof whole === "string" ? whole : `${whole.byteLength} bytes that are no text`;
  return isCut || text.length > NEWEST_CHARS ? `… ${text.slice(-NEWEST_CHARS)}` : text;
}
