/**
 * What one conformance case works with: connections to the runtime, what the runtime says of itself, the
 * clock. A stage belongs to one case; when that ends, its connections are closed and the jobs that it
 * left running are cancelled where a connection is there to say so.
 */
import { type Clock, sleep } from "../../clock.ts";
import { FEATURES } from "../../protocol/index.ts";
import { type HelloOptions, Peer, type Received, type ResumeFrom, record, type Wire } from "./peer.ts";
import { check, Skipped, Unmet } from "./verdict.ts";

/** One wire rule, or a part of one, as a black box sees it. */
export interface ConformanceCase {
  /** The rule's id in SPEC.md. */
  readonly rule: string;
  readonly title: string;
  /** Takes seconds by its nature, so it is started first. */
  readonly long?: boolean;
  /** Fills a limit of the principal's, floods, or restarts: run when all others are over, one at a time. */
  readonly alone?: boolean;
  /** Why the case cannot be run with these means, if so. Its rule is then told as not run. */
  lacks?(means: Means): string | undefined;
  /** Agents and features without which it cannot be run either. */
  readonly agents?: readonly string[];
  readonly features?: readonly string[];
  /**
   * Returns when the rule holds.
   *
   * @throws Unmet, Skipped
   */
  run(stage: Stage): Promise<void>;
}

/** What the first welcome told. */
export interface RuntimeFacts {
  readonly name: string;
  readonly version: string;
  readonly features: readonly string[];
  readonly agents: readonly string[];
  readonly heartbeatSec: number | undefined;
  readonly resumeWindowSec: number | undefined;
}

/** What only whoever runs the suite can bring: no message makes it. */
export interface Means {
  /** Stops the runtime and starts it again on the same store; resolves when it takes connections. */
  restart?: (() => Promise<void>) | undefined;
  /** A token that is good now and expires while the suite runs. */
  expiringToken?: string | undefined;
  /** How many connections may be open at a time. */
  maxConnections: number;
}

export interface StageOptions {
  open(): Promise<Wire>;
  means: Means;
  clock: Clock;
  token: string;
  otherToken: string | undefined;
  timeoutMs: number;
  /** How many events "far behind" is. */
  behind: number;
  facts: RuntimeFacts;
}

type ConnectOptions = Partial<HelloOptions> & { silent?: boolean };

export class Stage {
  readonly clock: Clock;
  readonly facts: RuntimeFacts;
  readonly behind: number;
  readonly timeoutMs: number;
  readonly token: string;
  readonly means: Means;
  readonly #options: StageOptions;
  readonly #peers: Peer[] = [];

  constructor(options: StageOptions) {
    this.#options = options;
    this.clock = options.clock;
    this.facts = options.facts;
    this.behind = options.behind;
    this.timeoutMs = options.timeoutMs;
    this.token = options.token;
    this.means = options.means;
  }

  /** A connection on which nothing was said yet. */
  async open(): Promise<Peer> {
    let wire: Wire;
    try {
      wire = await this.#options.open();
    } catch (error) {
      throw new Unmet("the runtime to take another connection", error instanceof Error ? error.message : String(error));
    }
    const peer = new Peer(wire, this.clock, this.timeoutMs);
    this.#peers.push(peer);
    return peer;
  }

  /** A connection that has said hello, and the answer: a welcome or a refusal. */
  async greet(options: ConnectOptions = {}): Promise<{ peer: Peer; answer: Received }> {
    const peer = await this.open();
    peer.silent = options.silent ?? false;
    return { peer, answer: await peer.hello({ token: this.token, ...options }) };
  }

  /** A connection that was welcomed. */
  async connect(options: ConnectOptions = {}): Promise<Peer> {
    const { peer, answer } = await this.greet(options);
    const what = options.resume === undefined ? "a hello" : `a resume from ${options.resume.seq}`;
    check(answer.envelope.type === "session.welcome", `session.welcome for ${what}`, answer);
    return peer;
  }

  /** Comes back to a peer's session, by default from the newest event that the peer has. */
  resume(peer: Peer, from: Partial<ResumeFrom> = {}, options: ConnectOptions = {}): Promise<Peer> {
    return this.connect({ ...options, resume: { ...peer.from(), ...from } });
  }

  /** A resume that is to be refused with `code`, after which the connection is closed. */
  async refused(resume: ResumeFrom, code: string, why: string, options: ConnectOptions = {}): Promise<Received> {
    const { peer, answer } = await this.greet({ ...options, resume });
    const { type, payload } = answer.envelope;
    check(type === "session.error" && payload["code"] === code, `session.error ${code} for ${why}`, answer);
    await peer.whenClosed(`after it refused ${why}`);
    return answer;
  }

  /** Lets time pass. */
  pause(ms: number): Promise<void> {
    return sleep(this.clock, ms);
  }

  skip(reason: string): never {
    throw new Skipped(reason);
  }

  /** Skips the case where the runtime lacks one of the features. */
  needsFeatures(...features: readonly string[]): void {
    const missing = features.find((feature) => !this.facts.features.includes(feature));
    if (missing !== undefined) this.skip(`the runtime does not offer the feature "${missing}"`);
  }

  /** Whether there is a second principal to speak for. */
  get hasOtherToken(): boolean {
    return this.#options.otherToken !== undefined;
  }

  /** The second principal's token; without one the case is skipped. */
  otherToken(): string {
    return this.#options.otherToken ?? this.skip("it needs a token of another principal (--other-token)");
  }

  /** Closes what the case opened; its running jobs are cancelled, so that a run leaves no load behind. */
  end(): void {
    for (const peer of this.#peers) {
      for (const jobId of peer.jobs) {
        const ended = this.#peers.some((other) => other.terminals(jobId).length > 0);
        const speaker = this.#peers.find(({ open, sessionId }) => open && sessionId === peer.sessionId);
        if (!ended) speaker?.tell("job.cancel", { reason: "the conformance case is over" }, { job_id: jobId });
      }
    }
    for (const peer of this.#peers) peer.close();
  }
}

/**
 * What the runtime tells in its first welcome.
 *
 * @throws Unmet when there is none
 */
export async function factsOf(wire: Wire, clock: Clock, token: string, timeoutMs: number): Promise<RuntimeFacts> {
  const peer = new Peer(wire, clock, timeoutMs);
  try {
    const welcome = await peer.hello({ token, features: FEATURES });
    if (welcome.envelope.type !== "session.welcome") throw new Unmet("session.welcome for the first hello", welcome);
    const { payload } = welcome.envelope;
    const { name, version } = record(payload["runtime"]);
    const { agents } = record(payload["capabilities"]);
    const seconds = (value: unknown) => (typeof value === "number" ? value : undefined);
    return {
      name: String(name),
      version: String(version),
      features: peer.features,
      agents: Array.isArray(agents) ? agents.map((agent) => String(record(agent)["name"])) : [],
      heartbeatSec: seconds(payload["heartbeat_interval_sec"]),
      resumeWindowSec: seconds(payload["resume_window_sec"]),
    };
  } finally {
    peer.close();
  }
}

/**
 * Fails unless the connections of one session, in the order in which they were opened, had each number
 * from where they resumed on once and in order, and every sending of a number was the same.
 */
export function checkStream(...peers: readonly Peer[]): void {
  const frames = new Map<number, string>();
  for (const peer of peers) {
    let expected = peer.resumedFrom + 1;
    for (const received of peer.numbered) {
      const seq = received.envelope.event_seq as number;
      check(
        seq === expected,
        `event_seq ${expected} next (numbers go up by one, from ${peer.resumedFrom + 1})`,
        received,
      );
      const before = frames.get(seq);
      check(
        before === undefined || before === received.frame,
        `event_seq ${seq} to be the same at every sending`,
        received,
      );
      frames.set(seq, received.frame);
      expected += 1;
    }
  }
}
