/** What the seeds, or a look at what they could not reach, have found: each as a test of its own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../../src/client/index.ts";
import { memoryPair } from "../../src/transport/memory.ts";
import { FaultyStore } from "../faulty-store.ts";
import { GuardedStore } from "../guarded-store.ts";
import { memoryRuntime, resumeOf, submit, terminalOf } from "../memory-runtime.ts";

const STORE_TIMEOUT_MS = 3_000;

test("[CLT-10] a submit told to have failed, and repeated with its key after a resume, misses no event", async () => {
  let store: FaultyStore | undefined;
  await using fixture = await memoryRuntime({
    settings: { storeTimeoutMs: STORE_TIMEOUT_MS },
    wrap: (inner) => {
      store = new FaultyStore(inner);
      return store;
    },
  });
  const puppet = fixture.puppet("puppet");
  let connections = 0;
  let cut = () => {};
  await using session = await connect(
    () => {
      const pair = memoryPair({ auto: true });
      fixture.runtime.accept(pair.b);
      connections += 1;
      cut = () => pair.cut();
      return Promise.resolve(pair.a);
    },
    { token: "alice", clock: fixture.clock },
  );
  const timeGoesOn = async (done: () => boolean) => {
    for (let round = 0; !done(); round += 1) {
      assert(round < 1_000, "waited in vain");
      await fixture.clock.advance(10);
    }
  };

  // The store takes the submit and says so too late: it is told to have failed, and is carried out.
  store?.fallSilent();
  let told: unknown;
  session.submit("puppet", null, { idempotencyKey: "key" }).catch((error: unknown) => {
    told = error;
  });
  await timeGoesOn(() => told !== undefined);
  store?.recover();
  await timeGoesOn(() => puppet.starts === 1);
  await puppet.log(0, 3);

  // A resume: the session follows the job, and its client knows of none.
  cut();
  await timeGoesOn(() => connections === 2 && session.status.state === "connected");
  await timeGoesOn(() => session.resumeState.lastEventSeq === 3);

  const repeated = session.submit("puppet", null, { idempotencyKey: "key" });
  let job: Awaited<typeof repeated> | undefined;
  void repeated.then((accepted) => {
    job = accepted;
  });
  await timeGoesOn(() => job !== undefined);
  const messages: unknown[] = [];
  const reading = (async () => {
    for await (const { body } of await repeated) messages.push((body as { message: string }).message);
  })();
  await puppet.log(3, 5);
  puppet.end();
  let ended = false;
  void reading.then(() => {
    ended = true;
  });
  await timeGoesOn(() => ended);
  assert.deepEqual(messages, ["0", "1", "2", "3", "4"]);
  assert.equal(puppet.starts, 1);
});

/** Longer than a node may stand still. */
const LOST_MS = 20_000;

test("[CLU-1] a node that comes back and hears late of its last append delivers what others added to the job", async () => {
  let held: Promise<void> | undefined;
  const answered = Promise.withResolvers<void>();
  await using returning = await memoryRuntime({
    wrap: (inner) => {
      const store = new GuardedStore(inner, (operation) => operation());
      const { append } = store.jobs;
      store.jobs.append = async (batches) => {
        const results = await append(batches);
        await held;
        return results;
      };
      return store;
    },
  });
  const puppet = returning.puppet("puppet");
  const { client, pair } = await returning.connect();
  const jobId = await submit(client, "puppet");
  await puppet.log(0, 1);
  const said = (message: string) => (envelope: { payload: Record<string, unknown> }) =>
    (envelope.payload["body"] as { message?: string } | undefined)?.message === message;
  await client.waitFor(said("0"), "the first message");
  pair.cut();

  held = answered.promise;
  void (await puppet.job).log("1").catch(() => undefined);
  await using other = await memoryRuntime({ file: returning.file });
  const { client: witness } = await other.connect();
  await witness.reply(witness.send("job.subscribe", { job_id: jobId, history: true }));
  await other.clock.advance(LOST_MS);
  assert.equal((await terminalOf(witness, jobId)).payload["code"], "INTERNAL_ERROR");
  await returning.clock.advance(1_000);
  await returning.clock.advance(LOST_MS);
  assert.equal((await puppet.job).signal.aborted, true, "it knows that it was declared dead");
  answered.resolve();

  const again = await returning.connect({ resume: resumeOf(client, 1) });
  await again.client.waitFor(said("1"), "the second message");
  await returning.clock.advance(2_000);
  await terminalOf(again.client, jobId);
});
