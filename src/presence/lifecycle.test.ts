import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { ManualClock } from "../testing/manual-clock.ts";
import { ActiveSessions, Lifecycle, type ListedSession, type SessionPayload } from "./index.ts";

class Place implements AsyncDisposable {
  readonly clock = new ManualClock();
  readonly directory = mkdtempSync(path.join(tmpdir(), "holdfast-presence-"));
  readonly sessions = new ActiveSessions({ enabled: true, directory: this.directory, port: 0, clock: this.clock });
  readonly lifecycle = new Lifecycle(this.sessions, { clock: this.clock });

  /** This process's session, once `wanted` is true of it. */
  async listed(wanted: (session: ListedSession | undefined) => boolean): Promise<ListedSession | undefined> {
    for (;;) {
      const { sessions } = await this.sessions.snapshot();
      const own = sessions.find(({ pid }) => pid === process.pid);
      if (wanted(own)) return own;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lifecycle.stop();
    await this.sessions.stopService();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

test("[PRS-16] a session is connected when it is and, where it has a listener, that is too", async () => {
  await using place = new Place();
  const { lifecycle } = place;
  lifecycle.start({ sessionName: "one", role: "detachable" });
  const first = await place.listed((session) => session !== undefined);
  assert.deepEqual([first?.session_name, first?.role, first?.connected], ["one", "detachable", false]);
  lifecycle.updateConnected(true);
  await place.listed((session) => session?.connected === true);
  lifecycle.updateListener({ host: "127.0.0.1", port: 80, connected: false });
  const unheard = await place.listed((session) => session?.connected === false);
  assert.deepEqual(unheard?.listener, { host: "127.0.0.1", port: 80 });
  lifecycle.updateListener({ host: "127.0.0.1", port: 80, connected: true });
  await place.listed((session) => session?.connected === true);
  lifecycle.updateConnected(false);
  await place.listed((session) => session?.connected === false);
  lifecycle.updateListener({ host: "127.0.0.1", port: 80, connected: false });
  lifecycle.updateConnected(true);
  lifecycle.clearListener();
  const cleared = await place.listed((session) => session?.connected === true);
  assert.equal(cleared?.listener, null);
});

test("[PRS-16] every heartbeat tells all of it again, metadata as it is then, and the time of the start", async () => {
  await using place = new Place();
  let jobs = 1;
  place.lifecycle.start({ sessionName: "one", role: "headless", hidden: true, metadata: () => ({ jobs }) });
  const before = await place.listed((session) => session?.["jobs"] === 1);
  jobs = 2;
  // A new owner knows nothing of it.
  await place.sessions.stopService();
  await place.clock.advance(2_000);
  const after = await place.listed((session) => session?.["jobs"] === 2);
  assert.equal(after?.started_at, before?.started_at);
  assert.deepEqual([after?.role, after?.hidden], ["headless", true]);
});

test("[PRS-16] metadata that cannot be had leaves the rest", async () => {
  await using place = new Place();
  const broken = () => {
    throw new Error("not now");
  };
  place.lifecycle.start({ sessionName: "one", role: "session", metadata: broken });
  await place.listed((session) => session?.session_name === "one");
});

test("[PRS-8] a stopped session is out, sends nothing more, and takes the service with it", async () => {
  await using place = new Place();
  place.lifecycle.start({ sessionName: "one", role: "session" });
  await place.listed((session) => session !== undefined);
  await place.lifecycle.stop();
  place.lifecycle.updateConnected(true);
  await place.clock.advance(10_000);
  assert.equal((await place.sessions.serviceInfo()).service_available, false);
  assert.equal(place.clock.pendingTimers, 0);
  await place.lifecycle.stop();
});

test("[PRS-8] a heartbeat that is under way when the session stops does not bring it back, then or later", async () => {
  await using place = new Place();
  const held = Promise.withResolvers<void>();
  const sent: SessionPayload[] = [];
  /** Lets a request leave late, and pays no heed to whoever does not want it any more. */
  class Slow extends ActiveSessions {
    override async registerSession(payload: SessionPayload): Promise<boolean> {
      sent.push(payload);
      await held.promise;
      return await super.registerSession(payload);
    }
  }
  await place.sessions.ensureService();
  const slow = new Slow({ enabled: true, directory: place.directory, port: 0, clock: place.clock });
  const lifecycle = new Lifecycle(slow, { clock: place.clock });
  lifecycle.start({ sessionName: "late", role: "session" });
  const stopping = lifecycle.stop();
  held.resolve();
  await stopping;
  assert.equal((await place.sessions.snapshot()).total, 0);
  assert.equal(await slow.registerSession(sent[0] ?? assert.fail()), false);
  assert.equal((await place.sessions.snapshot()).total, 0);
});

test("[PRS-8] who starts again is a new session with a start of its own", async () => {
  await using place = new Place();
  place.lifecycle.start({ sessionName: "one", role: "session" });
  const first = await place.listed((session) => session !== undefined);
  await place.clock.advance(5_000);
  await place.lifecycle.stop();
  place.lifecycle.start({ sessionName: "two", role: "session" });
  const second = await place.listed((session) => session?.session_name === "two");
  assert.equal(second?.started_at, (first?.started_at ?? 0) + 5);
});
