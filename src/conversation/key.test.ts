import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ArcpError } from "../protocol/index.ts";
import { type ConversationKey, conversationIdOf, keyText, parseKey, readKey, writeKey } from "./key.ts";

const part = fc.string({ minLength: 1, maxLength: 12, unit: "grapheme" }).filter((text) => !/\p{Cc}/u.test(text));
const slack = fc.record(
  { source: fc.constant("slack" as const), channel: part, thread: part, ticket: part },
  { requiredKeys: ["source", "channel", "thread"] },
);
const custom = fc.record({
  source: fc.constantFrom("x-a" as const, "x-ab" as const, "x-tickets" as const),
  parts: fc.array(part, { minLength: 1, maxLength: 4 }),
});
const anyKey: fc.Arbitrary<ConversationKey> = fc.oneof(
  slack,
  fc.record({ source: fc.constant("web" as const), chat: part }),
  fc.record({ source: fc.constant("cli" as const), name: part }),
  custom,
);

test("[CNV-1] no two keys have one id, and equal keys have the same", () => {
  fc.assert(
    fc.property(anyKey, anyKey, fc.constantFrom("alice", "bob", "al"), (one, other, principal) => {
      const same = keyText(one) === keyText(other);
      assert.equal(conversationIdOf(one, principal) === conversationIdOf(other, principal), same);
      assert.equal(conversationIdOf(one, principal), conversationIdOf(parseKey(JSON.parse(keyText(one))), principal));
    }),
    { numRuns: 10_000 },
  );
  const id = (key: ConversationKey) => conversationIdOf(key, "alice");
  // Parts that read alike when they are merely joined.
  assert.notEqual(id({ source: "x-a", parts: ["b", "c"] }), id({ source: "x-a", parts: ["b/c"] }));
  assert.notEqual(id({ source: "x-a", parts: ["bc"] }), id({ source: "x-a", parts: ["b", "c"] }));
  const thread = { source: "slack", channel: "C1", thread: "1.2" } as const;
  assert.notEqual(id(thread), id({ ...thread, ticket: "T" }));
  assert.equal(id(thread), id({ ...thread, team: "another workspace" }));
  assert.equal(id(thread), conversationIdOf(thread, "bob"));
  assert.notEqual(id({ source: "cli", name: "n" }), conversationIdOf({ source: "cli", name: "n" }, "bob"));
  assert.match(id(thread), /^slack_[a-z2-7]{32}$/);
});

test("[CNV-8] a key reads back as it is written", () => {
  fc.assert(
    fc.property(anyKey, (key) => {
      assert.equal(keyText(readKey(writeKey(key))), keyText(key));
    }),
    { numRuns: 10_000 },
  );
  assert.deepEqual(readKey("slack:C1/1700.1"), { source: "slack", channel: "C1", thread: "1700.1" });
  assert.deepEqual(readKey("cli:a%2Fb"), { source: "cli", name: "a/b" });
});

test("[CNV-7] what is no key is refused, naming the part", () => {
  const cases: [value: unknown, named: RegExp][] = [
    [null, /key/],
    ["cli:x", /key/],
    [[], /key/],
    [{ source: "fax" }, /key\.source/],
    [{ source: "x-" }, /key\.source/],
    [{ source: "slack", channel: "C" }, /key\.thread/],
    [{ source: "slack", channel: "", thread: "1" }, /key\.channel.*empty/],
    [{ source: "slack", channel: "C", thread: 1 }, /key\.thread/],
    [{ source: "slack", channel: "C", thread: "1", ticket: "" }, /key\.ticket/],
    [{ source: "web", chat: "a\u0000b" }, /key\.chat/],
    [{ source: "web", chat: "\ud800" }, /key\.chat/],
    [{ source: "cli", name: "n", more: 1 }, /more/],
    [{ source: "x-a", parts: Array(17).fill("p") }, /key\.parts/],
    [{ source: "x-a", parts: ["p", ""] }, /key\.parts\[1\]/],
  ];
  for (const [value, named] of cases) {
    assert.throws(
      () => parseKey(value),
      (error) => error instanceof ArcpError && error.code === "INVALID_REQUEST" && named.test(error.message),
      JSON.stringify(value),
    );
  }
  for (const text of ["", "cli", "cli:", "slack:C", "slack:C/1/T/more", "cli:a%zz", "fax:1", ":x"]) {
    assert.throws(() => readKey(text), ArcpError, text);
  }
});
