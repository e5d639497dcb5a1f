import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError } from "../protocol/index.ts";
import { canonicalTarget } from "./index.ts";

function denied(capability: string, target: string, reason: RegExp = /./): ArcpError {
  let refusal: unknown;
  try {
    canonicalTarget(capability, target);
  } catch (error) {
    refusal = error;
  }
  assert(refusal instanceof ArcpError, `${capability} ${JSON.stringify(target)} was taken`);
  assert.equal(refusal.code, "PERMISSION_DENIED");
  assert.match(refusal.message, reason);
  return refusal;
}

test("[LEA-5] a path is resolved and decoded once", () => {
  const table: [given: string, canonical: string][] = [
    ["/", "/"],
    ["/srv/docs/a.txt", "/srv/docs/a.txt"],
    ["/srv/docs/", "/srv/docs"],
    ["/srv/./docs/../x", "/srv/x"],
    ["/srv/%2e%2e/x", "/x"],
    ["/srv/%2E/x", "/srv/x"],
    ["/a/..", "/"],
    ["/a%20b", "/a b"],
    ["/%E6%97%A5", "/日"],
    ["/100%", "/100%"],
    ["/100%25", "/100%"],
    ["/%zz", "/%zz"],
    ["/.hidden/...x", "/.hidden/...x"],
    ["/Mixed/Case", "/Mixed/Case"],
  ];
  for (const [given, canonical] of table) {
    assert.deepEqual(canonicalTarget("fs.read", given), { target: canonical, subject: canonical }, given);
  }
});

test("[LEA-5] a path that can be read in two ways is refused", () => {
  const table: [target: string, reason: RegExp][] = [
    ["", /is empty/],
    ["srv/docs", /not an absolute path/],
    ["./a", /not an absolute path/],
    ["~/.ssh/id", /not an absolute path/],
    ["C:\\x", /backslash/],
    ["file:///etc/passwd", /not an absolute path/],
    ["//etc/passwd", /empty segment/],
    ["/srv//x", /empty segment/],
    ["/srv/x//", /empty segment/],
    ["/..", /climbs above the root/],
    ["/a/../../etc", /climbs above the root/],
    ["/%2e%2e/etc", /climbs above the root/],
    ["/srv/..%2fetc", /encoded slash/],
    ["/srv/..%2Fetc", /encoded slash/],
    ["/srv%2fx", /encoded slash/],
    ["/srv/..%5cetc", /backslash/],
    ["/srv/..\\etc", /backslash/],
    ["/srv/%252e%252e/x", /percent-encoded twice/],
    ["/srv/%25%32%65", /percent-encoded twice/],
    ["/srv/%%32%65", /percent-encoded twice/],
    ["/srv/%252fx", /percent-encoded twice/],
    ["/srv/%c0%ae%c0%ae/x", /not as UTF-8/],
    ["/srv/%c0%af", /not as UTF-8/],
    ["/srv/%ff", /not as UTF-8/],
    ["/srv/%ed%a0%80", /not as UTF-8/],
    ["/srv/x\0.txt", /control character/],
    ["/srv/x%00.txt", /control character/],
    ["/srv/%0a", /control character/],
    ["/srv/\u0085", /control character/],
    ["/srv/\u2028x", /control character/],
    ["/srv/\ud800", /surrogate/],
    ["/srv/x.", /ends in a dot or a space/],
    ["/srv/x ", /ends in a dot or a space/],
    ["/srv./x", /ends in a dot or a space/],
    ["/srv/x%20", /ends in a dot or a space/],
    ["/srv/...", /ends in a dot or a space/],
    [`/${"a/".repeat(200)}a`, /more than 128 segments/],
    [`/${"a".repeat(1_025)}`, /segment of more than 1024/],
    [`/${"a".repeat(9_000)}`, /more than 8192 characters/],
  ];
  for (const capability of ["fs.read", "fs.write"])
    for (const [target, reason] of table) denied(capability, target, reason);
});

test("[LEA-6] a URL is brought to one spelling; the query is kept, and not matched", () => {
  const table: [given: string, target: string, subject?: string][] = [
    ["https://example.com", "https://example.com/"],
    ["HTTPS://Example.COM:443/A", "https://example.com/A"],
    ["http://example.com:80/", "http://example.com/"],
    ["http://example.com:443/", "http://example.com:443/"],
    ["https://example.com/a/../b/./c", "https://example.com/b/c"],
    ["https://example.com/a/%2e%2e/b", "https://example.com/b"],
    ["https://example.com/a/#frag", "https://example.com/a/"],
    ["https://example.com/a?x=/../%2f&y", "https://example.com/a?x=/../%2f&y", "https://example.com/a"],
    ["https://example.com/a%20b", "https://example.com/a%20b", "https://example.com/a b"],
    ["https://example.com/a b/é", "https://example.com/a%20b/%C3%A9", "https://example.com/a b/é"],
    ["https://example.com/%3Fx%23y", "https://example.com/%3Fx%23y", "https://example.com/?x#y"],
    ["https://example.com/%41", "https://example.com/A"],
    ["https://example.com/100%25", "https://example.com/100%25", "https://example.com/100%"],
    ["https://bücher.example/", "https://xn--bcher-kva.example/"],
    ["https://ＥＸＡＭＰＬＥ.com/", "https://example.com/"],
    ["http://0x7f.1/", "http://127.0.0.1/"],
    ["http://017700000001/", "http://127.0.0.1/"],
    ["http://2130706433/", "http://127.0.0.1/"],
    ["http://127.1:8080/", "http://127.0.0.1:8080/"],
    ["http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"],
    ["http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"],
    ["https://example.com/wiki/Inc.", "https://example.com/wiki/Inc."],
  ];
  for (const [given, target, subject = target] of table) {
    assert.deepEqual(canonicalTarget("net.fetch", given), { target, subject }, given);
  }
});

test("[LEA-6] a URL that hides where it goes is refused", () => {
  const table: [target: string, reason: RegExp][] = [
    ["example.com", /not an http or https URL/],
    ["//example.com/", /not an http or https URL/],
    ["/a", /not an http or https URL/],
    ["ftp://example.com/", /not an http or https URL/],
    ["file:///etc/passwd", /not an http or https URL/],
    ["javascript:alert(1)", /not an http or https URL/],
    ["data:text/plain,x", /not an http or https URL/],
    ["https:example.com", /not an http or https URL/],
    ["https:/example.com", /not an http or https URL/],
    ["https:///example.com", /not an http or https URL/],
    [" https://example.com", /not an http or https URL/],
    ["https://example.com/a ", /ends in white space/],
    ["ht\ntps://example.com", /control character/],
    ["https://exa\tmple.com", /control character/],
    ["https://example.com\\@evil.com/", /backslash/],
    ["https:\\\\example.com", /backslash/],
    ["https://user@example.com/", /user name or a password/],
    ["https://user:pw@example.com/", /user name or a password/],
    ["https://@example.com/", /user name or a password/],
    ["https://example.com@evil.com/", /user name or a password/],
    ["https://example.com%40evil.com/", /percent-encoded host/],
    ["https://%65xample.com/", /percent-encoded host/],
    ["https://example.com%00.evil.com/", /percent-encoded host/],
    ["https://example.com./", /host that ends in a dot/],
    ["https://example.com.:443/", /host that ends in a dot/],
    ["https://example.com。/", /host that ends in a dot/],
    ["https://127.0.0.1./", /host that ends in a dot/],
    ["https://exa mple.com/", /is not a URL/],
    ["https://example.com:99999/", /is not a URL/],
    ["https://256.256.256.256/", /is not a URL/],
    ["https://[::1/", /is not a URL/],
    ["https://[fe80::1%25eth0]/", /percent-encoded host/],
    ["https://example.com//a", /empty segment/],
    ["https://example.com/a//", /empty segment/],
    ["https://example.com/..%2fa", /encoded slash/],
    ["https://example.com/a%2Fb", /encoded slash/],
    ["https://example.com/a%5Cb", /backslash/],
    ["https://example.com/%252e%252e/a", /percent-encoded twice/],
    ["https://example.com/%00", /control character/],
    ["https://example.com/%0d%0aHost:x", /control character/],
    ["https://example.com/%c0%ae", /not as UTF-8/],
    ["https://example.com/\udfff", /surrogate/],
    [`https://example.com/${"é".repeat(900)}/${"é".repeat(900)}`, /when encoded/],
  ];
  for (const [target, reason] of table) denied("net.fetch", target, reason);
});

test("[LEA-7] tools, agents, models and vendor targets are plain names", () => {
  for (const name of ["search", "mcp.read_file", "fs/read", "a:b", "_x", "T1"]) {
    assert.equal(canonicalTarget("tool.call", name).target, name);
  }
  for (const name of ["summarise", "summarise@1.0.0", "team/summarise@2-rc.1"]) {
    assert.equal(canonicalTarget("agent.delegate", name).target, name);
  }
  for (const name of ["openai/gpt-5", "ollama/llama3:8b", "claude@20250101"]) {
    assert.equal(canonicalTarget("model.use", name).target, name);
  }
  assert.equal(canonicalTarget("x-vendor.acme.db", "tables/Kunden (alt)").target, "tables/Kunden (alt)");

  const never = ["", " ", "a\0", "a\n", "\ud800", "../a", "a/..", "a/./b", "a//b", "/a", "a/", "a\\b", "%2e", "a%2fb"];
  for (const capability of ["tool.call", "agent.delegate", "model.use", "x-vendor.acme.db"]) {
    for (const target of never) denied(capability, target);
  }
  for (const target of ["a b", "a*", "ä", "а", "a,b", "-a", "a\u200bb", "a".repeat(257)]) denied("tool.call", target);
  for (const target of ["a@", "@1", "a@1@2", "a:b", "a b"]) denied("agent.delegate", target);
});

test("[LEA-7] what is no capability, and a budget, is no operation", () => {
  for (const capability of ["cost.budget", "fs.raed", "", "x-vendor.acme", "__proto__", "constructor"]) {
    denied(capability, "a", /no operation needs/);
  }
});

test("[LEA-9] a refusal names capability and target, short, and repeats no query and no password", () => {
  const long = denied("fs.read", `a${"b".repeat(500)}`);
  assert.deepEqual(long.details, { capability: "fs.read", target: `a${"b".repeat(63)}…` });
  assert(long.message.length < 200);
  const secret = denied("net.fetch", "https://bob:hunter2@h/a?key=hunter2#hunter2");
  assert.deepEqual(secret.details, { capability: "net.fetch", target: "https://h/a" });
  assert.doesNotMatch(JSON.stringify(secret.toPayload()), /hunter2/);
  assert.equal(denied("fs.read", `/${"a".repeat(62)}\ud83d\ude00`.repeat(200)).message.isWellFormed(), true);
});
