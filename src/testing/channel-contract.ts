/**
 * What every channel promises, as tests: the same cases run over the fake in memory, over Slack, over the web chat,
 * and over a channel of your own. Hand it a factory and it registers its cases with node:test; what a fixture cannot
 * bring about is skipped by name.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  type Channel,
  ChannelError,
  type ChannelErrorKind,
  type OutgoingMessage,
  type Receipt,
} from "../routing/deliveries/channel.ts";
import type { Route } from "../routing/route.ts";

/** One message as people see it, the markup of the channel taken off. */
export interface ShownMessage {
  readonly text: string;
  readonly files: readonly { readonly name: string; readonly data: Uint8Array }[];
}

/** A channel of its own for one case, and the other side of it. */
export interface ChannelFixture extends AsyncDisposable {
  readonly channel: Channel;
  /** A place that is there and empty. */
  readonly route: Route;
  /** Another thread of the same room, empty too; absent: a room has one thread. */
  readonly otherRoute?: Route | undefined;
  /** What people see there now, in order. */
  shown(route: Route): Promise<readonly ShownMessage[]> | readonly ShownMessage[];
  /** A place that is not there, or takes nothing; absent: cannot be arranged. */
  readonly refusedRoute?: Route | undefined;
  /** The next call is told to come again after so long; absent: cannot be arranged. */
  rateLimitNext?: ((retryAfterMs: number) => Promise<void> | void) | undefined;
  /** The next send arrives, and its answer is lost; absent: cannot be arranged. */
  loseNextAnswer?: (() => Promise<void> | void) | undefined;
  /** The next call is not answered, for as long as somebody waits; absent: cannot be arranged. */
  hangNext?: (() => Promise<void> | void) | undefined;
  /** From now on nobody answers; absent: cannot be arranged. */
  goDown?: (() => Promise<void> | void) | undefined;
}

const DEADLINE = { timeout: 60_000 };

const isKind =
  (...kinds: ChannelErrorKind[]) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof ChannelError, `a ChannelError was expected: ${String(error)}`);
    assert.ok(kinds.includes(error.kind), `${error.kind} is none of ${kinds.join(", ")}: ${error.message}`);
    assert.notEqual(error.message, "", "it does not say what was wrong");
    return true;
  };

let lastDelivery = 0;
const freshDelivery = () => `dlv_contract${++lastDelivery}-${crypto.randomUUID()}`;

const messageTo = (route: Route, given: Partial<OutgoingMessage> = {}): OutgoingMessage => ({
  route,
  deliveryId: freshDelivery(),
  part: 1,
  text: "Hello.",
  status: "success",
  jobId: "job_contract",
  conversationId: "conversation_contract",
  files: [],
  ...given,
});

/** No call of these cases is stopped from outside, unless it says so. */
const calm = () => ({ signal: new AbortController().signal });

/** As the store gives it back. */
const kept = (receipt: Receipt): Receipt => JSON.parse(JSON.stringify(receipt)) as Receipt;

const textsOf = async (fixture: ChannelFixture, route = fixture.route): Promise<string[]> =>
  (await fixture.shown(route)).map(({ text }) => text);

export function channelContract(name: string, open: () => Promise<ChannelFixture> | ChannelFixture): void {
  describe(`${name}: the channel contract`, () => {
    test("[DLV-16] it has a name and limits", DEADLINE, async () => {
      await using fixture = await open();
      const { channel } = fixture;
      assert.match(channel.name, /^[a-z][a-z0-9_.-]*$/);
      for (const limit of [channel.limits.maxTextChars, channel.limits.timeoutMs]) {
        assert.ok(Number.isFinite(limit) && limit > 0);
      }
      assert.ok(channel.limits.maxTextChars >= 100, "texts are not cut to confetti");
      assert.ok(Number.isFinite(channel.limits.minUpdateIntervalMs) && channel.limits.minUpdateIntervalMs >= 0);
    });

    test("[DLV-16] what is sent is shown at its place, in order, and nowhere else", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route, otherRoute } = fixture;
      for (const text of ["one", "two", "three"]) await channel.send(messageTo(route, { text }), calm());
      assert.deepEqual(await textsOf(fixture), ["one", "two", "three"]);
      if (otherRoute === undefined) return;
      assert.deepEqual(await textsOf(fixture, otherRoute), []);
      await channel.send(messageTo(otherRoute, { text: "elsewhere" }), calm());
      assert.deepEqual(await textsOf(fixture), ["one", "two", "three"]);
      assert.deepEqual(await textsOf(fixture, otherRoute), ["elsewhere"]);
    });

    test("[DLV-16] an update puts another text in its message's place, at a later time too", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route } = fixture;
      const message = messageTo(route, { text: "thinking", status: "working" });
      const receipt = kept(await channel.send(message, calm()));
      await channel.send(messageTo(route, { text: "another" }), calm());
      await channel.update(receipt, { ...message, text: "thinking harder" }, calm());
      assert.deepEqual(await textsOf(fixture), ["thinking harder", "another"]);
      await channel.update(receipt, { ...message, text: "the answer", status: "success" }, calm());
      await channel.update(receipt, { ...message, text: "the answer", status: "success" }, calm());
      assert.deepEqual(await textsOf(fixture), ["the answer", "another"]);
    });

    test("[DLV-16] every status of a message is taken", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route } = fixture;
      const statuses = ["working", "success", "error", "cancelled", "timed_out"] as const;
      for (const status of statuses) await channel.send(messageTo(route, { text: status, status }), calm());
      assert.deepEqual(await textsOf(fixture), [...statuses]);
    });

    test("[DLV-16] any text is shown as it is, up to the longest that is allowed", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route } = fixture;
      const texts = [
        "1 < 2 && 3 > 2",
        "日本語 🎣 <@U1> <!channel> &amp;",
        "two\n\nparagraphs",
        "x".repeat(channel.limits.maxTextChars),
        "🎣".repeat(Math.floor(channel.limits.maxTextChars / 2)),
      ];
      for (const text of texts) await channel.send(messageTo(route, { text }), calm());
      assert.deepEqual(await textsOf(fixture), texts);
    });

    test("[DLV-16] files come with their message", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route } = fixture;
      const data = new TextEncoder().encode("a,b\n1,2\n");
      const bytes = new Uint8Array([0, 255, 128, 13, 10]);
      const files = [
        { name: "table.csv", contentType: "text/csv", data },
        { name: "raw.bin", contentType: "application/octet-stream", data: bytes },
      ];
      await channel.send(messageTo(route, { text: "here", files }), calm());
      const shown = (await fixture.shown(route)).flatMap((message) => message.files);
      assert.deepEqual(
        shown.map((file) => [file.name, [...file.data]]),
        [
          ["table.csv", [...data]],
          ["raw.bin", [...bytes]],
        ],
      );
    });

    test("[DLV-16] what has arrived of a delivery is found by its id, and can be updated", DEADLINE, async (t) => {
      await using fixture = await open();
      const { channel, route } = fixture;
      if (channel.find === undefined) {
        t.skip("this channel cannot tell what has arrived");
        return;
      }
      const [first, second] = [freshDelivery(), freshDelivery()];
      assert.deepEqual(await channel.find({ route, deliveryId: first }, calm()), []);
      for (const part of [1, 2]) {
        await channel.send(messageTo(route, { deliveryId: first, part, text: `first ${part}` }), calm());
      }
      await channel.send(messageTo(route, { deliveryId: second, text: "second" }), calm());
      const found = [...(await channel.find({ route, deliveryId: first }, calm()))].sort((a, b) => a.part - b.part);
      assert.deepEqual(
        found.map(({ part }) => part),
        [1, 2],
      );
      const receipt = kept(found[1]?.receipt ?? {});
      await channel.update(receipt, messageTo(route, { deliveryId: first, part: 2, text: "changed" }), calm());
      assert.deepEqual(await textsOf(fixture), ["first 1", "changed", "second"]);
      assert.deepEqual(await channel.find({ route, deliveryId: freshDelivery() }, calm()), []);
    });

    test("[DLV-17] an answer that is lost is unclear, and the message is found", DEADLINE, async (t) => {
      await using fixture = await open();
      const { channel, route, loseNextAnswer } = fixture;
      if (loseNextAnswer === undefined) {
        t.skip("no answer of this channel can be lost");
        return;
      }
      const message = messageTo(route);
      await loseNextAnswer();
      await assert.rejects(channel.send(message, calm()), isKind("unclear"));
      assert.deepEqual(await textsOf(fixture), ["Hello."]);
      if (channel.find === undefined) return;
      const found = await channel.find({ route, deliveryId: message.deliveryId }, calm());
      assert.deepEqual(
        found.map(({ part }) => part),
        [1],
      );
    });

    test("[DLV-17] a rate limit says when to come again, and nothing has arrived", DEADLINE, async (t) => {
      await using fixture = await open();
      const { channel, route, rateLimitNext } = fixture;
      if (rateLimitNext === undefined) {
        t.skip("this channel has no rate limit");
        return;
      }
      await rateLimitNext(7_000);
      await assert.rejects(channel.send(messageTo(route), calm()), (error: unknown) => {
        isKind("rate_limited")(error);
        assert.equal((error as ChannelError).retryAfterMs, 7_000);
        return true;
      });
      assert.deepEqual(await textsOf(fixture), []);
      await channel.send(messageTo(route), calm());
      assert.deepEqual(await textsOf(fixture), ["Hello."]);
    });

    test("[DLV-17] a place that takes nothing is refused, in words", DEADLINE, async (t) => {
      await using fixture = await open();
      const { channel, refusedRoute } = fixture;
      if (refusedRoute === undefined) {
        t.skip("this channel takes messages for any place");
        return;
      }
      await assert.rejects(channel.send(messageTo(refusedRoute), calm()), isKind("refused"));
    });

    test("[DLV-17] a message that is gone cannot be updated", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route } = fixture;
      const receipt = await channel.send(messageTo(route), calm());
      const gone: Record<string, string | number | boolean> = {};
      for (const [field, value] of Object.entries(receipt)) {
        gone[field] =
          typeof value === "string" ? `${value.replace(/\d/g, "0")}0` : typeof value === "number" ? -1 : value;
      }
      await assert.rejects(channel.update(gone, messageTo(route, { text: "too late" }), calm()), isKind("refused"));
      assert.deepEqual(await textsOf(fixture), ["Hello."]);
    });

    test("[DLV-17] while nobody answers, a call says so and may be tried again", DEADLINE, async (t) => {
      await using fixture = await open();
      const { channel, route } = fixture;
      if (fixture.goDown === undefined) {
        t.skip("this channel cannot be taken down");
        return;
      }
      const receipt = await channel.send(messageTo(route), calm());
      await fixture.goDown();
      const down = isKind("unclear", "retry");
      await assert.rejects(channel.send(messageTo(route), calm()), down);
      await assert.rejects(channel.update(receipt, messageTo(route), calm()), down);
      const { deliveryId } = messageTo(route);
      if (channel.find !== undefined) await assert.rejects(channel.find({ route, deliveryId }, calm()), down);
    });

    test("[DLV-17] a call that is not answered ends with its signal, as unclear", DEADLINE, async (t) => {
      await using fixture = await open();
      const { channel, route, hangNext } = fixture;
      if (hangNext === undefined) {
        t.skip("no call of this channel hangs");
        return;
      }
      await hangNext();
      const late = new AbortController();
      const sending = channel.send(messageTo(route), { signal: late.signal });
      late.abort(new Error("it took too long"));
      await assert.rejects(sending, isKind("unclear", "retry"));
    });

    test("[DLV-17] a call whose signal has aborted is not made", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route } = fixture;
      const signal = AbortSignal.abort(new Error("too late"));
      await assert.rejects(channel.send(messageTo(route), { signal }), isKind("retry", "unclear"));
      assert.deepEqual(await textsOf(fixture), []);
    });

    test("[DLV-16] a sign that an answer is on its way leaves no message", DEADLINE, async (t) => {
      await using fixture = await open();
      const { channel, route } = fixture;
      if (channel.typing === undefined) {
        t.skip("this channel has no such sign");
        return;
      }
      await channel.typing(route, calm());
      await channel.typing(route, calm());
      assert.deepEqual(await textsOf(fixture), []);
    });

    test("[DLV-16] a place that is there is reached", DEADLINE, async () => {
      await using fixture = await open();
      const { channel, route } = fixture;
      assert.equal(channel.reaches?.(route) ?? true, true);
    });
  });
}
