import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Logger } from "../../logger.ts";
import { Masking } from "./masking.ts";
import { maskingLogger } from "./masking-logger.ts";

const SECRET = "sk-live-0123456789abcdef";
const HOSTILE = [
  'quote"back\\slash\nnewline',
  "ünïcödé-клиент-🔑🔑🔑",
  "nnnnnnnnnnnnnnnnnnnn",
  "u0041u0041u0041u0041",
  "////////////////////",
];

function masking(...secrets: string[]): Masking {
  const made = new Masking();
  for (const [index, secret] of secrets.entries()) made.add(secret, `c${index + 1}`);
  return made;
}

test("[CRD-7] a known value is masked in strings and keys of JSON, however deep, and the text stays JSON", () => {
  const text = JSON.stringify({ a: [`x${SECRET}y`, { [SECRET]: 1, n: 1.5 }], b: SECRET });
  assert.deepEqual(JSON.parse(masking(SECRET).json(text)), {
    a: ["x[credential c1]y", { "[credential c1]": 1, n: 1.5 }],
    b: "[credential c1]",
  });
});

test("[CRD-7] hostile values are found as they are, in JSON inside JSON, and percent-encoded", () => {
  for (const secret of HOSTILE) {
    const once = JSON.stringify({ token: secret });
    const twice = JSON.stringify({ body: once });
    const ascii = JSON.stringify(secret).replaceAll(
      /[^\0-\x7f]/g,
      (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
    const url = `https://x.example/?key=${encodeURIComponent(secret)}`;
    const text = masking(secret).json(JSON.stringify({ plain: `(${secret})`, once, twice, ascii, url }));
    const masked = JSON.parse(text) as Record<string, string>;
    assert.equal(masked["plain"], "([credential c1])");
    assert.equal(masked["once"], '{"token":"[credential c1]"}');
    assert.match(masked["twice"] ?? "", /^\{"body":"\{\\"token\\":\\"\[credential c1\]\\"\}"\}$/);
    assert.equal(masked["ascii"], '"[credential c1]"');
    assert.equal(masked["url"], "https://x.example/?key=[credential c1]");
  }
});

test("[CRD-7] an escape beside a value is never cut in two", () => {
  const text = JSON.stringify({ message: `\n${"n".repeat(19)}`, other: "\u0001u0001u0001u0001u0001" });
  const masked = masking("n".repeat(20), "u0001u0001u0001u0001").json(text);
  assert.deepEqual(JSON.parse(masked), { message: `\n${"n".repeat(19)}`, other: "\u0001[credential c2]" });
});

test("[CRD-7] a text without a known value comes back as it is, to the byte", () => {
  const text = '{ "b": 1.0,  "a": "sk-live-0123456789abcde" }';
  assert.equal(masking(SECRET).json(text), text);
  assert.equal(new Masking().json("{not even JSON"), "{not even JSON");
});

test("[CRD-7] whatever surrounds a value, it is found and nothing else is changed", () => {
  const piece = fc.string({ unit: "grapheme", maxLength: 12 }).filter((text) => text.isWellFormed());
  const secret = fc.string({ unit: "grapheme", minLength: 16, maxLength: 40 }).filter((text) => text.isWellFormed());
  fc.assert(
    fc.property(secret, piece, piece, (value, before, after) => {
      fc.pre(!(before + after).includes(value) && (before + value + after).split(value).length === 2);
      fc.pre((before + value + after).indexOf(value) === before.length);
      const masked = masking(value).json(JSON.stringify({ [before]: before + value + after }));
      assert.deepEqual(JSON.parse(masked), { [before]: `${before}[credential c1]${after}` });
    }),
    { numRuns: 2_000 },
  );
});

test("[CRD-7] the longer of two values is masked where one begins with the other; one that was taken back is not", () => {
  const made = new Masking();
  made.add("0123456789abcdef", "short");
  const end = made.add("0123456789abcdef-and-more", "long");
  assert.equal(made.text("0123456789abcdef-and-more"), "[credential long]");
  end();
  end();
  assert.equal(made.text("0123456789abcdef-and-more"), "[credential short]-and-more");
});

test("[CRD-7] masking never makes a text much longer", () => {
  const many = SECRET.slice(0, 16).repeat(10_000);
  const masked = masking(SECRET.slice(0, 16)).json(JSON.stringify(many));
  assert.equal(masked.length <= many.length, true);
  assert.equal(masked.includes(SECRET.slice(0, 16)), false);
});

test("[CRD-7] a logger never sees a known value: not in a message, a field, an error, its cause or its stack", () => {
  const lines: { fields: object; message: string }[] = [];
  const take = (fields: object, message: string) => void lines.push({ fields, message });
  const inner: Logger = { debug: take, info: take, warn: take, error: take };
  const logger = maskingLogger(inner, masking(SECRET));
  const cause = Object.assign(new Error(`cause ${SECRET}`), { headers: { authorization: `Bearer ${SECRET}` } });
  const err = new TypeError(`failed with ${SECRET}`, { cause });
  const circular: Record<string, unknown> = { note: SECRET };
  circular["self"] = circular;
  logger.error({ err, circular, list: [SECRET], [SECRET]: 1 }, `saw ${SECRET}`);
  const [line] = lines;
  assert(line !== undefined);
  const logged = (line.fields as { err: Error }).err;
  assert(logged instanceof TypeError);
  assert.equal(logged.message, "failed with [credential c1]");
  assert.equal((logged.cause as Error).message, "cause [credential c1]");
  assert.equal(line.message, "saw [credential c1]");
  const all = [logged.stack, (logged.cause as Error).stack, JSON.stringify(logged.cause), Object.keys(line.fields)];
  assert.equal(all.join("\n").includes(SECRET), false);
  assert.equal((line.fields as { circular: { note: string } }).circular.note, "[credential c1]");
  assert.equal(err.message, `failed with ${SECRET}`, "what the agent holds is its own");
});

test("[CRD-7] what turns itself into JSON is masked as the JSON that it turns into", () => {
  class Request {
    readonly url = new URL(`https://x.example/?key=${SECRET}`);
    readonly #headers = { authorization: `Bearer ${SECRET}` };
    toJSON() {
      return { url: this.url, headers: this.#headers };
    }
  }
  const circular = { toJSON: (): object => ({ circular, note: SECRET }) };
  const itself = { note: SECRET, toJSON: (): object => itself };
  const failing = {
    toJSON: () => {
      throw new Error(SECRET);
    },
  };
  const url = new URL(`https://x.example/?key=${SECRET}`);
  const fields = { url, request: new Request(), list: [url], circular, itself, failing };
  const text = JSON.stringify(masking(SECRET).value(fields));
  assert.equal(text.includes(SECRET), false, text);
  assert.deepEqual(JSON.parse(text), {
    url: "https://x.example/?key=[credential c1]",
    request: {
      url: "https://x.example/?key=[credential c1]",
      headers: { authorization: "Bearer [credential c1]" },
    },
    list: ["https://x.example/?key=[credential c1]"],
    circular: { circular: "[circular]", note: "[credential c1]" },
    itself: { note: "[credential c1]" },
    failing: "[unreadable]",
  });
});

test("[CRD-7] what holds no known value reaches the logger as it is", () => {
  const err = new Error("plain");
  const fields = { err, when: new Date(0), nested: { list: [1, "two"] } };
  const [seen] = [masking(SECRET).value(fields)];
  assert.equal(seen, fields);
});
