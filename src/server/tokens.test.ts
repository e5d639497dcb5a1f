import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";
import { ManualClock } from "../testing/manual-clock.ts";
import { bearerTokens, firstOf, generateToken, parseTokenPairs, tokensFromFile, withOperators } from "./tokens.ts";

async function tokenFile(content: unknown): Promise<{ file: string } & AsyncDisposable> {
  const root = await mkdtemp(path.join(tmpdir(), "holdfast-tokens-"));
  const file = path.join(root, "tokens.json");
  await writeFile(file, typeof content === "string" ? content : JSON.stringify(content), { mode: 0o600 });
  return { file, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) };
}

test("[SRV-3] a known token has its principal, any other has none, and no token is kept in the clear", async () => {
  const tokens = bearerTokens({ "secret-1": "alice", "secret-2": { principal: "bob" } });
  assert.deepEqual(await tokens.authenticate("secret-1"), { principal: "alice" });
  assert.deepEqual(await tokens.authenticate("secret-2"), { principal: "bob" });
  assert.equal(await tokens.authenticate("secret-"), undefined);
  assert.equal(await tokens.authenticate(""), undefined);
  assert.doesNotMatch(inspect(tokens, { depth: 10, showHidden: true }), /secret/);
  assert.throws(() => bearerTokens({ "": "alice" }), RangeError);
});

test("[SRV-19] a token's identity may be an operator's, in a list, in a file, or by its principal", async () => {
  const listed = bearerTokens({ a: { principal: "alice", operator: true }, b: "bob", c: "carol" });
  assert.deepEqual(await listed.authenticate("a"), { principal: "alice", operator: true });
  await using place = await tokenFile({
    tokens: [
      { token: "d", principal: "dora", operator: true },
      { token: "e", principal: "erik", operator: false },
      { token: "f", principal: "bob" },
    ],
  });
  const all = withOperators(firstOf([listed, await tokensFromFile(place.file)]), ["bob"]);
  const operators = await Promise.all(
    [..."abcdefg"].map(async (token) => (await all.authenticate(token))?.operator === true),
  );
  assert.deepEqual(operators, [true, true, false, true, false, true, false]);
  await using wrong = await tokenFile({ tokens: [{ token: "t", principal: "tom", operator: "yes" }] });
  await assert.rejects(tokensFromFile(wrong.file), /tokens\.0/);
});

test("[SES-11] a token is good until its end, and not at it", async () => {
  const clock = new ManualClock();
  const tokens = bearerTokens({ t: { principal: "alice", expiresAt: clock.wall() + 1_000 } }, { clock });
  assert.equal((await tokens.authenticate("t"))?.principal, "alice");
  await clock.advance(1_000);
  assert.equal(await tokens.authenticate("t"), undefined);
});

test("[SRV-3] several sources are asked in turn", async () => {
  const both = firstOf([bearerTokens({ a: "alice" }), bearerTokens({ b: "bob" })]);
  assert.equal((await both.authenticate("b"))?.principal, "bob");
  assert.equal(await both.authenticate("c"), undefined);
});

test("[SRV-3] pairs are read with the last = as the divider, and a bad one is told without its token", () => {
  assert.deepEqual(parseTokenPairs("abc==alice, x=bob"), { "abc=": "alice", x: "bob" });
  for (const bad of ["secret", "=alice", "secret=", "a=b,"]) {
    assert.throws(
      () => parseTokenPairs(bad),
      (error: Error) => !error.message.includes("secret"),
    );
  }
});

test("[SRV-3] a file gives tokens in the clear or as hashes, and is read again when it has changed", async () => {
  const sha256 = createHash("sha256").update("hashed").digest("hex");
  await using place = await tokenFile({
    tokens: [
      { token: "clear", principal: "alice" },
      { sha256, principal: "bob" },
    ],
  });
  const errors: string[] = [];
  const ignore = () => undefined;
  const logger = {
    debug: ignore,
    info: ignore,
    warn: ignore,
    error: (_: object, message: string) => errors.push(message),
  };
  const tokens = await tokensFromFile(place.file, { logger });
  assert.equal((await tokens.authenticate("clear"))?.principal, "alice");
  assert.equal((await tokens.authenticate("hashed"))?.principal, "bob");

  await writeFile(place.file, JSON.stringify({ tokens: [{ token: "new-token", principal: "carol" }] }));
  assert.equal(await tokens.authenticate("clear"), undefined);
  assert.equal((await tokens.authenticate("new-token"))?.principal, "carol");

  await writeFile(place.file, "{ half");
  assert.equal((await tokens.authenticate("new-token"))?.principal, "carol");
  assert.match(errors[0] ?? "", /cannot be read/);
});

test("[SRV-3] a file that everybody can read, that is no JSON or has a wrong field is refused", async () => {
  await using open = await tokenFile({ tokens: [] });
  await chmod(open.file, 0o644);
  await assert.rejects(tokensFromFile(open.file), /chmod 600/);
  await using broken = await tokenFile('{"tokens": [{"token": "hunter2"');
  await assert.rejects(
    tokensFromFile(broken.file),
    (error: Error) => /not JSON/.test(error.message) && !/hunter2/.test(error.message),
  );
  await using wrong = await tokenFile({ tokens: [{ token: "t" }] });
  await assert.rejects(tokensFromFile(wrong.file), /tokens\.0/);
  await assert.rejects(tokensFromFile(`${wrong.file}.not-there`), /ENOENT/);
});

test("[SRV-3] generated tokens differ and are long enough not to be guessed", () => {
  assert.notEqual(generateToken(), generateToken());
  assert.ok(generateToken().length >= 32);
});

test("[SRV-20] a token may be an observer's, in the program and in a file, and then no operator's", async () => {
  const both = { principal: "alice", operator: true, observer: true };
  assert.throws(() => bearerTokens({ t: both }), RangeError);
  const auth = withOperators(bearerTokens({ t: { principal: "alice", observer: true } }), ["alice"]);
  assert.deepEqual(await auth.authenticate("t"), { principal: "alice", observer: true });
  await using place = await tokenFile({ tokens: [{ token: "t", principal: "alice", observer: true }] });
  assert.deepEqual(await (await tokensFromFile(place.file)).authenticate("t"), { principal: "alice", observer: true });
  await using wrong = await tokenFile({ tokens: [{ token: "t", ...both }] });
  await assert.rejects(tokensFromFile(wrong.file), /operator and observer/);
});
