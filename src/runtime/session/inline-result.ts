import type { ResultPayload } from "../../protocol/index.ts";
import type { NewEvent } from "../../store/store.ts";

interface ChunkBody {
  data: string;
  encoding: "utf8" | "base64";
}

/**
 * The terminal payload for a session without `result_chunk`: the chunks put together, as text, or as
 * base64 where the agent sent bytes (SES-5). The same at every sending, since the chunks are.
 *
 * @param read pages of the job's log above an n, in order
 */
export async function inlineResult(
  payload: string,
  throughN: number,
  read: (afterN: number, throughN: number) => Promise<NewEvent[]>,
): Promise<string> {
  const { result_id, result_size, ...rest } = JSON.parse(payload) as ResultPayload;
  if (result_id === undefined) return payload;
  const chunks: ChunkBody[] = [];
  let afterN = 0;
  while (afterN < throughN) {
    const page = await read(afterN, throughN);
    for (const event of page) {
      if (event.kind !== "result_chunk") continue;
      chunks.push((JSON.parse(event.payload) as { body: ChunkBody }).body);
    }
    const last = page.at(-1);
    if (last === undefined) break;
    afterN = last.n;
  }
  // Text is joined as it is: a character may be cut in two between two chunks.
  const result = chunks.some(({ encoding }) => encoding === "base64")
    ? Buffer.concat(chunks.map(({ data, encoding }) => Buffer.from(data, encoding))).toString("base64")
    : chunks.map(({ data }) => data).join("");
  return JSON.stringify({ ...rest, result });
}
