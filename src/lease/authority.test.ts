import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError, type ErrorCode, type Lease } from "../protocol/index.ts";
import { Authority, Budget, parseLease, subsetViolation } from "./index.ts";

const NOW = Date.parse("2026-01-01T00:00:00Z");
const HOUR = 3_600_000;

function failure(code: ErrorCode, attempt: () => unknown): ArcpError {
  let error: unknown;
  try {
    attempt();
  } catch (caught) {
    error = caught;
  }
  assert(error instanceof ArcpError, `expected ${code}, got ${String(error)}`);
  assert.equal(error.code, code, error.message);
  return error;
}

test("[LEA-9] a check asks expiry first, then budgets, then patterns, and answers the canonical target", () => {
  const authority = new Authority({
    lease: parseLease({ "fs.read": ["/srv/**"], "cost.budget": ["USD:1", "EUR:1"] }),
    expiresAtMs: NOW + HOUR,
  });
  assert.equal(authority.check("fs.read", "/srv/./a%20b/", NOW), "/srv/a b");
  assert.equal(authority.check("fs.read", "/srv/a", NOW + HOUR - 1), "/srv/a");

  const denied = failure("PERMISSION_DENIED", () => authority.check("fs.read", "/etc/passwd", NOW));
  assert.deepEqual(denied.details, { capability: "fs.read", target: "/etc/passwd" });
  assert.match(denied.message, /fs\.read: "\/etc\/passwd" is not within the job's lease/);
  failure("PERMISSION_DENIED", () => authority.check("fs.write", "/srv/a", NOW));
  failure("PERMISSION_DENIED", () => authority.check("cost.budget", "USD:1", NOW));
  failure("PERMISSION_DENIED", () => authority.check("__proto__", "a", NOW));

  authority.budget.spend("EUR", 1);
  const spent = failure("BUDGET_EXHAUSTED", () => authority.check("fs.read", "/etc/passwd", NOW));
  assert.deepEqual(spent.details, { capability: "fs.read", target: "/etc/passwd", currencies: ["EUR"] });
  const over = failure("LEASE_EXPIRED", () => authority.check("fs.read", "..\0", NOW + HOUR));
  assert.deepEqual(over.details, { capability: "fs.read", target: "..\0" });
  assert.match(over.message, /2026-01-01T01:00:00\.000Z/);
});

test("[LEA-9] a lease without patterns allows nothing, and one that is no lease is no authority", () => {
  const nothing = new Authority({ lease: {} });
  failure("PERMISSION_DENIED", () => nothing.check("tool.call", "search", NOW));
  assert.equal(nothing.permits("tool.call", "search"), false);
  assert.equal(nothing.permits("tool.call", "\0"), false);
  assert.equal(new Authority({ lease: { "tool.call": [] } }).permits("tool.call", "search"), false);
  failure("INVALID_REQUEST", () => new Authority({ lease: { "fs.read": ["/srv/[a-z]"] } }));
});

test("[LEA-8] a child's pattern lies within what its parent's patterns cover together", () => {
  const within: [capability: string, child: string, parents: string[]][] = [
    ["fs.read", "/a/b", ["/a/*"]],
    ["fs.read", "/a/**", ["/**"]],
    ["fs.read", "/a/**", ["/a/**"]],
    ["fs.read", "/a/*/c", ["/a/**/c"]],
    ["fs.read", "/a/**/b/c", ["/**/c"]],
    ["fs.read", "/a*", ["/a", "/a*"]],
    ["fs.read", "/*", ["/*a", "/*"]],
    ["fs.read", "/x/**", ["/x", "/x/**"]],
    ["net.fetch", "https://api.h.de/v1/*", ["https://*.h.de/**"]],
    ["net.fetch", "https://h/**", ["**"]],
    ["tool.call", "mcp.read*", ["mcp.*"]],
    ["model.use", "openai/*", ["**"]],
    ["agent.delegate", "summarise@1.*", ["summarise@*"]],
    ["cost.budget", "USD:1.0", ["USD:1"]],
  ];
  for (const [capability, child, parents] of within) {
    assert.equal(
      subsetViolation({ [capability]: [child] }, { [capability]: parents }),
      undefined,
      `${child} in ${parents}`,
    );
  }
  const beyond: [capability: string, child: string, parents: string[]][] = [
    ["fs.read", "/a/**", ["/a/*"]],
    ["fs.read", "/a/**", ["/a/*/**"]],
    ["fs.read", "/a", ["/a/*"]],
    ["fs.read", "/**", ["/a/**"]],
    ["fs.read", "/*a", ["/a*"]],
    ["fs.read", "/*", ["/a*", "/b*"]],
    ["fs.read", "/a", []],
    ["net.fetch", "http://h/**", ["https://h/**"]],
    ["net.fetch", "https://*/**", ["https://*.h.de/**"]],
    ["model.use", "openai/*", ["openai/gpt-5"]],
    ["cost.budget", "USD:1.01", ["USD:1"]],
    ["cost.budget", "EUR:1", ["USD:1"]],
  ];
  for (const [capability, child, parents] of beyond) {
    const violation = subsetViolation({ [capability]: [child] }, { [capability]: parents });
    assert.equal(violation?.pattern, child, `${child} in ${parents}`);
  }
  const first = subsetViolation(
    { "tool.call": ["a"], "fs.read": ["/a/b", "/a/**"] },
    { "tool.call": ["*"], "fs.read": ["/a/*"] },
  );
  assert.deepEqual(first, { capability: "fs.read", pattern: "/a/**", index: 1, example: "/a" });
  assert.equal(subsetViolation({ "fs.write": ["/a"] }, { "fs.read": ["/**"] })?.capability, "fs.write");
  assert.equal(subsetViolation({ "fs.write": [] }, {}), undefined);
  assert.equal(subsetViolation({ "cost.budget": ["USD:1"] }, {}), undefined);
});

test("[LEA-8] large leases of a plain kind are compared whole", () => {
  const projects = (tail: string) => Array.from({ length: 256 }, (_, n) => `/srv/projects/p${n}/${tail}`);
  assert.equal(subsetViolation({ "fs.read": projects("docs/*.md") }, { "fs.read": projects("**") }), undefined);
  const tools = (tail: string) => Array.from({ length: 256 }, (_, n) => `mcp.server${n}.${tail}`);
  assert.equal(subsetViolation({ "tool.call": tools("read*") }, { "tool.call": tools("*") }), undefined);
  const last = subsetViolation(
    { "tool.call": [...tools("read*").slice(1), "mcp.server256.x"] },
    { "tool.call": tools("*") },
  );
  assert.equal(last?.index, 255);
});

test("[LEA-8] a comparison that takes too much work is answered no, within bounds", () => {
  const hard = (last: string) =>
    Array.from(
      { length: 200 },
      (_, n) =>
        `/**/a*b/**/*${(n % 64).toString(2).padStart(6, "0").replaceAll("0", "a").replaceAll("1", "b")}*/**/${last}${n}*`,
    );
  const before = process.cpuUsage().user;
  const violation = subsetViolation({ "fs.read": hard("c") }, { "fs.read": hard("*c") });
  const spentMs = (process.cpuUsage().user - before) / 1_000;
  assert(spentMs < 1_000, `${spentMs} ms`);
  assert.notEqual(violation, undefined);
  assert.equal(violation?.example, undefined);
});

test("[LEA-14] a child gets a part of its parent's authority, and no later end", () => {
  const parent = new Authority({
    lease: parseLease({ "fs.read": ["/srv/**"], "model.use": ["openai/*"], "cost.budget": ["USD:5"] }),
    expiresAtMs: NOW + HOUR,
  });
  const child = parent.delegate({ lease: parseLease({ "fs.read": ["/srv/docs/**"], "cost.budget": ["USD:3"] }) });
  assert.equal(child.expiresAtMs, NOW + HOUR);
  assert.equal(child.check("fs.read", "/srv/docs/a", NOW), "/srv/docs/a");
  failure("PERMISSION_DENIED", () => child.check("fs.read", "/srv/x", NOW));
  failure("LEASE_EXPIRED", () => child.check("fs.read", "/srv/docs/a", NOW + HOUR));
  assert.deepEqual(parent.budget.remaining(), { USD: "2" });
  child.budget.spend("USD", 3);
  failure("BUDGET_EXHAUSTED", () => child.check("fs.read", "/srv/docs/a", NOW));
  assert.equal(parent.check("fs.read", "/srv/x", NOW), "/srv/x");
  child.budget.settle();
  assert.equal(parent.delegate({ lease: {}, expiresAtMs: NOW + 1 }).expiresAtMs, NOW + 1);
  assert.deepEqual(parent.budget.remaining(), { USD: "2" });
});

test("[LEA-14] what a child may not have is a violation that names the field, and reserves nothing", () => {
  const parent = new Authority({
    lease: parseLease({ "fs.read": ["/srv/**"], "model.use": ["openai/*"] }),
    expiresAtMs: NOW + HOUR,
    budget: new Budget({ USD: "5" }),
  });
  const asks = (lease: Lease, expiresAtMs?: number) =>
    failure("LEASE_SUBSET_VIOLATION", () => parent.delegate({ lease: parseLease(lease), expiresAtMs }, "body"));
  const pattern = asks({ "fs.read": ["/srv/a", "/etc/**"], "cost.budget": ["USD:1"] });
  assert.match(
    pattern.message,
    /^body\.lease_request\["fs\.read"\]\[1\]: "\/etc\/\*\*" is not within the parent's lease; "\/etc" is not, for example\.$/,
  );
  assert.deepEqual(pattern.details, { capability: "fs.read", pattern: "/etc/**" });
  assert.match(asks({ "model.use": ["anthropic/*"] }).message, /^body\.lease_request\["model\.use"\]\[0\]/);
  assert.match(
    asks({ "tool.call": ["x"] }).message,
    /^body\.lease_request\["tool\.call"\]\[0\]: "x" is not within the parent's lease\.$/,
  );
  assert.match(
    asks({ "cost.budget": ["USD:5.01"] }).message,
    /^body\.lease_request\["cost\.budget"\]: "USD:5\.01" .* USD:5 left\.$/,
  );
  assert.match(asks({ "cost.budget": ["EUR:1"] }).message, /has no EUR/);
  assert.match(
    asks({ "cost.budget": ["USD:1"] }, NOW + HOUR + 1).message,
    /^body\.lease_constraints\.expires_at: 2026-01-01T01:00:00\.001Z is later than the parent's/,
  );
  assert.deepEqual(parent.budget.remaining(), { USD: "5" });
});
