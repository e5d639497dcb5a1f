/** Logins, roles, tickets and rates, over real HTTP and WebSockets. */
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { ask as askAt, cookieOf, newHttpServer } from "../../../test/http-server.ts";
import { connect } from "../../client/index.ts";
import { Runtime } from "../../runtime/index.ts";
import { sqlite } from "../../store/sqlite/index.ts";
import { ManualClock } from "../../testing/manual-clock.ts";
import { serve } from "../serve.ts";
import { bearerTokens } from "../tokens.ts";

const DEADLINE = { timeout: 30_000 };

test("[SRV-21] a token becomes a cookie that scripts cannot read, until the logout", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack);
  const login = await ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } });
  assert.equal(login.status, 200);
  const [cookie = ""] = login.headers["set-cookie"] ?? [];
  assert.match(cookie, /^holdfast_session=[\w-]{43}\.[\w-]+; Max-Age=43\d{3}; Path=\/v1; HttpOnly; SameSite=Strict$/);
  assert.doesNotMatch(`${cookie}${login.text}`, /alices/);
  const headers = { cookie: cookieOf(login) };

  const who = await ask("/v1/whoami", { token: "", headers });
  assert.deepEqual([who.json["principal"], who.json["role"]], ["alice", "user"]);
  const csrf = String(who.json["csrf_token"]);
  assert.equal(csrf, login.json["csrf_token"]);
  assert.equal((await ask("/v1/jobs", { token: "", headers })).status, 200);

  const out = await ask("/v1/logout", { token: "", method: "POST", headers: { ...headers, "x-csrf-token": csrf } });
  assert.deepEqual([out.status, out.json], [200, { outcome: "logged_out" }]);
  assert.match(String(out.headers["set-cookie"]), /^holdfast_session=; Max-Age=0/);
  assert.equal((await ask("/v1/jobs", { token: "", headers })).status, 401);
});

test("[SRV-21] with a cookie a change needs the login's own CSRF token; a look does not", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack);
  const logIn = () => ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } });
  const [mine, other] = [await logIn(), await logIn()];
  const headers = { cookie: cookieOf(mine) };
  const cancel = (more: Record<string, string>, token = "") =>
    ask("/v1/jobs/job_x/cancel", { token, method: "POST", headers: { ...headers, ...more } });
  for (const wrong of [{}, { "x-csrf-token": "" }, { "x-csrf-token": String(other.json["csrf_token"]) }]) {
    const refused = await cancel(wrong);
    assert.deepEqual([refused.status, refused.json["code"]], [403, "PERMISSION_DENIED"]);
    assert.match(String(refused.json["detail"]), /^x-csrf-token: /);
  }
  assert.equal((await cancel({ "x-csrf-token": String(mine.json["csrf_token"]) })).status, 404);
  // Who sends a token of his own is no page that somebody else could steer.
  assert.equal((await cancel({}, "alices")).status, 404);
  assert.equal((await cancel({}, "wrong")).status, 401);
});

test("[SRV-21] a login ends after 12 hours, and with its token", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const auth = bearerTokens(
    { long: "alice", short: { principal: "bob", expiresAt: clock.wall() + 60_000 } },
    { clock },
  );
  const { ask } = await newHttpServer(stack, { runtime: { clock, auth } });
  const login = async (token: string) => {
    const answer = await ask("/v1/login", { token: "", method: "POST", body: { token } });
    return async () => (await ask("/v1/whoami", { token: "", headers: { cookie: cookieOf(answer) } })).status;
  };
  const [long, short] = [await login("long"), await login("short")];
  clock.stepWall(59_999);
  assert.deepEqual([await long(), await short()], [200, 200]);
  clock.stepWall(1);
  assert.deepEqual([await long(), await short()], [200, 401]);
  clock.stepWall(12 * 3_600_000 - 60_001);
  assert.equal(await long(), 200);
  clock.stepWall(1);
  assert.equal(await long(), 401);
});

test("[SRV-21] behind a proxy that speaks TLS the cookie goes over TLS alone", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask } = await newHttpServer(stack, { server: { secureCookies: true } });
  const login = await ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } });
  assert.match(String(login.headers["set-cookie"]), /; Secure/);
});

test("[SRV-24] logins that fail are slowed down by address; those that succeed are not", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const { ask } = await newHttpServer(stack, { runtime: { clock } });
  const login = (token: string) => ask("/v1/login", { token: "", method: "POST", body: { token } });
  for (let n = 0; n < 20; n += 1) assert.equal((await login("alices")).status, 200);
  for (let n = 0; n < 10; n += 1) assert.equal((await login(`guess${n}`)).status, 401);
  const slowed = await login("alices");
  assert.deepEqual([slowed.status, slowed.headers["retry-after"]], [429, "6"]);
  assert.deepEqual(slowed.json["details"], { code: "LIMIT_EXCEEDED", retry_after_ms: 6_000 });
  await clock.advance(6_000);
  assert.equal((await login("alices")).status, 200);
});

test("[SRV-24] a principal that asks too often is told when to come back; others are served", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const rateLimit = { perSecond: 2, burst: 5 };
  const { ask } = await newHttpServer(stack, { runtime: { clock }, server: { rateLimit } });
  const status = async (token: string) => (await ask("/v1/whoami", { token })).status;
  for (let n = 0; n < 5; n += 1) assert.equal(await status("alices"), 200);
  for (let n = 0; n < 5; n += 1) {
    const refused = await ask("/v1/whoami");
    assert.deepEqual([refused.status, refused.headers["retry-after"]], [429, "1"]);
    assert.equal(refused.headers["content-type"], "application/problem+json");
    assert.equal(refused.json["retryable"], true);
  }
  assert.equal(await status("bobs"), 200);
  await clock.advance(500);
  assert.deepEqual([await status("alices"), await status("alices")], [200, 429]);
});

test("[SRV-20] an observer looks at what its principal may see, and changes nothing", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, server } = await newHttpServer(stack);
  const alice = stack.use(await connect(server.url, { token: "alices" }));
  const job = await alice.submit("wait");
  assert.equal((await ask(`/v1/jobs/${job.id}`, { token: "ottos" })).status, 200);
  assert.deepEqual((await ask("/v1/whoami", { token: "ottos" })).json["role"], "observer");
  for (const [method, target] of [
    ["POST", `/v1/jobs/${job.id}/cancel`],
    ["POST", `/v1/jobs/${job.id}/questions/q/answer`],
    ["DELETE", "/v1/conversations/c"],
  ] as const) {
    const refused = await ask(target, { method, token: "ottos" });
    assert.deepEqual([refused.status, refused.json["code"]], [403, "PERMISSION_DENIED"], target);
  }

  const observer = stack.use(await connect(server.url, { token: "ottos" }));
  const watched = await observer.subscribe(job.id, { history: true });
  for await (const event of watched) {
    assert.equal(event.kind, "log");
    break;
  }
  const refusal = (error: unknown) => error instanceof Error && /observer/.test(error.message);
  await assert.rejects(observer.submit("echo", 1), refusal);
  await assert.rejects(observer.turn("cli:notes", "echo", 1), refusal);
  assert.equal((await observer.listJobs()).jobs.length, 1);
});

test(
  "[SRV-19] an operator sees, follows and cancels what is others', with a line for the audit",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const audit: Record<string, unknown>[] = [];
    const ignore = () => undefined;
    const info = (fields: object) => void ("audit" in fields && audit.push({ ...fields }));
    const logger = { debug: ignore, info, warn: ignore, error: ignore };
    const { ask, server } = await newHttpServer(stack, { runtime: { logger }, server: { logger } });
    const alice = stack.use(await connect(server.url, { token: "alices" }));
    const job = await alice.submit("wait");
    const listed = (await ask("/v1/jobs", { token: "olgas" })).json["jobs"] as { principal: string }[];
    assert.deepEqual(
      listed.map(({ principal }) => principal),
      ["alice"],
    );

    const olga = stack.use(await connect(server.url, { token: "olgas" }));
    const watched = await olga.subscribe(job.id, { history: true });
    const cancelled = await ask(`/v1/jobs/${job.id}/cancel`, { method: "POST", token: "olgas", body: { reason: "x" } });
    assert.equal(cancelled.status, 202);
    assert.equal((await watched.terminal).final_status, "cancelled");
    assert.deepEqual(
      audit.map(({ audit: what, principal, role, job_id: jobId, route, status }) => ({
        what,
        principal,
        role,
        jobId,
        route,
        status,
      })),
      [
        {
          what: "job.subscribe",
          principal: "olga",
          role: undefined,
          jobId: job.id,
          route: undefined,
          status: undefined,
        },
        { what: "job.cancel", principal: "olga", role: undefined, jobId: job.id, route: undefined, status: undefined },
        {
          what: "operator.request",
          principal: "olga",
          role: undefined,
          jobId: undefined,
          route: "/v1/jobs/{id}/cancel",
          status: 202,
        },
      ],
    );
  },
);

test("[SRV-27] a ticket says hello once, within 30 seconds, and opens nothing else", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const clock = new ManualClock();
  const { ask, server } = await newHttpServer(stack, { runtime: { clock } });
  const newTicket = async () => {
    const given = await ask("/v1/tickets", { method: "POST" });
    assert.deepEqual([given.status, given.json["expires_in_sec"]], [201, 30]);
    return String(given.json["ticket"]);
  };
  const hello = async (ticket: string) => {
    await using session = await connect(server.url, { token: ticket, reconnect: { giveUpAfterMs: 1 } });
    return session.id;
  };
  const unauthenticated = (error: unknown) =>
    error instanceof Error && "code" in error && error.code === "UNAUTHENTICATED";

  const ticket = await newTicket();
  assert.equal((await ask("/v1/whoami", { token: ticket })).status, 401);
  assert.equal((await ask("/v1/login", { token: "", method: "POST", body: { token: ticket } })).status, 401);
  await hello(ticket);
  await assert.rejects(hello(ticket), unauthenticated);

  const late = await newTicket();
  const inTime = await newTicket();
  await clock.advance(29_999);
  await hello(inTime);
  await clock.advance(1);
  await assert.rejects(hello(late), unauthenticated);
});

test(
  "[SRV-27] a page with nothing but a cookie keeps a session with a ticket for each connection",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { ask, server } = await newHttpServer(stack);
    const login = await ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } });
    const headers = { cookie: cookieOf(login), "x-csrf-token": String(login.json["csrf_token"]) };
    let tickets = 0;
    const token = async () => {
      tickets += 1;
      return String((await ask("/v1/tickets", { token: "", method: "POST", headers })).json["ticket"]);
    };
    const session = stack.use(await connect(server.url, { token }));
    assert.equal(await (await session.submit("echo", 7)).result, 7);
    assert.equal(tickets, 1);
  },
);

test("[SRV-27] of more than 100 unused tickets of a principal the oldest is over", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { runtime } = await newHttpServer(stack);
  const bob = await runtime.tickets.issue({ principal: "bob" });
  const tickets: string[] = [];
  for (let n = 0; n <= 100; n += 1) tickets.push(await runtime.tickets.issue({ principal: "alice" }));
  const [first = "", second = ""] = tickets;
  assert.equal(await runtime.tickets.redeem(first), undefined);
  assert.deepEqual(await runtime.tickets.redeem(second), { principal: "alice" });
  assert.deepEqual(await runtime.tickets.redeem(bob), { principal: "bob" });
});

test(
  "[SRV-21] [SRV-27] a login and a ticket are good at every node, and a logout is a logout everywhere",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { ask, file } = await newHttpServer(stack);
    const auth = bearerTokens({ alices: "alice" });
    const runtime = new Runtime({ store: sqlite(file), auth });
    const other = await serve(runtime, { port: 0 });
    stack.defer(() => other.stop({ drainMs: 0 }));
    const login = await ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } });
    const headers = { cookie: cookieOf(login), "x-csrf-token": String(login.json["csrf_token"]) };
    const there = async (target: string, method = "GET") =>
      await askAt(other.port, target, { token: "", method, headers });

    const who = await there("/v1/whoami");
    assert.deepEqual([who.json["principal"], who.json["csrf_token"]], ["alice", login.json["csrf_token"]]);
    const given = await ask("/v1/tickets", { token: "", method: "POST", headers });
    await using session = await connect(other.url, { token: String(given.json["ticket"]) });
    assert.match(session.id, /^sess_/);
    assert.equal((await there("/v1/logout", "POST")).status, 200);
    assert.equal((await ask("/v1/whoami", { token: "", headers })).status, 401);
  },
);

test(
  "[SRV-21] a login ends as soon as its token is good no more, and nothing that is stored opens it",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const good = new Map([["alices", "alice"]]);
    const auth = {
      authenticate: async (token: string) => {
        const principal = good.get(token);
        return principal === undefined ? undefined : { principal };
      },
    };
    const { ask, file } = await newHttpServer(stack, { runtime: { auth } });
    const login = await ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } });
    const cookie = cookieOf(login);
    const status = async () => (await ask("/v1/whoami", { token: "", headers: { cookie } })).status;
    assert.equal(await status(), 200);
    const stored = Buffer.concat(globSync(`${file}*`).map((part) => readFileSync(part)));
    for (const secret of ["alices", cookie.split("=")[1] ?? "", String(login.json["csrf_token"])]) {
      assert.equal(stored.includes(secret), false);
    }
    const forged = cookie.replace(/\.(.)/, (_, first) => (first === "A" ? ".B" : ".A"));
    assert.equal((await ask("/v1/whoami", { token: "", headers: { cookie: forged } })).status, 401);
    good.clear();
    assert.equal(await status(), 401);
  },
);

test("[SRV-21] a token that fits into no cookie is refused, saying so", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const auth = bearerTokens({ ["x".repeat(2_800)]: "alice", ["x".repeat(2_801)]: "alice" });
  const { ask } = await newHttpServer(stack, { runtime: { auth } });
  const login = (token: string) => ask("/v1/login", { token: "", method: "POST", body: { token } });
  const longest = await login("x".repeat(2_800));
  assert.ok(cookieOf(longest).length < 4_000);
  const who = await ask("/v1/whoami", { token: "", headers: { cookie: cookieOf(longest) } });
  assert.equal(who.status, 200);
  const refused = await login("x".repeat(2_801));
  assert.deepEqual([refused.status, refused.json["detail"]], [400, "token: has 2801 bytes, and a login takes 2800."]);
});

test("[SRV-21] while the store does not answer a login is neither good nor over", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  const { ask, store } = await newHttpServer(stack);
  const login = await ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } });
  const headers = { cookie: cookieOf(login) };
  store.goDown();
  const refused = await ask("/v1/whoami", { token: "", headers });
  assert.deepEqual([refused.status, refused.json["retryable"]], [503, true]);
  assert.equal((await ask("/v1/login", { token: "", method: "POST", body: { token: "alices" } })).status, 503);
  store.recover();
  assert.equal((await ask("/v1/whoami", { token: "", headers })).status, 200);
});

test("[SRV-24] a rate that is none is refused", DEADLINE, async () => {
  await using stack = new AsyncDisposableStack();
  await assert.rejects(newHttpServer(stack, { server: { rateLimit: { perSecond: 0, burst: 1 } } }), RangeError);
});
