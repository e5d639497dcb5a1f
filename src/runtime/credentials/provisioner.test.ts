import assert from "node:assert/strict";
import { test } from "node:test";
import { checkIssued, WrongAnswer } from "./provisioner.ts";

const SECRET = "sk-live-0123456789abcdef";
const GOOD = { scheme: "bearer", value: SECRET, endpoint: "https://gateway.example/v1" };

test("[CRD-4] one credential or several are taken, and what they hold besides is dropped", () => {
  assert.deepEqual(checkIssued({ ...GOOD, note: "x", profile: "small" }), [{ ...GOOD, profile: "small" }]);
  assert.equal(checkIssued([GOOD, { ...GOOD, constraints: { models: ["m"], until: null } }]).length, 2);
});

test("[CRD-4] an answer that is no credential is refused by the field's name, and its value is not repeated", () => {
  const wrong: [unknown, RegExp][] = [
    [undefined, /^\[0\]\./],
    ["sk-live-0123456789abcdef", /^\[0\]\./],
    [[], /0 credentials/],
    [Array.from({ length: 17 }, () => GOOD), /17 credentials/],
    [{ ...GOOD, scheme: "basic" }, /scheme/],
    [{ ...GOOD, value: SECRET.slice(0, 15) }, /value/],
    [{ ...GOOD, value: SECRET.repeat(400) }, /value/],
    [{ ...GOOD, value: `${SECRET}\ud800` }, /value/],
    [{ ...GOOD, endpoint: "gateway" }, /endpoint/],
    [{ ...GOOD, endpoint: "file:///etc/passwd" }, /endpoint/],
    [{ ...GOOD, endpoint: "https://user:pass@gateway.example" }, /endpoint/],
    [{ ...GOOD, endpoint: `https://gateway.example/?key=${SECRET}` }, /repeated/],
    [{ ...GOOD, profile: SECRET }, /repeated/],
    [{ ...GOOD, constraints: { key: SECRET } }, /repeated/],
    [{ ...GOOD, constraints: { [SECRET]: true } }, /repeated/],
    [{ ...GOOD, constraints: { [SECRET]: () => 1 } }, /constraints/],
    [{ ...GOOD, constraints: { much: "x".repeat(5_000) } }, /constraints/],
    [[GOOD, { ...GOOD, value: "x" }], /^\[1\]\.value/],
  ];
  for (const [answer, message] of wrong) {
    assert.throws(
      () => checkIssued(answer),
      (error: unknown) => {
        assert(error instanceof WrongAnswer, String(error));
        assert.match(error.message, message);
        assert.equal(error.message.includes(SECRET.slice(0, 15)), false, error.message);
        return true;
      },
      JSON.stringify(answer),
    );
  }
});
