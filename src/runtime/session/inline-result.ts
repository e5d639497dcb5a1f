import type { ResultPayload } from "../../protocol/index.ts";
import { type NewEvent, StoreRefusal } from "../../store/store.ts";

interface ChunkBody {
  data: string;
  encoding: "utf8" | "base64";
  content_type?: string;
}

/** A chunked result in one piece: text, or base64 where the agent sent bytes. */
export interface WholeResult {
  result: string;
  encoding: "utf8" | "base64";
  /** What the agent said that it is, with the first chunk. */
  contentType: string | undefined;
}

/** The log that the chunks lie in. */
export interface ChunkLog {
  /** Events up to this n are gone; the chunks of a result never are (STO-14). */
  floorN(): Promise<number>;
  /** Pages above an n, in order. */
  read(afterN: number, throughN: number): Promise<NewEvent[]>;
}

/** Puts the chunks together that lie in the log up to `throughN`. Holds the result in memory. */
export async function wholeResult(log: ChunkLog, throughN: number): Promise<WholeResult> {
  let floorN = await log.floorN();
  for (;;) {
    try {
      return joined(await chunksOf(log, floorN, throughN));
    } catch (error) {
      // The log may be shortened while we read it.
      const before = floorN;
      if (error instanceof StoreRefusal && error.reason === "below_floor") floorN = await log.floorN();
      if (floorN === before) throw error;
    }
  }
}

async function chunksOf(log: ChunkLog, afterN: number, throughN: number): Promise<ChunkBody[]> {
  const chunks: ChunkBody[] = [];
  let position = afterN;
  while (position < throughN) {
    const page = await log.read(position, throughN);
    for (const event of page) {
      if (event.kind !== "result_chunk") continue;
      chunks.push((JSON.parse(event.payload) as { body: ChunkBody }).body);
    }
    const last = page.at(-1);
    if (last === undefined) break;
    position = last.n;
  }
  return chunks;
}

function joined(chunks: readonly ChunkBody[]): WholeResult {
  const contentType = chunks[0]?.content_type;
  if (chunks.some(({ encoding }) => encoding === "base64")) {
    const bytes = Buffer.concat(chunks.map(({ data, encoding }) => Buffer.from(data, encoding)));
    return { result: bytes.toString("base64"), encoding: "base64", contentType };
  }
  // Text is joined as it is: a character may be cut in two between two chunks.
  return { result: chunks.map(({ data }) => data).join(""), encoding: "utf8", contentType };
}

/**
 * The terminal payload for a session without `result_chunk`: the chunks put together, as text, or as
 * base64 where the agent sent bytes, which `result_encoding` says then (SES-5). The same at every sending,
 * since the chunks are.
 */
export async function inlineResult(payload: string, throughN: number, log: ChunkLog): Promise<string> {
  const { result_id, result_size, ...rest } = JSON.parse(payload) as ResultPayload;
  if (result_id === undefined) return payload;
  const { result, encoding } = await wholeResult(log, throughN);
  return JSON.stringify({ ...rest, result, ...(encoding === "base64" ? { result_encoding: encoding } : {}) });
}
