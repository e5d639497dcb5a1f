/**
 * What every transport promises, as tests: the same cases run over memory and over real WebSockets, and
 * over a transport of your own. Each case opens a connected pair of its own and closes it.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Transport } from "../transport/transport.ts";

/** Two connected transports, neither of them started. */
export interface ConnectedPair extends AsyncDisposable {
  readonly a: Transport;
  readonly b: Transport;
  /** `b` stops reading; `undefined` where that cannot be arranged. */
  stallB?: (() => void) | undefined;
  /** `b` reads on. */
  unstallB?: (() => void) | undefined;
  /** False where the wire has no goodbye of its own, so that code and reason stay here. @default true */
  carriesCloseCode?: boolean | undefined;
  /** Breaks the wire without a goodbye. */
  cut(): void;
}

/** Records what a transport tells, and lets a test wait for it. */
export class Recorder {
  readonly frames: string[] = [];
  readonly closes: { code: number; reason: string }[] = [];
  #waiters: { done: () => boolean; resolve: () => void }[] = [];

  constructor(transport: Transport) {
    transport.start({
      onFrame: (frame) => {
        this.frames.push(frame);
        this.#look();
      },
      onClose: (code, reason) => {
        this.closes.push({ code, reason });
        this.#look();
      },
    });
  }

  /** Resolves when that many frames have come. */
  framesCame(count: number): Promise<void> {
    return this.#until(() => this.frames.length >= count);
  }

  closed(): Promise<void> {
    return this.#until(() => this.closes.length > 0);
  }

  #until(done: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push({ done, resolve });
      this.#look();
    });
  }

  #look(): void {
    this.#waiters = this.#waiters.filter((waiter) => {
      if (!waiter.done()) return true;
      waiter.resolve();
      return false;
    });
  }
}

/** A wait that takes longer has failed. */
const DEADLINE = { timeout: 10_000 };
const MEBIBYTE = 1024 * 1024;
/** More than sockets of both sides hold. */
const FLOOD_FRAMES = 64;

/** Declares the cases for one transport. */
export function transportContract(name: string, open: () => Promise<ConnectedPair>): void {
  describe(`${name}: the transport contract`, () => {
    test("[ENV-1] frames arrive whole and in order, both ways", DEADLINE, async () => {
      await using pair = await open();
      const [atA, atB] = [new Recorder(pair.a), new Recorder(pair.b)];
      const sent = ["{}", " ", '{"text":"žluťoučký 🐎 \\u0000"}', "x".repeat(MEBIBYTE), '{"n":5}'];
      pair.a.send(sent.slice(0, 2));
      pair.a.send([]);
      pair.a.send(sent.slice(2));
      pair.b.send(["answer"]);
      await Promise.all([atB.framesCame(sent.length), atA.framesCame(1)]);
      assert.deepEqual(atB.frames, sent);
      assert.deepEqual(atA.frames, ["answer"]);
    });

    test("[SES-1] a frame that came before the start is delivered at the start", DEADLINE, async () => {
      await using pair = await open();
      const atA = new Recorder(pair.a);
      pair.a.send(["first", "second"]);
      // Something that did come says that there was time for the others to come.
      pair.b.send(["from b"]);
      await atA.framesCame(1);
      const atB = new Recorder(pair.b);
      pair.a.send(["third"]);
      await atB.framesCame(3);
      assert.deepEqual(atB.frames, ["first", "second", "third"]);
    });

    test("[SES-9] frames queued before a close still arrive, then both ends are told once", DEADLINE, async () => {
      await using pair = await open();
      const [atA, atB] = [new Recorder(pair.a), new Recorder(pair.b)];
      pair.a.send(["one", "two"]);
      pair.a.close();
      pair.a.close(1000, "again");
      assert.equal(pair.a.open, false);
      pair.a.send(["too late"]);
      await Promise.all([atA.closed(), atB.closed()]);
      assert.deepEqual(atB.frames, ["one", "two"]);
      assert.equal(pair.b.open, false);
      assert.equal(atB.closes.length, 1);
      assert.equal(atA.closes.length, 1);
    });

    test("[SES-9] the peer is told the code of a close, and as much of the reason as fits", DEADLINE, async (t) => {
      await using pair = await open();
      if (pair.carriesCloseCode === false) {
        t.skip("this transport has no close frame: its end is the goodbye");
        return;
      }
      const atB = new Recorder(pair.b);
      new Recorder(pair.a);
      pair.a.close(4400, "bad ž".repeat(60));
      await atB.closed();
      assert.equal(atB.closes[0]?.code, 4400);
      assert.match(atB.closes[0]?.reason ?? "", /^bad ž/);
    });

    test("[SES-9] no frame comes after close was called", DEADLINE, async () => {
      await using pair = await open();
      const [atA, atB] = [new Recorder(pair.a), new Recorder(pair.b)];
      pair.b.send(["on its way"]);
      pair.a.close();
      await Promise.all([atA.closed(), atB.closed()]);
      assert.deepEqual(atA.frames, []);
    });

    test("[JOB-18] a cut wire is told to both ends, and sending into it does nothing", DEADLINE, async () => {
      await using pair = await open();
      const [atA, atB] = [new Recorder(pair.a), new Recorder(pair.b)];
      pair.cut();
      pair.a.send(["lost"]);
      await Promise.all([atA.closed(), atB.closed()]);
      pair.a.send(["lost"]);
      pair.b.send(["lost"]);
      pair.a.close();
      await pair.a.drained(0);
      assert.equal(pair.a.open, false);
      assert.equal(pair.b.open, false);
      assert.deepEqual(
        [atA, atB].map(({ frames, closes }) => [frames.length, closes.length]),
        [
          [0, 1],
          [0, 1],
        ],
      );
    });

    test(
      "[SES-12] what a stalled reader does not take shows in bufferedBytes; drained waits for it",
      DEADLINE,
      async (t) => {
        await using pair = await open();
        if (pair.stallB === undefined || pair.unstallB === undefined) {
          t.skip("the reader of this transport cannot be stalled");
          return;
        }
        new Recorder(pair.a);
        const atB = new Recorder(pair.b);
        assert.equal(pair.a.bufferedBytes, 0);
        await pair.a.drained(0);
        pair.stallB();
        for (let index = 0; index < FLOOD_FRAMES; index += 1) pair.a.send(["y".repeat(MEBIBYTE)]);
        assert.ok(pair.a.bufferedBytes > MEBIBYTE, `${pair.a.bufferedBytes} bytes buffered`);
        let drained = false;
        const draining = pair.a.drained(MEBIBYTE).then(() => {
          drained = true;
          assert.ok(pair.a.bufferedBytes <= MEBIBYTE, `${pair.a.bufferedBytes} bytes buffered after drained(1 MiB)`);
        });
        await new Promise(setImmediate);
        assert.equal(drained, false);
        pair.unstallB();
        await Promise.all([draining, atB.framesCame(FLOOD_FRAMES)]);
        await pair.a.drained(0);
        assert.equal(pair.a.bufferedBytes, 0);
      },
    );

    test("[SES-12] drained lets go when the connection ends with a reader that never reads", DEADLINE, async (t) => {
      await using pair = await open();
      if (pair.stallB === undefined) {
        t.skip("the reader of this transport cannot be stalled");
        return;
      }
      const atA = new Recorder(pair.a);
      pair.stallB();
      for (let index = 0; index < FLOOD_FRAMES; index += 1) pair.a.send(["z".repeat(MEBIBYTE)]);
      const draining = pair.a.drained(0);
      pair.cut();
      await Promise.all([draining, atA.closed()]);
    });
  });
}
