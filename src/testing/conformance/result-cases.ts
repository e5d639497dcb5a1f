/** JOB-20 to JOB-22: results in pieces, and jobs of others. An agent `spool` streams what it is asked for. */
import { bodyOf, codeOf, type Peer, type Received, record } from "./peer.ts";
import { type ConformanceCase, checkStream } from "./stage.ts";
import { check } from "./verdict.ts";

const MOST_CHUNK_BYTES = 64 * 1024;

/** What `spool` streams. */
const spooled = (lines: number, chars: number): string =>
  Array.from({ length: lines }, (_, index) => `${index} ${"ž".repeat(chars)}\n`).join("");

/** A result's chunks, checked one by one and put together. */
function joined(chunks: readonly Received[], resultId: unknown, encoding: "utf8" | "base64"): Buffer {
  const whole = chunks.map((chunk, index) => {
    const body = bodyOf(chunk);
    check(body["result_id"] === resultId, `result_id ${resultId} in each chunk`, chunk);
    check(body["chunk_seq"] === index, `chunk_seq ${index} next`, chunk);
    check(body["more"] === index < chunks.length - 1, "`more` false in the last chunk alone", chunk);
    check(body["encoding"] === encoding, `encoding "${encoding}"`, chunk);
    const data = Buffer.from(String(body["data"]), encoding);
    check(data.length <= MOST_CHUNK_BYTES, `chunks of at most ${MOST_CHUNK_BYTES} bytes`, `${data.length} bytes`);
    check(!data.toString().includes("\ufffd") || encoding === "base64", "no chunk to end within a character", chunk);
    return data;
  });
  return Buffer.concat(whole);
}

const inPieces: ConformanceCase = {
  rule: "JOB-20",
  title: "a streamed result comes in chunks, in order, and the job's end names it with size and summary",
  agents: ["spool"],
  async run(stage) {
    stage.needsFeatures("result_chunk");
    const peer = await stage.connect();
    for (const [binary, chars] of [
      [false, 10],
      [false, 50_000],
      [true, 50_001],
    ] as const) {
      const jobId = await peer.start("spool", { lines: 3, chars, binary });
      const end = await peer.terminal(jobId);
      const chunks = peer.events(jobId, "result_chunk");
      const { type, payload } = end.envelope;
      check(type === "job.result" && payload["final_status"] === "success", "job.result of a streamed result", end);
      check(chunks.length > 0, "result_chunk events", end);
      const whole = joined(chunks, payload["result_id"], binary ? "base64" : "utf8");
      const same = whole.toString() === spooled(3, chars);
      check(same, "the result that spool wrote, put together", `${whole.length} bytes that differ`);
      check(payload["result_size"] === whole.length, `result_size ${whole.length}`, end);
      check(payload["summary"] === "3 lines", 'the agent\'s summary, "3 lines"', end);
    }
    checkStream(peer);
  },
};

const oneResult: ConformanceCase = {
  rule: "JOB-21",
  title: "a job has one result: named where it came in chunks, inline otherwise, never both",
  agents: ["spool"],
  async run(stage) {
    stage.needsFeatures("result_chunk", "subscribe");
    const [peer, narrow] = [await stage.connect(), await stage.connect({ features: ["subscribe"] })];
    const jobId = await peer.start("spool", { lines: 40, chars: 3 });
    const end = await peer.terminal(jobId);
    const has = (received: Received, field: string) => field in received.envelope.payload;
    check(has(end, "result_id") && !has(end, "result"), "`result_id` and no `result` for what came in chunks", end);
    await narrow.ask("job.subscribe", { job_id: jobId, history: true });
    const inline = await narrow.terminal(jobId);
    check(!has(inline, "result_id"), "no `result_id` in a session without result_chunk", inline);
    check(inline.envelope.payload["result"] === spooled(40, 3), "the whole result inline there", inline);
    const [chunk] = narrow.events(jobId, "result_chunk");
    check(chunk === undefined, "no chunk in a session without result_chunk", chunk);
    const plain = await peer.terminal(await peer.start("echo", null));
    check(has(plain, "result") && !has(plain, "result_id"), "`result`, null too, and no `result_id`", plain);
  },
};

/** What one session is told of a job, in its three ways. */
async function seen(peer: Peer, jobId: string): Promise<{ listed: boolean; subscribe: Received; cancel: Received }> {
  const { jobs } = (await peer.ask("session.list_jobs", { limit: 1_000 })).envelope.payload;
  const listed = Array.isArray(jobs) && jobs.some((job) => record(job)["job_id"] === jobId);
  const subscribe = await peer.ask("job.subscribe", { job_id: jobId });
  return { listed, subscribe, cancel: await peer.ask("job.cancel", {}, { job_id: jobId }) };
}

const ofOthers: ConformanceCase = {
  rule: "JOB-22",
  title: "lists and subscribes say the same of another principal's job, and cancelling stays with the submitter",
  async run(stage) {
    stage.needsFeatures("list_jobs", "subscribe");
    const token = stage.otherToken();
    const owner = await stage.connect();
    const jobId = await owner.start("ticker", { n: 2, every_ms: 3_600_000 });
    const { listed, subscribe, cancel } = await seen(await stage.connect({ token }), jobId);
    if (listed) {
      const either = subscribe.envelope.type === "job.subscribed" || codeOf(subscribe) === "PERMISSION_DENIED";
      check(either, "a job that is listed to be observable, or PERMISSION_DENIED", subscribe);
      check(codeOf(cancel) === "PERMISSION_DENIED", "PERMISSION_DENIED for a cancel of another's job", cancel);
    } else {
      check(codeOf(subscribe) === "JOB_NOT_FOUND", "JOB_NOT_FOUND for a job that is not listed", subscribe);
      check(codeOf(cancel) === "JOB_NOT_FOUND", "JOB_NOT_FOUND for a cancel of a job that is not listed", cancel);
    }
    await owner.fence();
    check(owner.terminals(jobId).length === 0, "another principal to end nothing", owner.terminals(jobId)[0]);
  },
};

export const RESULT_CASES: readonly ConformanceCase[] = [inPieces, oneResult, ofOthers];
