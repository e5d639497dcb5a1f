import assert from "node:assert/strict";
import { test } from "node:test";
import { ArcpError } from "../protocol/index.ts";
import { Authority, parseLease } from "./index.ts";

const permits = (capability: string, pattern: string, target: string): boolean =>
  new Authority({ lease: parseLease({ [capability]: [pattern] }) }).permits(capability, target);

const refused = (capability: string, pattern: string): void => {
  assert.throws(
    () => parseLease({ [capability]: [pattern] }),
    (error) => error instanceof ArcpError && error.code === "INVALID_REQUEST",
    `${capability} ${JSON.stringify(pattern)}`,
  );
};

test("[LEA-2] only `*` and `**` are wildcards; what other dialects know is refused", () => {
  for (const odd of [...'?[]{}()!|"\\']) {
    for (const pattern of [`/a${odd}`, `/${odd}a/*`, `/a/${odd}(b)`, `/*${odd}`]) refused("fs.read", pattern);
    refused("tool.call", `a${odd}b`);
    refused("net.fetch", `https://h/a${odd}b`);
    refused("x-vendor.acme.db", `a${odd}b`);
  }
  for (const pattern of ["/a**", "/**a", "/a/***", "/a/**b/c", "/****", "a/***/b"]) refused("fs.read", pattern);
  refused("net.fetch", "https://**/a");
  refused("net.fetch", "https://**");
});

test("[LEA-2] a pattern that could never match a canonical target is refused", () => {
  const paths = [
    "",
    "a",
    "a/**",
    "./a",
    "/a/../b",
    "/./a",
    "/a//b",
    "//a",
    "/a/",
    "/a.",
    "/a /b",
    "/%41",
    "/a%2f",
    "/a\0",
    "/a\n",
    "/\ud800",
    "/\u2028",
  ];
  for (const pattern of [...paths, "*", "~/*", "C:\\a", "**/a"]) refused("fs.read", pattern);
  const urls = [
    "",
    "*",
    "https://",
    "https:///a",
    "ftp://h/",
    "*://h/",
    "//h/a",
    "h/a",
    "https://u@h/",
    "https://u:p@h/",
    "https://h./",
    "https://h%2e/",
  ];
  const more = [
    "https://h/#f",
    "https://h/a?b",
    "https://h/a//b",
    "https://h/../a",
    "https://h/%61",
    "https://h:99999/",
    "https://*.h.:80/",
    "https://*.bücher.de/",
  ];
  for (const pattern of [...urls, ...more, "https://h\\a", "https://[::1", "https://a b/"])
    refused("net.fetch", pattern);
  for (const pattern of ["", " ", "a b", "/a", "a/", "a//b", "../a", "a,b", "ä", "a%20"]) refused("tool.call", pattern);
  for (const pattern of ["a@b@c", "@1", "a@", "-a", "a:b"]) refused("agent.delegate", pattern);
  for (const pattern of ["/a", "a/", "a//b", "a/../b", "%41", "a\\b", "a\tb"]) refused("x-vendor.acme.db", pattern);
});

test("[LEA-2] every other character stands for itself, dots and capitals included", () => {
  const printable = Array.from({ length: 95 }, (_, index) => String.fromCharCode(32 + index));
  const literals = [...printable.filter((char) => !'*?[]{}()!|"\\/'.includes(char)), "é", "日", "👩‍💻", "\u0301"];
  for (const literal of literals) {
    const target = `/d/${literal}x`;
    assert.equal(permits("fs.read", `/d/${literal}x`, target), true, literal);
    assert.equal(permits("fs.read", `/d/${literal}*`, target), true, literal);
    assert.equal(permits("fs.read", `/d/*${literal}x`, target), true, literal);
    assert.equal(permits("fs.read", `/d/*${literal}*`, `/d/a${literal}b`), true, literal);
    assert.equal(permits("fs.read", `/d/${literal}*`, "/d/üü"), false, literal);
    assert.equal(permits("fs.read", `/d/*${literal}*x`, "/d/üüx"), false, literal);
  }
  assert.equal(permits("fs.read", "/d/*", "/d/.hidden"), true);
  assert.equal(permits("fs.read", "/d/**", "/d/.git/config"), true);
  assert.equal(permits("fs.read", "/d/a*", "/d/A1"), false);
  assert.equal(permits("fs.read", "/d/.*", "/d/x"), false);
});

test("[LEA-3] `*` stays in its segment, `**` crosses segments and covers the folder itself", () => {
  const table: [pattern: string, covered: string[], not: string[]][] = [
    ["/a/**", ["/a", "/a/b", "/a/b/c", "/a/.b"], ["/", "/ab", "/b/a", "/A/b"]],
    ["/a/*", ["/a/b"], ["/a", "/a/b/c", "/"]],
    ["/a/*/c", ["/a/b/c"], ["/a/c", "/a/b/b/c"]],
    ["/a/**/c", ["/a/c", "/a/b/c", "/a/b/b/c", "/a/c/c"], ["/a", "/c", "/a/b", "/a/c/d"]],
    ["/**/c", ["/c", "/a/c"], ["/", "/a"]],
    ["/**", ["/", "/a", "/a/b"], []],
    ["/", ["/"], ["/a"]],
    ["/*", ["/a"], ["/", "/a/b"]],
    ["/a*", ["/a", "/ab"], ["/b", "/a/b"]],
    ["/a/**/**/b", ["/a/b", "/a/x/y/b"], ["/a"]],
    ["/a/**/b/**/c", ["/a/b/c", "/a/x/b/y/c", "/a/b/b/c"], ["/a/c", "/a/c/b"]],
    ["/*a*b", ["/ab", "/xaxb", "/aab"], ["/ba", "/a", "/abc"]],
  ];
  for (const [pattern, covered, not] of table) {
    for (const target of covered) assert.equal(permits("fs.read", pattern, target), true, `${pattern} ${target}`);
    for (const target of not) assert.equal(permits("fs.read", pattern, target), false, `${pattern} ${target}`);
  }
});

test("[LEA-3] of a URL scheme, host and port are matched as one segment each, and the query not at all", () => {
  const table: [pattern: string, covered: string[], not: string[]][] = [
    [
      "https://h/v1/**",
      ["https://h/v1", "https://h/v1/", "https://h/v1/a?x=/../..", "https://H:443/v1/a#f"],
      ["https://h/", "http://h/v1", "https://h:8443/v1/a", "https://h/v2"],
    ],
    ["https://h", ["https://h", "https://h/", "https://h?q"], ["https://h/a"]],
    [
      "https://*.h.de/**",
      ["https://a.h.de/", "https://a.b.h.de/x"],
      ["https://h.de/", "https://a.h.de:1/", "https://evil.com/a.h.de", "http://a.h.de/"],
    ],
    [
      "http://127.0.0.1:*/**",
      ["http://127.0.0.1:8080/", "http://0x7f.1:1/"],
      ["http://127.0.0.1/", "http://127.0.0.2:1/"],
    ],
    ["http://2130706433/**", ["http://127.0.0.1/a"], ["http://127.0.0.2/"]],
    ["http://[0:0::1]:80/**", ["http://[::1]/a"], ["http://[::2]/"]],
    ["https://h/a/*", ["https://h/a/b"], ["https://h/a", "https://h/a/", "https://h/a/b/", "https://h/a/b/c"]],
    ["https://h/a/*/", ["https://h/a/b/"], ["https://h/a/b"]],
    ["https://h/a b/*0b", ["https://h/a%20b/x0b"], ["https://h/a%20b/x%20b"]],
    ["**", ["https://h/a", "http://x/"], []],
  ];
  for (const [pattern, covered, not] of table) {
    for (const target of covered) assert.equal(permits("net.fetch", pattern, target), true, `${pattern} ${target}`);
    for (const target of not) assert.equal(permits("net.fetch", pattern, target), false, `${pattern} ${target}`);
  }
});

test("[LEA-3] names match whole, a version only where the pattern has one", () => {
  assert.equal(permits("tool.call", "mcp.*", "mcp.read"), true);
  assert.equal(permits("tool.call", "mcp.*", "mcp.read/all"), false);
  assert.equal(permits("tool.call", "search", "search2"), false);
  assert.equal(permits("agent.delegate", "summarise", "summarise@1.0.0"), false);
  assert.equal(permits("agent.delegate", "summarise@*", "summarise@1.0.0"), true);
  assert.equal(permits("model.use", "openai/*", "openai/gpt-5"), true);
  assert.equal(permits("model.use", "openai/**", "anthropic/claude"), false);
  assert.equal(permits("x-vendor.acme.db", "tables/*", "tables/users"), true);
  assert.equal(permits("cost.budget", "USD:1", "USD:1"), false);
});

test("[LEA-4] wildcards are few, and the worst patterns match in no time", () => {
  refused("fs.read", "/a*b*c*");
  refused("fs.read", `/${"a*/".repeat(9)}b`);
  refused("fs.read", `/${"a/".repeat(130)}b`);
  const patterns = (segment: string) =>
    Array.from({ length: 256 }, (_, n) => `/**/${segment}/${segment}/${segment}/${n}b`);
  const authority = new Authority({ lease: parseLease({ "fs.read": patterns("*a*a"), "fs.write": patterns("*a*b") }) });
  const long = `${"a".repeat(1_000)}/`.repeat(8);
  const deep = `${"a".repeat(60)}/`.repeat(120);
  for (const capability of ["fs.read", "fs.write"]) {
    authority.permits(capability, "/a");
    for (const target of [`/${long}c`, `/${deep}c`, `/${"aa/".repeat(120)}c`]) {
      const before = process.cpuUsage().user;
      assert.equal(authority.permits(capability, target), false);
      const spentMs = (process.cpuUsage().user - before) / 1_000;
      assert(spentMs < 250, `${spentMs} ms for 256 of the worst patterns`);
    }
  }
});
