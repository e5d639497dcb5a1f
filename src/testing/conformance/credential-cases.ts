/** CRD: credentials that are issued for one job, where the runtime has some to issue. */
import { FEATURES } from "../../protocol/index.ts";
import { CREDENTIALS, type Peer, type Received, record } from "./peer.ts";
import type { ConformanceCase, Stage } from "./stage.ts";
import { check } from "./verdict.ts";

const features = [CREDENTIALS];

/** A session that takes credentials. */
const taker = (stage: Stage): Promise<Peer> => stage.connect({ features: FEATURES });

const LONG = { n: 2, every_ms: 3_600_000 };

const issuedIn = ({ envelope }: Received): Record<string, unknown>[] => {
  const { credentials } = envelope.payload;
  return Array.isArray(credentials) ? credentials.map((one) => record(one)) : [];
};

/** A running job with its credentials, and the first one's value. */
async function provisioned(peer: Peer): Promise<{ accepted: Received; jobId: string; id: string; value: string }> {
  const accepted = await peer.submit("ticker", LONG);
  check(accepted.envelope.type === "job.accepted", "job.accepted for a submit of ticker", accepted);
  const [first] = issuedIn(accepted);
  check(first !== undefined, "`credentials` in the job.accepted of a session with the feature", "none");
  return { accepted, jobId: accepted.envelope.job_id ?? "", id: String(first["id"]), value: String(first["value"]) };
}

const onlyWithFeature: ConformanceCase = {
  rule: "CRD-1",
  title: "a session without the feature has nothing issued for its jobs",
  features,
  async run(stage) {
    const peer = await stage.connect();
    const accepted = await peer.submit("echo", 1);
    check(accepted.envelope.payload["credentials"] === undefined, "no `credentials` without the feature", accepted);
  },
};

const ofTheirOwn: ConformanceCase = {
  rule: "CRD-2",
  title: "job.accepted brings a job's credentials, and each job has its own",
  features,
  async run(stage) {
    const peer = await taker(stage);
    const [one, two] = [await provisioned(peer), await provisioned(peer)];
    for (const { accepted } of [one, two]) {
      for (const credential of issuedIn(accepted)) {
        const { id, scheme, value, endpoint } = credential;
        const whole = [id, value, endpoint].every((text) => typeof text === "string" && text !== "");
        check(whole, "each credential with id, value and endpoint", Object.keys(credential));
        check(scheme === "bearer", 'each credential with scheme "bearer"', Object.keys(credential));
      }
    }
    check(one.value !== two.value, "another value for each job", "the same value twice");
  },
};

const nowhereElse: ConformanceCase = {
  rule: "CRD-7",
  title: "a value that comes back in a result or an event reads [credential <id>]",
  features,
  async run(stage) {
    const peer = await taker(stage);
    const { value, id } = await provisioned(peer);
    const end = await peer.terminal(await peer.start("echo", { said: `Bearer ${value}` }));
    check(!end.frame.includes(value), "no value of a credential in a result", "a result with the value");
    const said = record(end.envelope.payload["result"])["said"];
    check(said === `Bearer [credential ${id}]`, `[credential ${id}] where the value was`, end);
  },
};

const toWhom: ConformanceCase = {
  rule: "CRD-8",
  title: "job.subscribed brings values to the submitter's sessions with the feature, while the job runs",
  features,
  async run(stage) {
    stage.needsFeatures("subscribe");
    const peer = await taker(stage);
    const { jobId, value } = await provisioned(peer);
    const subscribed = async (follower: Peer) => {
      const answer = await follower.ask("job.subscribe", { job_id: jobId, history: true });
      check(answer.envelope.type === "job.subscribed", "job.subscribed for a job of the same principal", answer);
      return answer;
    };
    const plain = await subscribed(await stage.connect());
    check(!plain.frame.includes(value), "no value for a session without the feature", "a frame with the value");
    check(issuedIn(plain).length === 0, "no `credentials` for a session without the feature", plain);
    const [own] = issuedIn(await subscribed(await taker(stage)));
    check(
      own?.["value"] === value,
      "the value for another session of the submitter's principal",
      "another one, or none",
    );
    await peer.ask("job.cancel", {}, { job_id: jobId });
    await peer.terminal(jobId);
    const after = await subscribed(await taker(stage));
    check(!after.frame.includes(value) && issuedIn(after).length === 0, "none for a job that has ended", after);
  },
};

const toNoStranger: ConformanceCase = {
  rule: "CRD-8",
  title: "a list and another principal never see a value",
  features,
  async run(stage) {
    stage.needsFeatures("list_jobs");
    const peer = await taker(stage);
    const { jobId, value } = await provisioned(peer);
    const stranger = await stage.connect({ token: stage.otherToken(), features: FEATURES });
    for (const frame of [
      (await peer.ask("session.list_jobs", { limit: 1_000 })).frame,
      (await stranger.ask("session.list_jobs", { limit: 1_000 })).frame,
      (await stranger.ask("job.subscribe", { job_id: jobId, history: true })).frame,
    ]) {
      check(!frame.includes(value), "no value of a credential", "a frame with the value");
    }
  },
};

export const CREDENTIAL_CASES: readonly ConformanceCase[] = [
  onlyWithFeature,
  ofTheirOwn,
  nowhereElse,
  toWhom,
  toNoStranger,
];
