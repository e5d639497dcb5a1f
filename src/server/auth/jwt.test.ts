/** JSON Web Tokens, with keys of our own and with keys from a server. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { newHttpServer } from "../../../test/http-server.ts";
import { connect } from "../../client/index.ts";
import { systemClock } from "../../clock.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { bearerTokens, firstOf } from "../tokens.ts";
import { type JwtAuthOptions, jwtAuth } from "./jwt.ts";

const DEADLINE = { timeout: 30_000 };
const ISSUER = "https://id.example.com";
const AUDIENCE = "holdfast";

async function newProvider(clock: ManualClock) {
  const { publicKey, privateKey } = await generateKeyPair("ES256");
  const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: "k1", alg: "ES256", use: "sig" }] };
  const sign = async (claims: Record<string, unknown> = {}, header: Record<string, unknown> = {}) =>
    await new SignJWT({ sub: "alice", iss: ISSUER, aud: AUDIENCE, exp: clock.wall() / 1_000 + 60, ...claims })
      .setProtectedHeader({ alg: "ES256", kid: "k1", ...header })
      .sign(privateKey);
  const auth = (options: Partial<JwtAuthOptions> = {}) =>
    jwtAuth({ jwks, issuer: ISSUER, audience: AUDIENCE, clock, ...options });
  return { jwks, sign, auth };
}

test("[SRV-28] a token that the provider signed for us is its subject's, until its end", DEADLINE, async () => {
  const clock = new ManualClock();
  const { sign, auth } = await newProvider(clock);
  const jwt = await auth();
  const exp = clock.wall() / 1_000 + 60;
  const token = await sign();
  assert.deepEqual(await jwt.authenticate(token), { principal: "alice", expiresAt: exp * 1_000 });
  clock.stepWall(64_999);
  assert.notEqual(await jwt.authenticate(token), undefined);
  clock.stepWall(1);
  assert.equal(await jwt.authenticate(token), undefined);
});

test("[SRV-28] others' tokens, changed ones and those without an end are refused", DEADLINE, async () => {
  const clock = new ManualClock();
  const { sign, auth, jwks } = await newProvider(clock);
  const stranger = await newProvider(clock);
  const jwt = await auth();
  const [head = "", body = "", signature = ""] = (await sign()).split(".");
  const none = Buffer.from('{"alg":"none"}').toString("base64url");
  const hs = Buffer.from('{"alg":"HS256","kid":"k1"}').toString("base64url");
  const secret = new TextEncoder().encode(JSON.stringify(jwks.keys[0]));
  const symmetric = await new SignJWT({ sub: "alice" }).setProtectedHeader({ alg: "HS256", kid: "k1" }).sign(secret);
  for (const token of [
    await sign({ iss: "https://evil.example.com" }),
    await sign({ aud: "another" }),
    await sign({ exp: undefined }),
    await sign({ sub: undefined }),
    await sign({ sub: "" }),
    await sign({ sub: "x".repeat(257) }),
    await sign({ nbf: clock.wall() / 1_000 + 30 }),
    await sign({}, { kid: "k2" }),
    await stranger.sign(),
    `${head}.${Buffer.from('{"sub":"olga"}').toString("base64url")}.${signature}`,
    `${none}.${body}.`,
    `${none}.${body}.x`,
    `${hs}.${body}.${signature}`,
    symmetric,
    `${head}.${body}`,
    "alices",
    "",
    "x".repeat(20_000),
  ]) {
    assert.equal(await jwt.authenticate(token), undefined, token.slice(0, 100));
  }
});

test("[SRV-28] roles come from a claim; of several the one that may do most counts", DEADLINE, async () => {
  const clock = new ManualClock();
  const { sign, auth } = await newProvider(clock);
  const jwt = await auth({ principalClaim: "email", rolesClaim: "groups", roleNames: { operator: "admins" } });
  const role = async (groups: unknown) => {
    const { operator, observer } = (await jwt.authenticate(await sign({ email: "a@b.c", groups }))) ?? {};
    return operator === true ? "operator" : observer === true ? "observer" : "user";
  };
  assert.equal(await role(undefined), "user");
  assert.equal(await role(["observer"]), "observer");
  assert.equal(await role("observer user"), "user");
  assert.equal(await role(["observer", "admins"]), "operator");
  assert.equal(await role(["operator"]), "user");
  assert.equal(await role({ admins: true }), "user");
});

test("[SRV-28] the provider's keys are fetched, and its tokens work for HTTP and the wire", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock(systemClock.wall());
  const { sign, auth, jwks } = await newProvider(clock);
  let asked = 0;
  const provider = createServer((_, response) => {
    asked += 1;
    response.setHeader("content-type", "application/json").end(JSON.stringify(jwks));
  }).listen(0, "127.0.0.1");
  stack.defer(() => void provider.close());
  await once(provider, "listening");
  const jwksUrl = `http://127.0.0.1:${(provider.address() as AddressInfo).port}/jwks`;
  const jwt = await jwtAuth({ jwksUrl, issuer: ISSUER, audience: AUDIENCE, clock });
  const both = firstOf([bearerTokens({ bobs: "bob" }), jwt]);
  const { ask, server } = await newHttpServer(stack, { runtime: { auth: both } });
  const token = await sign({ roles: ["operator"] });
  const who = async (given: string) => (await ask("/v1/whoami", { token: given })).json;
  assert.deepEqual([(await who(token))["principal"], (await who(token))["role"]], ["alice", "operator"]);
  assert.equal((await who("bobs"))["principal"], "bob");
  assert.equal((await who(await sign({}, { kid: "unknown" })))["status"], 401);
  const session = stack.use(await connect(server.url, { token }));
  assert.equal(await (await session.submit("echo", 7)).result, 7);
  assert.ok(asked <= 2, `asked ${asked} times`);
  await assert.doesNotReject(auth());
});

test("[SRV-28] options that cannot be are refused", DEADLINE, async () => {
  const { jwks } = await newProvider(new ManualClock());
  const named = { issuer: ISSUER, audience: AUDIENCE };
  for (const wrong of [
    { ...named },
    { ...named, jwks, jwksUrl: "https://id.example.com/jwks" },
    { ...named, jwks, audience: "" },
    { ...named, jwksUrl: "http://id.example.com/jwks" },
    { ...named, jwksUrl: "file:///etc/passwd" },
    { ...named, jwks, algorithms: ["HS256"] },
  ]) {
    await assert.rejects(jwtAuth(wrong), RangeError, JSON.stringify(wrong));
  }
});
