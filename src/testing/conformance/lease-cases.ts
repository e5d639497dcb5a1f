/**
 * LEA and ACT: what may be asked for, what a job may then do, and what it costs. An agent `meter` says what its
 * lease lets it do and an agent `relay` hands a part of a lease on; README.md says what each is given.
 */
import { bodyOf, codeOf, detailsOf, messageOf, type Peer, type Received, record } from "./peer.ts";
import type { ConformanceCase, Stage } from "./stage.ts";
import { check } from "./verdict.ts";

type Lease = Record<string, readonly string[]>;

/** What may become of one operation that `meter` tries. */
interface Outcome {
  value?: unknown;
  code?: unknown;
  details?: unknown;
}

interface Metered {
  authorized: Outcome[];
  tool: Outcome;
  jobId: string;
  end: Received;
}

/** Runs a `meter` that must succeed. */
async function metered(peer: Peer, lease: Lease, input: object): Promise<Metered> {
  const jobId = await peer.start("meter", input, { lease_request: lease });
  const end = await peer.terminal(jobId);
  const result = record(end.envelope.payload["result"]);
  const { authorized } = result;
  check(end.envelope.type === "job.result" && Array.isArray(authorized), "a result of meter, with `authorized`", end);
  return { authorized: authorized.map((one) => record(one)), tool: record(result["tool"]), jobId, end };
}

/** Fails unless `meter` may use the targets that it is to, in the spelling given, and no other. */
async function checkTargets(
  peer: Peer,
  lease: Lease,
  capability: string,
  granted: Readonly<Record<string, string>>,
  denied: readonly string[],
): Promise<void> {
  const targets = [...Object.keys(granted), ...denied];
  const authorize = targets.map((target) => ({ capability, target }));
  const { authorized } = await metered(peer, lease, { authorize });
  for (const [index, target] of targets.entries()) {
    const outcome = authorized[index] ?? {};
    const under = `${JSON.stringify(target)} under ${JSON.stringify(lease[capability])}`;
    const expected = granted[target];
    if (expected !== undefined) check(outcome.value === expected, `${capability} of ${under} as ${expected}`, outcome);
    else check(outcome.code === "PERMISSION_DENIED", `PERMISSION_DENIED for ${capability} of ${under}`, outcome);
  }
}

const itself = (...targets: readonly string[]): Record<string, string> =>
  Object.fromEntries(targets.map((target) => [target, target]));

/** Fails unless a submit with each of those leases is refused, naming what is wrong. */
async function checkRefused(
  peer: Peer,
  code: string,
  leases: readonly (readonly [lease: object, named: string])[],
): Promise<void> {
  for (const [lease, named] of leases) {
    const answer = await peer.submit("echo", 1, { lease_request: lease });
    const what = JSON.stringify(lease).slice(0, 120);
    check(codeOf(answer) === code, `${code} for ${what}`, answer);
    check(messageOf(answer).includes(named), `the message to name ${named} for ${what}`, answer);
  }
}

const malformed: ConformanceCase = {
  rule: "LEA-1",
  title: "a malformed lease is INVALID_REQUEST naming the field; a good one is accepted in one spelling",
  async run(stage) {
    const peer = await stage.connect();
    await checkRefused(peer, "INVALID_REQUEST", [
      [{ fly: ["**"] }, "fly"],
      [{ "x-vendor": ["**"] }, "x-vendor"],
      [{ "fs.read": ["docs"] }, "fs.read"],
      [{ "net.fetch": ["example.com/a"] }, "net.fetch"],
      [{ "tool.call": "search" }, "tool.call"],
      [{ "tool.call": [5] }, "tool.call"],
    ]);
    const answer = await peer.submit("echo", 1, { lease_request: { "tool.call": ["a/**/**/b", "c"] } });
    check(answer.envelope.type === "job.accepted", "job.accepted for a lease to call tools", answer);
    const { lease } = answer.envelope.payload;
    check(JSON.stringify(lease) === '{"tool.call":["a/**/b","c"]}', "the lease, `a/**/**/b` as `a/**/b`", answer);
  },
};

const grammar: ConformanceCase = {
  rule: "LEA-2",
  title: "what other glob dialects know is refused in a pattern",
  async run(stage) {
    const peer = await stage.connect();
    const patterns = ["sear?h", "search[ab]", "{a,b}", "!search", "a**", "se%61rch", "a/../b", "@(a|b)", ""];
    await checkRefused(
      peer,
      "INVALID_REQUEST",
      patterns.map((pattern) => [{ "tool.call": ["fine", pattern] }, "tool.call"] as const),
    );
  },
};

const wildcards: ConformanceCase = {
  rule: "LEA-3",
  title: "`*` stays within a segment, `**` stands for any number of them",
  agents: ["meter"],
  async run(stage) {
    const peer = await stage.connect();
    await checkTargets(
      peer,
      { "tool.call": ["search/*", "read/**", "exact", "a*z"] },
      "tool.call",
      itself("search/web", "read", "read/a", "read/a/b/c", "exact", "az", "abcz"),
      ["search", "search/web/deep", "exact/x", "exac", "Exact", "ab", "b/az", "other"],
    );
  },
};

const many = (count: number, make: (index: number) => string): string[] =>
  Array.from({ length: count }, (_, index) => make(index));

const sizes: ConformanceCase = {
  rule: "LEA-4",
  title: "more than 64 capabilities, 256 patterns, 2,048 characters or 8 wildcards are refused",
  async run(stage) {
    const peer = await stage.connect();
    const capabilities = many(65, (index) => `x-vendor.conformance.c${index}`);
    await checkRefused(peer, "INVALID_REQUEST", [
      [Object.fromEntries(capabilities.map((name) => [name, ["a"]])), "lease_request"],
      [{ "tool.call": many(257, (index) => `t${index}`) }, "tool.call"],
      [{ "tool.call": ["x".repeat(2_049)] }, "tool.call"],
      [{ "tool.call": many(32, (index) => `${index}`.padEnd(1_500, "x")) }, "lease_request"],
      [{ "tool.call": [many(9, () => "*").join("/")] }, "tool.call"],
      [{ "tool.call": ["a*b*c*"] }, "tool.call"],
    ]);
    const answer = await peer.submit("echo", 1, {
      lease_request: { "tool.call": [...many(255, (index) => `t${index}`), many(8, () => "*").join("/")] },
    });
    check(answer.envelope.type === "job.accepted", "job.accepted for a lease within all of that", answer);
  },
};

/** Skips the case where the policy grants no such lease: which files and hosts there are is the host's to say. */
async function grantedOrSkip(stage: Stage, peer: Peer, lease: Lease): Promise<void> {
  const answer = await peer.submit("echo", 1, { lease_request: lease });
  const [grant] = Object.entries(lease).map(([capability, patterns]) => `${capability}=${patterns[0]}`);
  if (codeOf(answer) === "PERMISSION_DENIED") stage.skip(`the runtime does not grant ${grant} to this principal`);
  check(answer.envelope.type === "job.accepted", `job.accepted for a lease with ${grant}`, answer);
}

const paths: ConformanceCase = {
  rule: "LEA-5",
  title: "a path is made canonical before it is compared, and refused where that leaves a doubt",
  agents: ["meter"],
  async run(stage) {
    const peer = await stage.connect();
    const lease = { "fs.read": ["/conformance/**"] };
    await grantedOrSkip(stage, peer, lease);
    await checkTargets(
      peer,
      lease,
      "fs.read",
      {
        "/conformance": "/conformance",
        "/conformance/a/./b/../c": "/conformance/a/c",
        "/conformance/%61b": "/conformance/ab",
        "/other/../conformance/a": "/conformance/a",
      },
      [
        ...["/conformance/../etc/passwd", "/conformance/%2e%2e/etc", "/conformance/a%2f..%2f..%2fetc", "/conformancex"],
        ...["/conformance/%252e%252e/etc", "/conformance/a\\b", "/conformance//a", "/conformance/a\u0000", "/"],
        ...["/conformance/a.", "/conformance/a ", "/../conformance/a", "conformance/a", "/conformance/%ff", ""],
      ],
    );
  },
};

const urls: ConformanceCase = {
  rule: "LEA-6",
  title: "a URL is made canonical before it is compared, and refused where that leaves a doubt",
  agents: ["meter"],
  async run(stage) {
    const peer = await stage.connect();
    const lease = { "net.fetch": ["https://conformance.example/docs/**"] };
    await grantedOrSkip(stage, peer, lease);
    await checkTargets(
      peer,
      lease,
      "net.fetch",
      {
        "https://conformance.example/docs/a": "https://conformance.example/docs/a",
        "HTTPS://Conformance.Example:443/docs/a/../b": "https://conformance.example/docs/b",
      },
      [
        ...["https://conformance.example/docs/../secret", "https://conformance.example/docs/%2e%2e/secret"],
        ...[
          "http://conformance.example/docs/a",
          "https://conformance.example:444/docs/a",
          "ftp://conformance.example/",
        ],
        ...["https://user@conformance.example/docs/a", "https://conformance.example./docs/a", "/docs/a"],
        ...["https://conformance.example.evil.example/docs/a", "https://conformance%2eexample/docs/a"],
        "https://evil.example/https://conformance.example/docs/a",
      ],
    );
  },
};

const names: ConformanceCase = {
  rule: "LEA-7",
  title: "names of tools are taken as they are; nothing in them is decoded or resolved",
  agents: ["meter"],
  async run(stage) {
    const peer = await stage.connect();
    await checkTargets(
      peer,
      { "tool.call": ["search/*", "exact"] },
      "tool.call",
      itself("search/web.v2", "search/a+b@1:c"),
      ["search%2fweb", "ex%61ct", "other/../exact", "search/..", "exact ", "exact\u0000", "\u00e9xact", "/exact", ""],
    );
  },
};

/** Hands a part of its lease to a child. */
const relayed = (peer: Peer, parent: Lease, child: object): Promise<string> =>
  peer.start("relay", { agent: "meter", ...child }, { lease_request: { "agent.delegate": ["meter"], ...parent } });

/** Fails unless a relay of that child is refused for wanting more than its parent has. */
async function checkViolation(peer: Peer, parent: Lease, child: object, named: RegExp): Promise<void> {
  const end = await peer.terminal(await relayed(peer, parent, child));
  const what = `a child with ${JSON.stringify(child)} of a parent with ${JSON.stringify(parent)}`;
  check(codeOf(end) === "LEASE_SUBSET_VIOLATION", `LEASE_SUBSET_VIOLATION for ${what}`, end);
  check(named.test(messageOf(end)), `the message to name what is too much (${named.source})`, end);
}

const subset: ConformanceCase = {
  rule: "LEA-8",
  title: "a child's lease lies within its parent's, by what its patterns match",
  agents: ["relay", "meter"],
  async run(stage) {
    const peer = await stage.connect();
    const parent = { "tool.call": ["search/*", "read/**"] };
    for (const patterns of [["search/web"], ["search/w*"], ["read/a/*", "read/*/b"], []]) {
      const end = await peer.terminal(await relayed(peer, parent, { lease: { "tool.call": patterns } }));
      check(end.envelope.type === "job.result", `a child with tool.call ${JSON.stringify(patterns)}`, end);
    }
    for (const pattern of ["search/**", "**", "*/web", "write", "s*/web"]) {
      await checkViolation(peer, parent, { lease: { "tool.call": ["read/a", pattern] } }, /tool\.call/);
    }
    await checkViolation(peer, parent, { lease: { "agent.delegate": ["*"] } }, /agent\.delegate/);
  },
};

const USD = (amount: number) => ({ amount, currency: "USD" });

const order: ConformanceCase = {
  rule: "LEA-9",
  title: "budgets are checked before patterns; a refusal names capability and target",
  agents: ["meter"],
  async run(stage) {
    stage.needsFeatures("cost.budget");
    const peer = await stage.connect();
    const lease = { "tool.call": ["exact"], "cost.budget": ["USD:1"] };
    const authorize = ["exact", "other"].map((target) => ({ capability: "tool.call", target }));
    const before = await metered(peer, lease, { authorize });
    const [granted, denied] = before.authorized;
    check(granted?.value === "exact", "an operation within lease and budget to be allowed", granted);
    check(denied?.code === "PERMISSION_DENIED", "PERMISSION_DENIED for a tool that is not in the lease", denied);
    const { capability, target } = record(denied.details);
    check(capability === "tool.call" && target === "other", "details.capability and details.target", denied);
    const after = await metered(peer, lease, { charges: [USD(1)], authorize });
    for (const outcome of after.authorized) {
      check(outcome.code === "BUDGET_EXHAUSTED", "BUDGET_EXHAUSTED for whatever is tried with a spent budget", outcome);
    }
  },
};

const amounts: ConformanceCase = {
  rule: "LEA-10",
  title: "a budget is CURRENCY:decimal, one for each currency; job.accepted tells it",
  async run(stage) {
    stage.needsFeatures("cost.budget");
    const peer = await stage.connect();
    const wrong = ["USD", "USD:", ":5", "USD:-1", "USD:1e3", "usd:1", "US:1", "USD:0.0000000000001", "USD:Infinity"];
    await checkRefused(peer, "INVALID_REQUEST", [
      ...[...wrong, "USD:1,5", "USD:0x10", `USD:1${"0".repeat(18)}`].map(
        (entry) => [{ "cost.budget": [entry] }, "cost.budget"] as const,
      ),
      [{ "cost.budget": ["USD:1", "USD:2"] }, "cost.budget"],
    ]);
    const answer = await peer.submit("echo", 1, {
      lease_request: { "cost.budget": ["USD:5", "EUR:0.25", "TOKENS:0"] },
    });
    const budget = record(answer.envelope.payload["budget"]);
    check(
      answer.envelope.type === "job.accepted" &&
        budget["USD"] === 5 &&
        budget["EUR"] === 0.25 &&
        budget["TOKENS"] === 0,
      "job.accepted with `budget` {USD: 5, EUR: 0.25, TOKENS: 0}",
      answer,
    );
  },
};

const ONE_TOOL = [{ capability: "tool.call", target: "exact" }];

const exact: ConformanceCase = {
  rule: "LEA-11",
  title: "money is counted in exact decimals; a negative amount and a foreign currency count nothing",
  agents: ["meter"],
  async run(stage) {
    stage.needsFeatures("cost.budget");
    const peer = await stage.connect();
    const lease = (...budget: string[]) => ({ "tool.call": ["exact"], "cost.budget": budget });
    // Ten times 0.1 is not 1 in binary.
    const spent = await metered(peer, lease("USD:1"), {
      charges: many(10, () => "USD").map(() => USD(0.1)),
      authorize: ONE_TOOL,
    });
    check(spent.authorized[0]?.code === "BUDGET_EXHAUSTED", "BUDGET_EXHAUSTED after 10 × 0.1 of USD:1", spent.end);
    const left = await metered(peer, lease("USD:0.3", "EUR:1"), {
      charges: [USD(0.1), USD(0.1), { amount: 5, currency: "GBP" }],
      authorize: ONE_TOOL,
    });
    check(left.authorized[0]?.value === "exact", "0.1 of USD:0.3 to be left after 2 × 0.1, and 5 GBP", left.end);
    const negative = await peer.start("meter", { charges: [USD(-1)] }, { lease_request: lease("USD:1") });
    const end = await peer.terminal(negative);
    check(codeOf(end) === "INVALID_REQUEST", "INVALID_REQUEST for a metric of -1 USD", end);
    const counted = remaining(peer, negative)[0];
    check(counted === undefined, "nothing to be counted for a metric of -1 USD", counted);
  },
};

/** What is left of a budget, as a job's stream tells it. */
const remaining = (peer: Peer, jobId: string): Received[] =>
  peer.events(jobId, "metric").filter((event) => bodyOf(event)["name"] === "cost.budget.remaining");

const siblings: ConformanceCase = {
  rule: "LEA-12",
  title: "siblings together spend no more than their parent's budget; a currency without a part of its own is shared",
  agents: ["relay", "meter"],
  async run(stage) {
    stage.needsFeatures("cost.budget");
    const peer = await stage.connect();
    const parent = { "cost.budget": ["USD:1"] };
    const charges = [USD(0.6)];
    const own = { lease: { "cost.budget": ["USD:0.6"] }, input: { charges }, times: 2 };
    await checkViolation(peer, parent, own, /cost\.budget/);
    const shared = await peer.terminal(await relayed(peer, parent, { input: { charges }, times: 3 }));
    check(
      codeOf(shared) === "BUDGET_EXHAUSTED",
      "BUDGET_EXHAUSTED for a third child when two have spent 0.6 of USD:1 each",
      shared,
    );
  },
};

const expiries: ConformanceCase = {
  rule: "LEA-13",
  title: "an expiry that is not ISO 8601 in UTC, or not in the future, is INVALID_REQUEST",
  async run(stage) {
    stage.needsFeatures("lease_expires_at");
    const peer = await stage.connect();
    const wrong = ["tomorrow", "2099-01-01", "2099-01-01T00:00:00", "2099-02-30T00:00:00Z", "2001-01-01T00:00:00Z", 5];
    for (const expires_at of [...wrong, "2099-01-01T00:00:00+02:00"]) {
      const answer = await peer.submit("echo", 1, { lease_constraints: { expires_at } });
      check(codeOf(answer) === "INVALID_REQUEST", `INVALID_REQUEST for expires_at ${expires_at}`, answer);
      check(/\bexpires_at\b/.test(messageOf(answer)), "the message to name expires_at", answer);
    }
    const expires_at = "2099-01-01T00:00:00Z";
    const answer = await peer.submit("echo", 1, { lease_constraints: { expires_at } });
    const told = Date.parse(String(record(answer.envelope.payload["lease_constraints"])["expires_at"]));
    check(told === Date.parse(expires_at), `job.accepted with expires_at ${expires_at}`, answer);
  },
};

/** The `job.accepted` of a job's first child. */
export const childOf = (peer: Peer, parentId: string): Promise<Received> =>
  peer.until(
    () =>
      peer.received.find(
        ({ envelope }) => envelope.type === "job.accepted" && envelope.payload["parent_job_id"] === parentId,
      ),
    `job.accepted of a child, with parent_job_id ${parentId}`,
  );

const childExpiry: ConformanceCase = {
  rule: "LEA-14",
  title: "a child has its parent's expiry where it has none of its own, and never a later one",
  agents: ["relay", "meter"],
  async run(stage) {
    stage.needsFeatures("lease_expires_at");
    const peer = await stage.connect();
    const expires_at = "2098-01-01T00:00:00Z";
    const ask = (child: object) =>
      peer.start(
        "relay",
        { agent: "meter", ...child },
        { lease_request: { "agent.delegate": ["meter"] }, lease_constraints: { expires_at } },
      );
    for (const [own, has] of [
      [{}, expires_at],
      [{ expires_at: "2097-01-01T00:00:00Z" }, "2097-01-01T00:00:00Z"],
    ] as const) {
      const accepted = await childOf(peer, await ask(own));
      const told = Date.parse(String(record(accepted.envelope.payload["lease_constraints"])["expires_at"]));
      check(told === Date.parse(has), `a child's expires_at ${has} for ${JSON.stringify(own)}`, accepted);
    }
    const end = await peer.terminal(await ask({ expires_at: "2098-01-01T00:00:01Z" }));
    check(codeOf(end) === "LEASE_SUBSET_VIOLATION", "LEASE_SUBSET_VIOLATION for a child's later expiry", end);
    check(/expires/i.test(messageOf(end)), "the message to name the expiry", end);
  },
};

const costs: ConformanceCase = {
  rule: "LEA-15",
  title: "what cost.* metrics report is taken from the budget, what remains is told, and a metric ends no job",
  agents: ["meter"],
  async run(stage) {
    stage.needsFeatures("cost.budget");
    const peer = await stage.connect();
    const { jobId } = await metered(
      peer,
      { "cost.budget": ["USD:1", "EUR:2"] },
      {
        charges: [USD(0.1), USD(0.2), { amount: 0.5, currency: "EUR" }, USD(0.7), USD(1)],
      },
    );
    const told = remaining(peer, jobId).map(bodyOf);
    const left = (currency: string) => told.filter(({ unit }) => unit === currency).map(({ value }) => Number(value));
    const [usd, eur] = [left("USD"), left("EUR")];
    check(usd.slice(0, 3).join() === "0.9,0.7,0", "cost.budget.remaining of 0.9, 0.7 and 0 USD, exactly", told);
    check(eur.join() === "1.5", "cost.budget.remaining of 1.5 EUR", told);
    const charges = peer.events(jobId, "metric").filter((event) => bodyOf(event)["name"] === "cost.demo");
    check(charges.length === 5, "all of the agent's own metrics", `${charges.length} of 5`);
  },
};

const models: ConformanceCase = {
  rule: "LEA-16",
  title: "a lease names models where the runtime offers some, and those",
  agents: ["meter"],
  async run(stage) {
    const peer = await stage.connect();
    const lease = { "model.use": ["conformance/one"] };
    if (!peer.features.includes("model.use")) {
      await checkRefused(peer, "INVALID_REQUEST", [[lease, "model.use"]]);
      return;
    }
    await checkRefused(peer, "PERMISSION_DENIED", [[{ "model.use": ["conformance-none/one"] }, "model.use"]]);
    await grantedOrSkip(stage, peer, lease);
    await checkTargets(peer, lease, "model.use", itself("conformance/one"), [
      "conformance/two",
      "conformance-none/one",
    ]);
  },
};

const policy: ConformanceCase = {
  rule: "LEA-17",
  title: "a lease beyond what is granted is PERMISSION_DENIED naming the capability; what is not asked for is not had",
  async run(stage) {
    const peer = await stage.connect();
    for (const [capability, pattern] of [
      ["fs.write", "/**"],
      ["fs.read", "/**"],
      ["net.fetch", "**"],
      ["x-vendor.conformance.door", "**"],
    ] as const) {
      const lease = { "tool.call": ["exact"], [capability]: [pattern] };
      const answer = await peer.submit("echo", 1, { lease_request: lease });
      check(codeOf(answer) === "PERMISSION_DENIED", `PERMISSION_DENIED for ${capability} of ${pattern}`, answer);
      check(messageOf(answer).includes(capability), `the message to name the capability, ${capability}`, answer);
      check(detailsOf(answer)["capability"] === capability, `details.capability ${capability}`, answer);
    }
    const plain = await peer.submit("echo", 1);
    const { lease } = plain.envelope.payload;
    check(typeof lease === "object" && lease !== null, "`lease` in job.accepted, whatever was asked for", plain);
    const wide = ["fs.read", "fs.write", "net.fetch", "tool.call"].find((capability) => capability in lease);
    check(wide === undefined, "a lease of echo that nobody asked for to hold no capability", plain);
  },
};

/** The `tool_call` of a job that makes one, and its `tool_result`. */
function acted(peer: Peer, { jobId, end }: Metered): { call: Received; result: Received } {
  const [call] = peer.events(jobId, "tool_call");
  const [result] = peer.events(jobId, "tool_result");
  check(call !== undefined && result !== undefined, "a tool_call and a tool_result for a tool that is called", end);
  check(result.index > call.index, "the tool_result behind its tool_call", result);
  check(bodyOf(call)["tool"] === "echo", "tool_call to name the tool, echo", call);
  check(bodyOf(result)["call_id"] === bodyOf(call)["call_id"], "tool_result with the call_id of its tool_call", result);
  return { call, result };
}

const acts: ConformanceCase = {
  rule: "ACT-1",
  title: "a tool that is called is a tool_call and a tool_result with its outcome",
  agents: ["meter"],
  async run(stage) {
    const peer = await stage.connect();
    const called = await metered(peer, { "tool.call": ["echo"] }, { tool: "echo" });
    const { result } = acted(peer, called);
    check(bodyOf(result)["error"] === undefined && "result" in bodyOf(result), "tool_result with `result`", result);
    const same = JSON.stringify(bodyOf(result)["result"]) === JSON.stringify(called.tool.value);
    check(same, "the agent to have what tool_result shows", called.end);
  },
};

const refusedActs: ConformanceCase = {
  rule: "ACT-2",
  title: "a tool that the lease or the budget refuses is a tool_result with the error, and the job goes on",
  agents: ["meter"],
  async run(stage) {
    stage.needsFeatures("cost.budget");
    const peer = await stage.connect();
    const spent = { "tool.call": ["echo"], "cost.budget": ["USD:1"] };
    for (const [lease, charges, code] of [
      [{ "tool.call": ["other"] }, [], "PERMISSION_DENIED"],
      [spent, [USD(1)], "BUDGET_EXHAUSTED"],
    ] as const) {
      const called = await metered(peer, lease, { charges, tool: "echo" });
      const { result } = acted(peer, called);
      check(record(bodyOf(result)["error"])["code"] === code, `tool_result with the error ${code}`, result);
      check(called.tool.code === code, `${code} for the agent, which goes on`, called.end);
    }
  },
};

export const LEASE_CASES: readonly ConformanceCase[] = [
  malformed,
  grammar,
  wildcards,
  sizes,
  paths,
  urls,
  names,
  subset,
  order,
  amounts,
  exact,
  siblings,
  expiries,
  childExpiry,
  costs,
  models,
  policy,
  acts,
  refusedActs,
];
