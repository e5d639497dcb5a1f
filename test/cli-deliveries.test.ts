/** Deliveries on the command line: the real command against a server in this process, whose channel is a fake. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Conversations } from "../src/conversation/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { FakeChannel } from "../src/testing/fake-channel.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const MAIN = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));
const DEADLINE = { timeout: 120_000 };

test(
  "[CLI-26] deliveries are listed and shown, and those that failed are tried again or discarded",
  DEADLINE,
  async () => {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(await temporaryFolder());
    const auth = bearerTokens({ alices: "alice", bobs: "bob" });
    const runtime = new Runtime({ store: sqlite(join(folder.path, "test.db")), auth });
    runtime.agent("echo", (input) => input);
    const channel = new FakeChannel();
    const conversations = new Conversations(runtime, { deliveries: { channels: [channel] } });
    const server = await serve(runtime, { port: 0, conversations });
    stack.defer(() => server.stop({ drainMs: 0 }));

    const holdfast = async (...args: string[]) => {
      const child = spawn(process.execPath, [MAIN, "deliveries", ...args], {
        env: {
          PATH: process.env["PATH"],
          HOLDFAST_HOME: folder.path,
          HOLDFAST_URL: server.url,
          HOLDFAST_TOKEN: "alices",
        },
        stdio: ["ignore", "pipe", "pipe"],
        timeout: 60_000,
      });
      const [out, err, [status]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "exit")]);
      return { out, err, status: status as number };
    };
    const idsOf = ({ out }: { out: string }) =>
      out
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => (JSON.parse(line) as { delivery_id: string }).delivery_id);
    const answered = async (thread: string): Promise<string> => {
      const over = Promise.withResolvers<string>();
      for (const name of ["delivered", "failed"] as const) {
        conversations.deliveries.on(name, ({ deliveryId }) => over.resolve(deliveryId));
      }
      await conversations.startTurn({
        key: { source: "slack", channel: "C1", thread },
        principal: "alice",
        agent: "echo",
        input: "The answer.",
        replyTo: {
          routeKey: { channel: "fake", bridge: "T1", room: "red\u001b[31m", thread },
          fallbacks: { externalRoomId: "C1", threadId: thread },
        },
      });
      return await over.promise;
    };

    const none = await holdfast("--failed");
    assert.deepEqual([none.out, none.err.trim(), none.status], ["", "No deliveries that are failed.", 0]);
    const first = await answered("1.1");
    for (let i = 0; i < 2; i += 1) channel.fail("send", { kind: "refused" });
    const second = await answered("1.2");
    const third = await answered("1.3");

    const [table, all, failed, arrived, others, shown] = await Promise.all([
      holdfast(),
      holdfast("--json"),
      holdfast("--failed", "--json"),
      holdfast("--state", "delivered", "--channel", "fake", "--json"),
      holdfast("--channel", "slack", "--json"),
      holdfast(second),
    ]);
    assert.equal(table.status, 0);
    for (const said of [first, second, third, "delivered", "failed", "fake/T1/red[31m/1.1", "as the test wants"]) {
      assert.ok(table.out.includes(said), `${said} is not in\n${table.out}`);
    }
    assert.ok(!table.out.includes("\u001b"));
    assert.deepEqual([all, failed, arrived, others].map(idsOf), [[third, second, first], [third, second], [first], []]);
    assert.match(shown.out, /^state {9}failed$/m);
    assert.match(shown.out, /^last error {4}send fails, as the test wants it$/m);
    assert.match(shown.out, /^tries {9}1, of which 1 came to nothing$/m);

    const delivered = new Promise<void>((resolve) => conversations.deliveries.on("delivered", () => resolve()));
    const retried = await holdfast("retry", second);
    assert.deepEqual([retried.out, retried.status], [`${second} is tried again.\n`, 0]);
    await delivered;
    const discarded = await holdfast("discard", third, "--json");
    assert.equal((JSON.parse(discarded.out) as { state: string }).state, "discarded");

    const wrong: [string[], RegExp, number][] = [
      [["retry", second], /is delivered; only a failed one is tried again/, 1],
      [["retry", "dlv_none"], /No delivery dlv_none of yours is there/, 1],
      [["dlv_none"], /No delivery dlv_none of yours is there/, 1],
      [[first, "--token", "bobs"], /No delivery dlv_\w+ of yours is there/, 1],
      [["--failed", "--state", "open"], /--failed: is not --state open/, 2],
      [["--state", "lost"], /--state/, 2],
    ];
    await Promise.all(
      wrong.map(async ([args, said, status]) => {
        const outcome = await holdfast(...args);
        assert.match(outcome.err, said);
        assert.deepEqual([outcome.out, outcome.status], ["", status]);
      }),
    );
  },
);
