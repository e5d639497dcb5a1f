/** JOB: submit, follow, cancel, list. */
import { checkEventBody, newMessageId } from "../../protocol/index.ts";
import { codeOf, detailsOf, logged, type Peer, type Received, type Request, record } from "./peer.ts";
import { checkBurst } from "./resume-cases.ts";
import { type ConformanceCase, checkStream, type Stage } from "./stage.ts";
import { check } from "./verdict.ts";

const content = (list: readonly Received[]): string[] => list.map(({ envelope }) => JSON.stringify(envelope.payload));

/** Fails unless a request was refused in that way: a rejection is no event, so it carries no number. */
function checkRejection(answer: Received, type: "job.error" | "session.error", code: string, what: string): void {
  check(answer.envelope.type === type && codeOf(answer) === code, `${type} ${code} for ${what}`, answer);
  check(answer.envelope.event_seq === undefined, `no event_seq on the answer to ${what}`, answer);
}

function checkEnd(end: Received, code: string, finalStatus: string, what: string): void {
  const { type, payload } = end.envelope;
  check(
    type === "job.error" && codeOf(end) === code && payload["final_status"] === finalStatus,
    `job.error ${code} with final_status "${finalStatus}" for ${what}`,
    end,
  );
}

/** Once a later job has ended, whatever an earlier one had yet to say has been said. */
async function settle(peer: Peer): Promise<void> {
  await peer.terminal(await peer.start("echo", "settle"));
  await peer.fence();
}

/** What the runtime takes for the time of day. */
async function runtimeNow(peer: Peer): Promise<number> {
  const accepted = await peer.submit("echo", "now");
  const at = Date.parse(String(accepted.envelope.payload["accepted_at"]));
  check(Number.isFinite(at), "`accepted_at` as ISO 8601 in job.accepted", accepted);
  return at;
}

const cancel = (peer: Peer, jobId: string): Promise<Received> => peer.ask("job.cancel", {}, { job_id: jobId });

/** Cancels a job and waits for its end. */
async function stop(peer: Peer, jobId: string): Promise<void> {
  await cancel(peer, jobId);
  await peer.terminal(jobId);
}

const ends: ConformanceCase = {
  rule: "JOB-1",
  title: "a job ends as success, error or cancelled, with one terminal message in its session",
  async run(stage) {
    const peer = await stage.connect();
    const input = { nested: [1, "two", null, { three: true }] };
    const good = await peer.start("echo", input);
    const bad = await peer.start("burst", { n: "many" });
    const long = await peer.start("ticker", { n: 1_000, every_ms: 20 });
    await peer.ask("job.cancel", { reason: "enough" }, { job_id: long });
    const result = await peer.terminal(good);
    const { type, payload } = result.envelope;
    check(
      type === "job.result" && payload["final_status"] === "success",
      'job.result with final_status "success"',
      result,
    );
    check(JSON.stringify(payload["result"]) === JSON.stringify(input), "echo's input as its result", result);
    const error = await peer.terminal(bad);
    check(
      error.envelope.type === "job.error" && error.envelope.payload["final_status"] === "error",
      'job.error with final_status "error" for a burst with bad input',
      error,
    );
    checkEnd(await peer.terminal(long), "CANCELLED", "cancelled", "a job that was cancelled");
    await settle(peer);
    for (const jobId of [good, bad, long]) {
      const all = peer.terminals(jobId);
      check(all.length === 1, "exactly one terminal message for each job", all[1]);
      const last = peer.of(jobId).at(-1);
      check(last === all[0], "no event of a job after its terminal message", last);
    }
    checkStream(peer);
  },
};

const endsForAll: ConformanceCase = {
  rule: "JOB-1",
  title: "every session that follows a job gets its terminal message once",
  async run(stage) {
    stage.needsFeatures("subscribe");
    const [owner, follower] = [await stage.connect(), await stage.connect()];
    const jobId = await owner.start("burst", { n: 20, bytes: 10, delay_ms: 100 });
    await follower.ask("job.subscribe", { job_id: jobId });
    for (const peer of [owner, follower]) {
      await peer.terminal(jobId);
      await settle(peer);
      check(peer.terminals(jobId).length === 1, "exactly one terminal message", peer.terminals(jobId)[1]);
      checkStream(peer);
    }
  },
};

const answersInOrder: ConformanceCase = {
  rule: "JOB-2",
  title: "replies leave in the order of their requests, and no event of a job before its accepted",
  async run(stage) {
    const peer = await stage.connect();
    const requests: Request[] = [];
    for (let round = 0; round < 8; round += 1) {
      requests.push(
        peer.prepare("job.submit", { agent: "burst", input: { n: 5, bytes: 10 } }),
        peer.prepare("job.submit", { agent: "conformance-no-such-agent", input: round }),
        peer.prepare("job.submit", { agent: "echo", input: round }),
      );
      if (peer.features.includes("list_jobs")) requests.push(peer.prepare("session.list_jobs", { limit: 3 }));
    }
    peer.post(...requests);
    let before = -1;
    for (const request of requests) {
      const answer = await peer.answerTo(request);
      check(answer.index > before, `the answer to ${request.type} ${request.id} after those before it`, answer);
      before = answer.index;
    }
    for (const request of requests) {
      const { envelope, index } = await peer.answerTo(request);
      if (envelope.type !== "job.accepted") continue;
      await peer.terminal(envelope.job_id ?? "");
      const early = peer.of(envelope.job_id ?? "").find((event) => event.index < index);
      check(early === undefined, "no event of a job before its job.accepted", early);
    }
    checkStream(peer);
  },
};

const subscribedFirst: ConformanceCase = {
  rule: "JOB-2",
  title: "no event of a job leaves before its subscribed",
  async run(stage) {
    stage.needsFeatures("subscribe");
    const owner = await stage.connect();
    const jobs: string[] = [];
    for (let round = 0; round < 5; round += 1) jobs.push(await owner.start("burst", { n: 30, bytes: 10 }));
    const follower = await stage.connect();
    const requests = jobs.map((jobId) => follower.prepare("job.subscribe", { job_id: jobId, history: true }));
    follower.post(...requests);
    for (const [index, request] of requests.entries()) {
      const answer = await follower.answerTo(request);
      const jobId = jobs[index] ?? "";
      await follower.terminal(jobId);
      const early = follower.of(jobId).find((event) => event.index < answer.index);
      check(early === undefined, "no event of a job before its job.subscribed", early);
    }
    checkStream(follower);
  },
};

const rejections: ConformanceCase = {
  rule: "JOB-3",
  title: "a rejected submit is job.error with a fresh job_id and without event_seq, for every code",
  async run(stage) {
    const peer = await stage.connect();
    const past = { lease_constraints: { expires_at: "2001-01-01T00:00:00Z" } };
    const submits: [agent: string, rest: object, what: string][] = [
      ["conformance-no-such-agent", {}, "a submit to an unknown agent"],
      ["echo", { max_runtime_sec: -1 }, "a submit with a bad max_runtime_sec"],
      ["echo", { lease_request: { "no such capability": [] } }, "a submit with an unknown capability"],
      ...(peer.features.includes("lease_expires_at")
        ? [["echo", past, "a submit whose lease is over"] as [string, object, string]]
        : []),
    ];
    const ids = new Set<unknown>();
    for (const [agent, rest, what] of submits) {
      const answer = await peer.submit(agent, 1, rest);
      const { type, event_seq: seq, job_id: jobId, payload } = answer.envelope;
      check(type === "job.error", `job.error for ${what}`, answer);
      check(
        seq === undefined && !("event_seq" in record(JSON.parse(answer.frame))),
        `no event_seq for ${what}`,
        answer,
      );
      check(typeof jobId === "string" && jobId !== "" && !ids.has(jobId), `a fresh job_id for ${what}`, answer);
      check(payload["final_status"] === "error", `final_status "error" for ${what}`, answer);
      ids.add(jobId);
    }
  },
};

const agents: ConformanceCase = {
  rule: "JOB-4",
  title: "an unknown agent is AGENT_NOT_AVAILABLE, an unknown version AGENT_VERSION_NOT_AVAILABLE",
  async run(stage) {
    const peer = await stage.connect();
    const check4 = (answer: Received, code: string, what: string) =>
      check(codeOf(answer) === code, `${code} for ${what}`, answer);
    check4(await peer.submit("conformance-no-such-agent", 1), "AGENT_NOT_AVAILABLE", "an unknown agent");
    if (!peer.features.includes("agent_versions")) return;
    check4(await peer.submit("echo@0.0.0-none", 1), "AGENT_VERSION_NOT_AVAILABLE", "an unknown version of echo");
    check4(await peer.submit("conformance-none@1", 1), "AGENT_NOT_AVAILABLE", "a version of an unknown agent");
  },
};

const sameKey: ConformanceCase = {
  rule: "JOB-5",
  title: "the same idempotency key gives the same accepted, and the job runs once, in whichever session",
  async run(stage) {
    const [one, two] = [await stage.connect(), await stage.connect()];
    // Still running at the third submit: after its end that one would be a follow of its own, and replay it.
    const parameters = { agent: "burst", input: { n: 5, bytes: 20, delay_ms: 300 }, idempotency_key: newMessageId() };
    const requests = [one, two].map((peer) => ({ peer, request: peer.prepare("job.submit", parameters) }));
    for (const { peer, request } of requests) peer.post(request);
    const answers = await Promise.all(requests.map(({ peer, request }) => peer.answerTo(request)));
    const again = await one.ask("job.submit", parameters);
    for (const answer of [...answers, again]) {
      check(answer.envelope.type === "job.accepted", "job.accepted for each submit of one key", answer);
      const expected = JSON.stringify(answers[0]?.envelope.payload);
      check(JSON.stringify(answer.envelope.payload) === expected, `the same payload each time: ${expected}`, answer);
    }
    const jobId = again.envelope.job_id ?? "";
    for (const peer of [one, two]) {
      await peer.terminal(jobId);
      await settle(peer);
      // A second run would have a terminal message of its own, under whichever job.
      check(peer.jobs.size === 2, "one job for the key", `jobs ${[...peer.jobs].join(", ")}`);
      check(peer.terminals(jobId).length === 1, "one terminal message", peer.terminals(jobId)[1]);
      check(peer.of(jobId).length === 6, "5 events and a result in each session", `${peer.of(jobId).length} messages`);
      checkStream(peer);
    }
  },
};

const otherParameters: ConformanceCase = {
  rule: "JOB-5",
  title: "other parameters under a used key are DUPLICATE_KEY",
  async run(stage) {
    const [one, two] = [await stage.connect(), await stage.connect()];
    const key = { idempotency_key: newMessageId() };
    await one.start("echo", { a: 1, b: 2 }, key);
    const reordered = await two.submit("echo", { b: 2, a: 1 }, key);
    check(
      reordered.envelope.type === "job.accepted",
      "the order of an object's fields to make no difference",
      reordered,
    );
    const answer = await two.submit("echo", { a: 1, b: 3 }, key);
    check(codeOf(answer) === "DUPLICATE_KEY", "DUPLICATE_KEY for other parameters under a used key", answer);
  },
};

const cancels: ConformanceCase = {
  rule: "JOB-6",
  title: "a cancel is answered by job.cancelled, and job.error CANCELLED follows",
  async run(stage) {
    const peer = await stage.connect();
    const jobId = await peer.start("ticker", { n: 100, every_ms: 3_600_000 });
    await peer.reaches(1);
    const answer = await peer.ask("job.cancel", { reason: "enough" }, { job_id: jobId });
    check(answer.envelope.type === "job.cancelled", "job.cancelled for a cancel by the submitter", answer);
    check(answer.envelope.event_seq === undefined, "no event_seq on job.cancelled", answer);
    const end = await peer.terminal(jobId);
    checkEnd(end, "CANCELLED", "cancelled", "a job that was cancelled");
    check(end.index > answer.index, "job.cancelled before the job's end", end);
  },
};

const cancelsBurst: ConformanceCase = {
  rule: "JOB-6",
  title: "a cancel is heard in the middle of a burst",
  async run(stage) {
    const n = stage.behind * 10;
    const peer = await stage.connect();
    const jobId = await peer.start("burst", { n, bytes: 50 });
    await peer.reaches(50);
    const answer = await cancel(peer, jobId);
    check(answer.envelope.type === "job.cancelled", "job.cancelled in the middle of a burst", answer);
    checkEnd(
      await peer.terminal(jobId),
      "CANCELLED",
      "cancelled",
      `a burst of ${n} that was cancelled near its beginning`,
    );
    checkStream(peer);
  },
};

const whoMayCancel: ConformanceCase = {
  rule: "JOB-7",
  title: "only the submitting session may cancel; an unknown job is JOB_NOT_FOUND",
  async run(stage) {
    const [owner, other] = [await stage.connect(), await stage.connect()];
    const jobId = await owner.start("ticker", { n: 1_000, every_ms: 20 });
    if (other.features.includes("subscribe")) await other.ask("job.subscribe", { job_id: jobId });
    checkRejection(
      await cancel(other, jobId),
      "job.error",
      "PERMISSION_DENIED",
      "a cancel by a session that merely follows",
    );
    checkRejection(await cancel(owner, "job_conformance"), "job.error", "JOB_NOT_FOUND", "a cancel of an unknown job");
    check(owner.terminals(jobId).length === 0, "a refused cancel to leave the job alone", owner.terminals(jobId)[0]);
    const answer = await owner.ask("job.cancel", { job_id: jobId });
    check(
      answer.envelope.type === "job.cancelled",
      "job.cancelled for a cancel that names its job in the payload",
      answer,
    );
    await owner.terminal(jobId);
  },
};

const maxRuntime: ConformanceCase = {
  rule: "JOB-8",
  title: "a job that runs longer than max_runtime_sec ends with TIMEOUT, status timed_out",
  async run(stage) {
    const peer = await stage.connect();
    const jobId = await peer.start("ticker", { n: 10_000, every_ms: 20 }, { max_runtime_sec: 0.3 });
    checkEnd(await peer.terminal(jobId), "TIMEOUT", "timed_out", "a job with max_runtime_sec 0.3");
    check(peer.of(jobId).length > 1, "the job to run until then", peer.terminals(jobId)[0]);
  },
};

const leaseEnds: ConformanceCase = {
  rule: "JOB-9",
  title: "a lease that expires ends its job with LEASE_EXPIRED; one in the past is refused",
  async run(stage) {
    stage.needsFeatures("lease_expires_at");
    const peer = await stage.connect();
    const now = await runtimeNow(peer);
    const until = (ms: number) => ({ lease_constraints: { expires_at: new Date(now + ms).toISOString() } });
    const past = await peer.submit("echo", 1, until(-1_000));
    check(codeOf(past) === "INVALID_REQUEST", "INVALID_REQUEST for a lease that is over at submit", past);
    check(/\bexpires_at\b/.test(String(past.envelope.payload["message"])), "the message to name expires_at", past);
    const jobId = await peer.start("ticker", { n: 10_000, every_ms: 20 }, until(700));
    const end = await peer.terminal(jobId);
    checkEnd(end, "LEASE_EXPIRED", "error", "a job whose lease expires after 0.7 s");
    check(end.envelope.payload["retryable"] === false, "LEASE_EXPIRED not to be retryable", end);
  },
};

const leasePolicy: ConformanceCase = {
  rule: "JOB-9",
  title: "a lease request outside the policy is PERMISSION_DENIED and names the capability",
  async run(stage) {
    const peer = await stage.connect();
    const answer = await peer.submit("echo", 1, { lease_request: { "fs.write": ["/**"] } });
    check(codeOf(answer) === "PERMISSION_DENIED", "PERMISSION_DENIED for a lease to write every file", answer);
    const named = String(answer.envelope.payload["message"]).includes("fs.write");
    check(named, "the message to name the capability, fs.write", answer);
  },
};

interface Listed {
  id: string;
  raw: Record<string, unknown>;
}

interface Page {
  jobs: Listed[];
  cursor: string | undefined;
  received: Received;
}

async function list(peer: Peer, request: object): Promise<Page> {
  const received = await peer.ask("session.list_jobs", request);
  const { jobs, next_cursor: cursor } = received.envelope.payload;
  check(received.envelope.type === "session.jobs" && Array.isArray(jobs), "session.jobs with `jobs`", received);
  const listed = jobs.map((job) => ({ id: String(record(job)["job_id"]), raw: record(job) }));
  return { jobs: listed, cursor: typeof cursor === "string" ? cursor : undefined, received };
}

const lists: ConformanceCase = {
  rule: "JOB-10",
  title: "a list holds the principal's jobs, newest first, with last_event_seq, by filter",
  async run(stage) {
    stage.needsFeatures("list_jobs");
    const peer = await stage.connect();
    const ended = await peer.start("burst", { n: 3, bytes: 10 });
    await peer.terminal(ended);
    const running = await peer.start("ticker", { n: 100, every_ms: 3_600_000 });
    await peer.reaches(5);
    const all = await list(peer, { limit: 1_000 });
    const place = (page: Page, jobId: string) => page.jobs.findIndex(({ id }) => id === jobId);
    check(place(all, ended) >= 0 && place(all, running) >= 0, "both jobs in the list", all.received);
    check(place(all, running) < place(all, ended), "the newer job before the older one", all.received);
    const { raw } = all.jobs[place(all, ended)] as Listed;
    check(raw["status"] === "success", 'status "success" of the job that ended', raw);
    check(raw["last_event_seq"] === 4, "last_event_seq 4, the number of its newest event here", raw);
    check(String(raw["agent"]).startsWith("burst"), "the agent's name", raw);
    check(Number.isFinite(Date.parse(String(raw["created_at"]))), "`created_at` as ISO 8601", raw);
    const filters: [filter: object, has: string, lacks: string][] = [
      [{ status: ["running"] }, running, ended],
      [{ status: ["success", "error"] }, ended, running],
      [{ agent: "ticker" }, running, ended],
    ];
    for (const [filter, has, lacks] of filters) {
      const page = await list(peer, { filter, limit: 1_000 });
      check(
        place(page, has) >= 0 && place(page, lacks) < 0,
        `${has} and not ${lacks} with the filter ${JSON.stringify(filter)}`,
        page.received,
      );
    }
    const none = await list(peer, { filter: { created_before: "2001-01-01T00:00:00Z" } });
    check(none.jobs.length === 0, "no job from before 2001", none.received);
    await stop(peer, running);
  },
};

/** Other cases of this run submit jobs too, so that ours are a few pages down. */
const MAX_PAGES = 400;

const pages: ConformanceCase = {
  rule: "JOB-10",
  title: "pages with a cursor hold every job once",
  async run(stage) {
    stage.needsFeatures("list_jobs");
    const peer = await stage.connect();
    const own: string[] = [];
    for (let index = 0; index < 5; index += 1) own.unshift(await peer.start("echo", index));
    const seen: string[] = [];
    let cursor: string | undefined;
    for (let count = 0; count < MAX_PAGES; count += 1) {
      const page = await list(peer, { limit: 2, ...(cursor === undefined ? {} : { cursor }) });
      check(page.jobs.length <= 2, "two jobs on a page at most", page.received);
      for (const { id } of page.jobs) {
        check(!seen.includes(id), `${id} on one page only`, page.received);
        seen.push(id);
      }
      if (page.cursor === undefined || own.every((id) => seen.includes(id))) break;
      cursor = page.cursor;
    }
    const found = seen.filter((id) => own.includes(id));
    check(
      found.join() === own.join(),
      `the five jobs over the pages, newest first: ${own.join(", ")}`,
      found.join(", "),
    );
  },
};

interface Ticking {
  owner: Peer;
  jobId: string;
  /** Connections that were open before the job began: opening one may take longer than the job. */
  others: Peer[];
}

/** A ticker of which its owner has seen the first ticks, and others of the same principal. */
async function tickingFor(stage: Stage, ticks: number, others: number): Promise<Ticking> {
  stage.needsFeatures("subscribe");
  const [owner, ...rest] = await Promise.all(Array.from({ length: 1 + others }, () => stage.connect()));
  if (owner === undefined) throw new Error("no connection was opened");
  const jobId = await owner.start("ticker", { n: 24, every_ms: 30 });
  await owner.reaches(ticks);
  return { owner, jobId, others: rest };
}

const history: ConformanceCase = {
  rule: "JOB-11",
  title: "with history a subscription starts at the first event, or at from_event_seq",
  async run(stage) {
    const { owner, jobId, others } = await tickingFor(stage, 5, 3);
    const requests: readonly [request: object, skipped: number][] = [
      [{}, 0],
      [{ from_event_seq: 1 }, 0],
      [{ from_event_seq: 3 }, 2],
    ];
    const followers: [Peer, skipped: number][] = [];
    for (const [index, peer] of others.entries()) {
      const [request, skipped] = requests[index] ?? [{}, 0];
      const answer = await peer.ask("job.subscribe", { job_id: jobId, history: true, ...request });
      check(answer.envelope.type === "job.subscribed", "job.subscribed for a job of the same principal", answer);
      check(answer.envelope.payload["replayed"] === true, "`replayed` true for a subscribe with history", answer);
      const from = answer.envelope.payload["subscribed_from"];
      check(from === skipped + 1, `\`subscribed_from\` ${skipped + 1} for ${JSON.stringify(request)}`, answer);
      followers.push([peer, skipped]);
    }
    await owner.terminal(jobId);
    const whole = content(owner.of(jobId));
    for (const [peer, skipped] of followers) {
      await peer.terminal(jobId);
      checkSame(content(peer.of(jobId)), whole.slice(skipped), "the owner's messages from there on");
      checkStream(peer);
    }
  },
};

function checkSame(got: readonly string[], expected: readonly string[], what: string): void {
  const difference = expected.findIndex((one, index) => one !== got[index]);
  check(difference === -1, `${what}: ${expected[difference]} as number ${difference + 1}`, got[difference]);
  check(got.length === expected.length, `${what}, ${expected.length} of them`, `${got.length}`);
}

const endedJob: ConformanceCase = {
  rule: "JOB-11",
  title: "a job that has ended is replayed to its terminal message",
  async run(stage) {
    stage.needsFeatures("subscribe");
    const owner = await stage.connect();
    const jobId = await owner.start("burst", { n: 40, bytes: 20 });
    await owner.terminal(jobId);
    owner.close();
    const peer = await stage.connect();
    const answer = await peer.ask("job.subscribe", { job_id: jobId, history: true });
    check(answer.envelope.type === "job.subscribed", "job.subscribed for a job that has just ended", answer);
    check(answer.envelope.payload["current_status"] === "success", '`current_status` "success"', answer);
    await peer.terminal(jobId);
    checkSame(content(peer.of(jobId)), content(owner.of(jobId)), "the messages that its owner got");
    checkStream(peer);
  },
};

const fromNewest: ConformanceCase = {
  rule: "JOB-11",
  title: "without history a subscription starts at the newest event, and survives a drop",
  async run(stage) {
    const { owner, jobId, others } = await tickingFor(stage, 6, 1);
    const [peer] = others as [Peer];
    const answer = await peer.ask("job.subscribe", { job_id: jobId });
    check(answer.envelope.type === "job.subscribed", "job.subscribed for a job of the same principal", answer);
    await peer.reaches(3);
    const first = peer.of(jobId)[0];
    const tick = Number(/^tick (\d+)$/.exec(String(first === undefined ? "" : logged(first)))?.[1]);
    check(tick >= 6, "an event from after the subscription first, no earlier one than tick 6", first);
    peer.cut();
    const back = await stage.resume(peer);
    await back.terminal(jobId);
    checkStream(peer, back);
    await owner.terminal(jobId);
    const seqs = new Map([...peer.of(jobId), ...back.of(jobId)].map((one) => [one.envelope.event_seq, one]));
    checkSame(
      content([...seqs.values()]),
      content(owner.of(jobId)).slice(tick),
      `the owner's messages from tick ${tick} on`,
    );
  },
};

const oneFollow: ConformanceCase = {
  rule: "JOB-12",
  title: "a second follow of a job changes nothing while the first one lives",
  async run(stage) {
    const { owner, jobId } = await tickingFor(stage, 3, 0);
    for (const request of [{ history: true }, {}, { history: true, from_event_seq: 1 }]) {
      const answer = await owner.ask("job.subscribe", { job_id: jobId, ...request });
      check(answer.envelope.type === "job.subscribed", "job.subscribed for one's own job", answer);
    }
    await owner.terminal(jobId);
    await settle(owner);
    const ticks = owner.of(jobId).slice(0, -1).map(logged);
    const wrong = ticks.findIndex((tick, index) => tick !== `tick ${index}`);
    check(wrong === -1, `tick ${wrong} next: each event once, whoever subscribes again`, owner.of(jobId)[wrong]);
    check(owner.terminals(jobId).length === 1, "one terminal message", owner.terminals(jobId)[1]);
  },
};

const unsubscribes: ConformanceCase = {
  rule: "JOB-12",
  title: "an unsubscribe ends the follow, and a later one starts anew",
  async run(stage) {
    const { jobId, others } = await tickingFor(stage, 1, 1);
    const [peer] = others as [Peer];
    await peer.ask("job.subscribe", { job_id: jobId, history: true });
    await peer.reaches(3);
    peer.tell("job.unsubscribe", { job_id: jobId });
    await peer.fence();
    const seen = peer.of(jobId).length;
    await stage.pause(100);
    await peer.fence();
    check(peer.of(jobId).length === seen, "no event of a job after its unsubscribe", peer.of(jobId)[seen]);
    await peer.ask("job.subscribe", { job_id: jobId, history: true });
    await peer.terminal(jobId);
    check(
      peer.of(jobId)[seen] !== undefined && logged(peer.of(jobId)[seen] as Received) === "tick 0",
      "a new follow with history to start at tick 0",
      peer.of(jobId)[seen],
    );
    checkStream(peer);
  },
};

const refusedSubscribe: ConformanceCase = {
  rule: "JOB-13",
  title: "a refused subscribe is session.error",
  async run(stage) {
    stage.needsFeatures("subscribe");
    const peer = await stage.connect();
    const answer = await peer.ask("job.subscribe", { job_id: "job_conformance" });
    checkRejection(answer, "session.error", "JOB_NOT_FOUND", "a subscribe to an unknown job");
  },
};

const othersJobs: ConformanceCase = {
  rule: "JOB-13",
  title: "another principal's job is JOB_NOT_FOUND and is not listed",
  async run(stage) {
    const token = stage.otherToken();
    const owner = await stage.connect();
    const jobId = await owner.start("ticker", { n: 100, every_ms: 3_600_000 });
    const stranger = await stage.connect({ token });
    checkRejection(await cancel(stranger, jobId), "job.error", "JOB_NOT_FOUND", "a cancel of another principal's job");
    if (stranger.features.includes("subscribe")) {
      const answer = await stranger.ask("job.subscribe", { job_id: jobId, history: true });
      checkRejection(answer, "session.error", "JOB_NOT_FOUND", "a subscribe to another principal's job");
    }
    if (stranger.features.includes("list_jobs")) {
      const page = await list(stranger, { limit: 1_000 });
      const theirs = page.jobs.find(({ id }) => id === jobId);
      check(theirs === undefined, "another principal's job not to be listed", theirs?.raw);
    }
    const known = detailsOf(await cancel(stranger, "job_conformance"));
    const unknown = detailsOf(await cancel(stranger, jobId));
    check(
      JSON.stringify(known) === JSON.stringify(unknown),
      "the same answer for another principal's job as for none at all",
      `${JSON.stringify(unknown)} and ${JSON.stringify(known)}`,
    );
    await stop(owner, jobId);
  },
};

const bodies: ConformanceCase = {
  rule: "JOB-14",
  title: "every event has a kind, a time, and a body of that kind",
  async run(stage) {
    const peer = await stage.connect();
    for (const [agent, input] of [
      ["burst", { n: 5, bytes: 20 }],
      ["ticker", { n: 3, every_ms: 1 }],
    ] as const) {
      const jobId = await peer.start(agent, input);
      await peer.terminal(jobId);
      const events = peer.of(jobId).filter(({ envelope }) => envelope.type === "job.event");
      check(events.length > 0, `events of ${agent}`, peer.terminals(jobId)[0]);
      for (const event of events) {
        const { kind, ts, body } = event.envelope.payload;
        check(typeof kind === "string" && kind !== "", "`kind` on every event", event);
        check(Number.isFinite(Date.parse(String(ts))), "`ts` as ISO 8601 on every event", event);
        check(bodyProblem(kind, body) === undefined, `a body of its kind (${bodyProblem(kind, body)})`, event);
      }
    }
  },
};

function bodyProblem(kind: string, body: unknown): string | undefined {
  try {
    checkEventBody(kind, body);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const agentsError: ConformanceCase = {
  rule: "JOB-15",
  title: "an agent's own error is the job's error, as it is",
  async run(stage) {
    const peer = await stage.connect();
    const end = await peer.terminal(await peer.start("burst", { n: "many", bytes: 10 }));
    checkEnd(end, "INVALID_REQUEST", "error", 'a burst whose input is { n: "many" }');
    const message = String(end.envelope.payload["message"]);
    check(/\bn\b/.test(message), "the agent's message, which names the field n", end);
  },
};

/** Above what an input may take, and below what a frame may. */
const TOO_LONG = 1024 * 1024 + 1024;

const largeInput: ConformanceCase = {
  rule: "JOB-19",
  title: "an input of more than 1 MiB is INVALID_REQUEST with details.limit, and the session lives on",
  async run(stage) {
    const peer = await stage.connect();
    const answer = await peer.submit("echo", "x".repeat(TOO_LONG));
    check(codeOf(answer) === "INVALID_REQUEST", "INVALID_REQUEST for an input of more than 1 MiB", answer);
    check(typeof detailsOf(answer)["limit"] === "number", "details.limit", answer);
    await peer.checkAlive("an input that is too large");
  },
};

/** Together more than a network takes at once, so that the cut finds the runtime in mid-write. */
const CUT_MESSAGES = 4_000;

const socketError: ConformanceCase = {
  rule: "JOB-18",
  title: "a connection that is torn in mid-write reaches no agent: the job goes on to its result",
  async run(stage) {
    const n = Math.min(CUT_MESSAGES, stage.behind);
    const first = await stage.connect();
    const jobId = await first.start("burst", { n, bytes: 1_024 });
    await first.reaches(10);
    first.stopReading();
    await stage.pause(50);
    first.cut();
    const second = await stage.resume(first);
    for (let seq = 500; seq < n; seq += 500) await second.reaches(seq);
    const end = await second.terminal(jobId);
    check(end.envelope.type === "job.result", "a result for a job whose connection was torn", end);
    checkBurst(jobId, n, first, second);
  },
};

export const JOB_CASES: readonly ConformanceCase[] = [
  ends,
  endsForAll,
  answersInOrder,
  subscribedFirst,
  rejections,
  agents,
  sameKey,
  otherParameters,
  cancels,
  cancelsBurst,
  whoMayCancel,
  maxRuntime,
  leaseEnds,
  leasePolicy,
  lists,
  pages,
  history,
  endedJob,
  fromNewest,
  oneFollow,
  unsubscribes,
  refusedSubscribe,
  othersJobs,
  bodies,
  agentsError,
  socketError,
  largeInput,
];
