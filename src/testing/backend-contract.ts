/**
 * What every agent backend promises, as tests: the same cases run over the fake in memory, over OpenCode, and over a
 * backend of your own. Hand it a factory and it registers its cases with node:test; what a fixture cannot bring about
 * is skipped by name.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  type Backend,
  BackendError,
  type BackendErrorKind,
  type BackendEvent,
} from "../conversation/upstream/backend.ts";

/** A backend of its own for one case, which nobody else uses meanwhile. */
export interface BackendFixture extends AsyncDisposable {
  readonly backend: Backend;
  /** Given to `permissionsFor`'s place in a create. @default undefined */
  readonly permissions?: unknown;
  /** An id that could be one of this backend's, and is not. */
  readonly unknownId: string;
  /** What to say for an answer with text. @default "Hello." */
  readonly prompt?: string | undefined;
  /** What to say for an answer that goes on until it is stopped; absent: cannot be arranged. */
  readonly endlessPrompt?: string | undefined;
  /** What to say for an answer with a permission request; absent: cannot be arranged. */
  readonly permissionPrompt?: string | undefined;
  /** Permissions that it refuses; absent: it refuses none. */
  readonly badPermissions?: unknown;
  /** From now on nobody answers; absent: cannot be arranged. */
  goDown?: (() => Promise<void> | void) | undefined;
}

const DEADLINE = { timeout: 60_000 };

const isKind =
  (...kinds: BackendErrorKind[]) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof BackendError, `a BackendError was expected: ${String(error)}`);
    assert.ok(kinds.includes(error.kind), `${error.kind} is none of ${kinds.join(", ")}: ${error.message}`);
    return true;
  };

async function idsOf(backend: Backend): Promise<Map<string, string | undefined>> {
  const ids = new Map<string, string | undefined>();
  for await (const { id, nonce } of backend.list()) {
    assert.ok(!ids.has(id), `${id} was listed twice`);
    ids.set(id, nonce);
  }
  return ids;
}

const never = () => Promise.reject(new Error("no permission was to be asked for"));

async function said(events: AsyncIterable<BackendEvent>): Promise<BackendEvent[]> {
  const all: BackendEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

let lastNonce = 0;
const freshNonce = () => `holdfast-contract-${++lastNonce}-${crypto.randomUUID()}`;

export function backendContract(name: string, open: () => Promise<BackendFixture>): void {
  const create = ({ backend, permissions }: BackendFixture, nonce = freshNonce(), title = "contract") =>
    backend.create({ title, nonce, permissions });

  describe(`${name}: the backend contract`, () => {
    test("[UPS-9] it has a name and a create timeout", DEADLINE, async () => {
      await using fixture = await open();
      assert.match(fixture.backend.name, /^[a-z][a-z0-9_.-]*$/);
      assert.ok(Number.isFinite(fixture.backend.createTimeoutMs) && fixture.backend.createTimeoutMs > 0);
    });

    test(
      "[UPS-9] what is created is there, is listed with its nonce, and is another one each time",
      DEADLINE,
      async () => {
        await using fixture = await open();
        const { backend } = fixture;
        const [one, two] = [freshNonce(), freshNonce()];
        const [first, second] = [await create(fixture, one), await create(fixture, two)];
        assert.equal(typeof first, "string");
        assert.notEqual(first.trim(), "");
        assert.notEqual(first, second);
        assert.equal(await backend.exists(first), true);
        const listed = await idsOf(backend);
        assert.equal(listed.get(first), one);
        assert.equal(listed.get(second), two);
      },
    );

    test("[UPS-9] a title may be any text", DEADLINE, async () => {
      await using fixture = await open();
      for (const title of ['"; DROP', "日本語 🎣", "x".repeat(500), ""]) {
        const nonce = freshNonce();
        const id = await create(fixture, nonce, title);
        assert.equal((await idsOf(fixture.backend)).get(id), nonce, `under the title ${JSON.stringify(title)}`);
      }
    });

    test("[UPS-9] what is deleted is gone, and deleting it again is fine", DEADLINE, async () => {
      await using fixture = await open();
      const { backend } = fixture;
      const [kept, dropped] = [await create(fixture), await create(fixture)];
      await backend.delete(dropped);
      assert.equal(await backend.exists(dropped), false);
      assert.equal(await backend.exists(kept), true);
      assert.equal((await idsOf(backend)).has(dropped), false);
      await backend.delete(dropped);
      await backend.delete(fixture.unknownId);
      await assert.rejects(
        said(backend.prompt({ sessionId: dropped, text: "Hello.", onPermission: never })),
        isKind("session_not_found"),
      );
    });

    test("[UPS-9] a session that it does not know is told as such", DEADLINE, async () => {
      await using fixture = await open();
      const { backend, unknownId } = fixture;
      assert.equal(await backend.exists(unknownId), false);
      await assert.rejects(
        said(backend.prompt({ sessionId: unknownId, text: "Hello.", onPermission: never })),
        isKind("session_not_found"),
      );
      // Aborting where nothing runs may be fine.
      await backend.abort(unknownId).catch(isKind("session_not_found"));
    });

    test(
      "[UPS-10] a prompt tells its answer in pieces, done at the end, and again in the same session",
      DEADLINE,
      async () => {
        await using fixture = await open();
        const { backend, prompt = "Hello." } = fixture;
        const sessionId = await create(fixture);
        for (let round = 0; round < 2; round += 1) {
          const events = await said(backend.prompt({ sessionId, text: prompt, onPermission: never }));
          assert.equal(events.at(-1)?.type, "done");
          assert.equal(events.filter(({ type }) => type === "done").length, 1);
          const text = events.flatMap((event) => (event.type === "text" ? [event.text] : [])).join("");
          assert.notEqual(text, "");
        }
      },
    );

    test(
      "[UPS-10] a prompt that is left early is stopped upstream, and the session takes another",
      DEADLINE,
      async () => {
        await using fixture = await open();
        const { backend, prompt = "Hello.", endlessPrompt = prompt } = fixture;
        const sessionId = await create(fixture);
        for await (const event of backend.prompt({ sessionId, text: endlessPrompt, onPermission: never })) {
          if (event.type === "text") break;
        }
        const events = await said(backend.prompt({ sessionId, text: prompt, onPermission: never }));
        assert.equal(events.at(-1)?.type, "done");
      },
    );

    test("[UPS-10] a signal, and an abort from elsewhere, end a prompt", DEADLINE, async (t) => {
      await using fixture = await open();
      const { backend, endlessPrompt } = fixture;
      if (endlessPrompt === undefined) {
        t.skip("no prompt of this backend goes on for ever");
        return;
      }
      const sessionId = await create(fixture);
      const abort = new AbortController();
      await assert.rejects(async () => {
        const events = backend.prompt(
          { sessionId, text: endlessPrompt, onPermission: never },
          { signal: abort.signal },
        );
        for await (const event of events) if (event.type === "text") abort.abort(new Error("enough"));
      });
      let aborted = false;
      try {
        for await (const event of backend.prompt({ sessionId, text: endlessPrompt, onPermission: never })) {
          if (event.type !== "text" || aborted) continue;
          aborted = true;
          await backend.abort(sessionId);
        }
      } catch (error) {
        // Whether an abort from elsewhere is an end or an error is the backend's affair.
        assert.ok(error instanceof BackendError, String(error));
      }
      assert.equal(aborted, true);
    });

    test(
      "[UPS-10] a permission request is answered by the caller, and the prompt waits for it",
      DEADLINE,
      async (t) => {
        await using fixture = await open();
        const { backend, permissionPrompt } = fixture;
        if (permissionPrompt === undefined) {
          t.skip("no prompt of this backend asks for a permission");
          return;
        }
        for (const answer of ["once", "reject"] as const) {
          const sessionId = await create(fixture);
          const asked: string[] = [];
          const events = backend.prompt({
            sessionId,
            text: permissionPrompt,
            onPermission: async ({ permissionId }) => {
              asked.push(permissionId);
              return answer;
            },
          });
          assert.equal((await said(events)).at(-1)?.type, "done");
          assert.ok(asked.length > 0, "it asked nobody");
        }
      },
    );

    test("[UPS-11] permissions that it refuses are told as such, and leave no session", DEADLINE, async (t) => {
      await using fixture = await open();
      const { backend, badPermissions } = fixture;
      if (badPermissions === undefined) {
        t.skip("this backend takes any permissions");
        return;
      }
      const nonce = freshNonce();
      await assert.rejects(
        backend.create({ title: "contract", nonce, permissions: badPermissions }),
        isKind("rejected", "malformed"),
      );
      assert.ok(![...(await idsOf(backend)).values()].includes(nonce));
    });

    test("[UPS-11] a call whose signal has aborted is not made", DEADLINE, async () => {
      await using fixture = await open();
      const { backend } = fixture;
      const nonce = freshNonce();
      const signal = AbortSignal.abort(new Error("too late"));
      await assert.rejects(backend.create({ title: "contract", nonce, permissions: fixture.permissions }, { signal }));
      assert.ok(![...(await idsOf(backend)).values()].includes(nonce));
    });

    test("[UPS-11] while nobody answers, every call says that it is unavailable", DEADLINE, async (t) => {
      await using fixture = await open();
      const { backend } = fixture;
      if (fixture.goDown === undefined) {
        t.skip("this backend cannot be taken down");
        return;
      }
      const sessionId = await create(fixture);
      await fixture.goDown();
      const down = isKind("unavailable");
      await assert.rejects(create(fixture), down);
      await assert.rejects(said(backend.prompt({ sessionId, text: "Hello.", onPermission: never })), down);
      await assert.rejects(backend.abort(sessionId), down);
      await assert.rejects(backend.delete(sessionId), down);
      await assert.rejects(idsOf(backend), down);
      await assert.rejects(backend.exists(sessionId), down);
    });
  });
}
