import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError } from "../protocol/index.ts";
import { parseExpiry, parseLease } from "./index.ts";

function invalid(attempt: () => unknown, message: RegExp): void {
  assert.throws(attempt, (error) => {
    assert(error instanceof ArcpError);
    assert.equal(error.code, "INVALID_REQUEST");
    assert.match(error.message, message);
    assert(error.message.length < 400, "what is repeated is cut short");
    return true;
  });
}

test("[LEA-1] a lease of known capabilities is taken; parsed again it is the same", () => {
  const lease = parseLease({
    "fs.read": ["/srv/docs/**", "**", "/etc/hosts", "/"],
    "fs.write": [],
    "net.fetch": ["HTTPS://API.Example.com:443/v1/**", "http://*.bücher.example".replace("*.", "")],
    "tool.call": ["search", "mcp.*"],
    "agent.delegate": ["summarise@*"],
    "model.use": ["openai/gpt-5"],
    "cost.budget": ["USD:5.00"],
    "x-vendor.acme.db": ["tables/*"],
  });
  assert.deepEqual(lease, {
    "fs.read": ["/srv/docs/**", "/**", "/etc/hosts", "/"],
    "fs.write": [],
    "net.fetch": ["https://api.example.com/v1/**", "http://xn--bcher-kva.example/"],
    "tool.call": ["search", "mcp.*"],
    "agent.delegate": ["summarise@*"],
    "model.use": ["openai/gpt-5"],
    "cost.budget": ["USD:5.00"],
    "x-vendor.acme.db": ["tables/*"],
  });
  assert.deepEqual(parseLease(lease), lease);
});

test("[LEA-1] anything else is refused, naming the field and the value cut short", () => {
  for (const raw of [null, [], "fs.read", 7, undefined]) invalid(() => parseLease(raw), /^payload\.lease_request: /);
  for (const capability of ["fs.raed", "FS.READ", "x-vendor.acme", "x-vendor..x", "constructor", "toString", ""]) {
    invalid(() => parseLease({ [capability]: [] }), /^payload\.lease_request: ".*" is not a capability; your own are/);
  }
  invalid(() => parseLease(JSON.parse('{"__proto__": []}')), /"__proto__" is not a capability/);
  invalid(() => parseLease({ [`x-vendor.a.${"b".repeat(999)}`]: [] }), /is not a capability/);
  invalid(() => parseLease({ "fs.read": "/srv" }), /^payload\.lease_request\["fs\.read"\]: "\/srv" is not an array/);
  invalid(() => parseLease({ "fs.read": ["/a", 7] }), /^payload\.lease_request\["fs\.read"\]\[1\]: 7 is not a text/);
  invalid(() => parseLease({ "fs.read": [{}] }), /\[0\]: a JSON object is not a text/);
  invalid(
    () => parseLease({ "fs.read": ["/a?"] }, "body.lease_request"),
    /^body\.lease_request\["fs\.read"\]\[0\]: "\/a\?"/,
  );
  invalid(() => parseLease({ "fs.read": [`/${"a".repeat(3_000)}`] }), /…" has more than 2048 characters/);
  invalid(
    () => parseLease({ "cost.budget": ["USD:1", "USD:2"] }),
    /^payload\.lease_request\["cost\.budget"\]\[1\]: "USD:2"/,
  );
});

test("[LEA-4] a lease has at most 64 capabilities, 256 patterns for each, 32,768 characters of patterns", () => {
  const vendors = (count: number) =>
    Object.fromEntries(Array.from({ length: count }, (_, index) => [`x-vendor.acme.c${index}`, ["a"]]));
  assert.equal(Object.keys(parseLease(vendors(64))).length, 64);
  invalid(() => parseLease(vendors(65)), /65 capabilities, and at most 64/);
  assert.equal(parseLease({ "tool.call": Array(256).fill("t") })["tool.call"]?.length, 256);
  invalid(() => parseLease({ "tool.call": Array(257).fill("t") }), /257 patterns, and at most 256/);
  const long = `/${"a/".repeat(100)}a`;
  invalid(() => parseLease({ "fs.read": Array(200).fill(long) }), /more than 32768 characters/);
});

const NOW = Date.parse("2026-01-01T00:00:00Z");

test("[LEA-13] an expiry is ISO 8601 in UTC and in the future", () => {
  assert.equal(parseExpiry("2026-01-01T00:00:00.001Z", NOW), NOW + 1);
  assert.equal(parseExpiry("2027-06-30T12:00:00Z", NOW), Date.parse("2027-06-30T12:00:00Z"));
  const field = /^payload\.lease_constraints\.expires_at: /;
  for (const text of ["2026-01-01T00:00:00Z", "2025-12-31T23:59:59.999Z", "1970-01-01T00:00:00Z"]) {
    invalid(() => parseExpiry(text, NOW), field);
    invalid(() => parseExpiry(text, NOW), /is not in the future/);
  }
  const malformed = [
    "",
    "tomorrow",
    "2027-01-01",
    "2027-01-01T00:00:00",
    "2027-01-01T00:00:00+01:00",
    "2027-02-30T00:00:00Z",
  ];
  for (const text of [
    ...malformed,
    "1798761600000",
    "2027-13-01T00:00:00Z",
    "2027-01-01T25:00:00Z",
    "9".repeat(9_999),
  ]) {
    invalid(() => parseExpiry(text, NOW), /is not ISO 8601 in UTC/);
  }
  invalid(
    () => parseExpiry("never", NOW, "body.lease_constraints.expires_at"),
    /^body\.lease_constraints\.expires_at: "never"/,
  );
});
