import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ArcpError, type ErrorCode } from "../protocol/index.ts";
import { Budget, budgetForWire, isCostMetric, parseBudget, REMAINING_METRIC } from "./index.ts";

function fails(code: ErrorCode, attempt: () => unknown, message: RegExp): void {
  assert.throws(attempt, (error) => {
    assert(error instanceof ArcpError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

test("[LEA-10] a budget is `CURRENCY:decimal`, one entry for each currency", () => {
  assert.deepEqual(parseBudget(["USD:5.00", "EUR:0", "TOKENS_1K:999999999999999999.123456789012"]), {
    USD: "5",
    EUR: "0",
    TOKENS_1K: "999999999999999999.123456789012",
  });
  assert.deepEqual(parseBudget([]), {});
  const malformed = [
    "",
    "USD",
    "USD:",
    ":5",
    "usd:5",
    "US:5",
    `${"A".repeat(17)}:1`,
    "USD 5",
    "US$:5",
    "USD:5:6",
    "USD: 5",
    " USD:5",
    "USD:5 ",
  ];
  const amounts = [
    "-1",
    "+1",
    "1e3",
    "0x10",
    "NaN",
    "Infinity",
    ".5",
    "5.",
    "05",
    "1,5",
    "1_000",
    "５",
    `${"9".repeat(19)}`,
    `0.${"1".repeat(13)}`,
    "1\n",
  ];
  for (const entry of [...malformed, ...amounts.map((amount) => `USD:${amount}`)]) {
    fails("INVALID_REQUEST", () => parseBudget([entry]), /^payload\.lease_request\["cost\.budget"\]\[0\]: "/);
  }
  fails(
    "INVALID_REQUEST",
    () => parseBudget(["USD:1", "EUR:1", "USD:1"], "f"),
    /^f\[2\]: "USD:1" names a currency a second time/,
  );
});

test("[LEA-11] spending is counted in exact decimals, a counter for each currency, and may fall below zero", () => {
  const budget = new Budget(parseBudget(["USD:1.00", "EUR:2"]));
  for (let times = 0; times < 10; times += 1) assert.equal(budget.spend("USD", 0.1), true);
  assert.deepEqual(budget.remaining(), { USD: "0", EUR: "2" });
  assert.deepEqual(budget.exhausted, ["USD"]);
  budget.spend("EUR", 1e-7);
  budget.spend("EUR", "0.000000000001");
  assert.equal(budget.remaining()["EUR"], "1.999999899999");
  budget.spend("EUR", 0.1 + 0.2);
  assert.equal(budget.remaining()["EUR"], "1.69999989999899996");
  budget.spend("USD", 2.5);
  assert.equal(budget.remaining()["USD"], "-2.5");
  assert.equal(budget.spend("USD", 1e300), true);
  assert.equal(budgetForWire(budget)["USD"], -1e300);
});

test("[LEA-11] a negative amount and one that is no number are refused, and nothing is counted", () => {
  const budget = new Budget(parseBudget(["USD:5"]));
  for (const amount of [
    -1,
    -1e-9,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    "-1",
    "1e3",
    "",
    "five",
    " 1",
  ]) {
    fails("INVALID_REQUEST", () => budget.spend("USD", amount), /^value: .* nothing was counted\.$/);
    fails("INVALID_REQUEST", () => budget.spend("XXX", amount), /^value: /);
  }
  assert.equal(budget.spend("USD", -0), true);
  assert.deepEqual(budget.remaining(), { USD: "5" });
});

test("[LEA-11] a currency that the budget does not have is not counted; without amounts nothing is exhausted", () => {
  const budget = new Budget(parseBudget(["USD:5"]));
  assert.equal(budget.spend("EUR", 3), false);
  assert.equal(budget.spend("constructor", 3), false);
  assert.deepEqual(budget.remaining(), { USD: "5" });
  const none = new Budget({});
  assert.equal(none.spend("USD", 1), false);
  assert.deepEqual([none.exhausted, none.remaining()], [[], {}]);
  assert.deepEqual(new Budget({ USD: "0" }).exhausted, ["USD"]);
  assert.deepEqual(budgetForWire(new Budget({ USD: "5", EUR: "0.25" })), { USD: 5, EUR: 0.25 });
  assert.deepEqual(["cost.tokens", "cost.budget.remaining", "costs", "tokens"].map(isCostMetric), [
    true,
    false,
    false,
    false,
  ]);
  assert(REMAINING_METRIC.startsWith("cost."));
});

test("[LEA-12] a child's part is taken out at once, and what it did not spend comes back once", () => {
  const parent = new Budget({ USD: "5", EUR: "1" });
  const child = parent.reserve({ USD: "3" });
  assert.deepEqual(parent.remaining(), { USD: "2", EUR: "1" });
  assert.deepEqual(child.remaining(), { USD: "3", EUR: "1" });
  fails(
    "LEASE_SUBSET_VIOLATION",
    () => parent.reserve({ EUR: "1", USD: "2.000000000001" }),
    /"USD:2\.000000000001" is not within the parent's budget, which has USD:2 left/,
  );
  assert.deepEqual(parent.remaining(), { USD: "2", EUR: "1" });
  child.spend("USD", 1);
  child.settle();
  child.settle();
  assert.deepEqual(parent.remaining(), { USD: "4", EUR: "1" });
  assert.equal(child.spend("USD", 1), true);
  assert.deepEqual(parent.remaining(), { USD: "3", EUR: "1" });
  parent.settle();
  assert.deepEqual(parent.remaining(), { USD: "3", EUR: "1" });
});

test("[LEA-12] what a child overspends is its parent's loss, and grandchildren return to who is left", () => {
  const parent = new Budget({ USD: "5" });
  const child = parent.reserve({ USD: "2" });
  const grandchild = child.reserve({ USD: "1.5" });
  child.spend("USD", 1);
  assert.deepEqual(child.exhausted, ["USD"]);
  child.settle();
  assert.deepEqual(parent.remaining(), { USD: "2.5" });
  fails("LEASE_SUBSET_VIOLATION", () => child.reserve({ USD: "0.1" }), /USD:0 left/);
  grandchild.spend("USD", 0.5);
  grandchild.settle();
  assert.deepEqual(parent.remaining(), { USD: "3.5" });
});

test("[LEA-12] a currency that a child does not name stays its parent's counter, one that the parent lacks is refused", () => {
  const parent = new Budget({ USD: "5" });
  const [one, two] = [parent.reserve({}), parent.reserve({})];
  one.spend("USD", 4);
  two.spend("USD", 1);
  assert.deepEqual([parent.exhausted, one.exhausted, two.exhausted], [["USD"], ["USD"], ["USD"]]);
  one.settle();
  assert.deepEqual(parent.remaining(), { USD: "0" });
  fails("LEASE_SUBSET_VIOLATION", () => parent.reserve({ EUR: "0" }, "f"), /^f: "EUR:0" .* has no EUR\.$/);
  const free = new Budget({});
  const child = free.reserve({ USD: "1" });
  child.spend("USD", 1);
  assert.deepEqual(child.exhausted, ["USD"]);
  child.settle();
  assert.deepEqual(free.remaining(), {});
});

/** In thousandths, so that the model counts in integers. */
const amount = fc.integer({ min: 0, max: 4_000 });
const operation = fc.record({
  on: fc.nat(20),
  kind: fc.constantFrom("spend", "spend within", "reserve", "reserve", "settle"),
  currency: fc.constantFrom("USD", "EUR"),
  amount,
  asText: fc.boolean(),
});
const decimal = (thousandths: number): string => (thousandths / 1_000).toFixed(3);
const thousandths = (text: string | undefined): number => Math.round(Number(text) * 1_000);

test("[LEA-12] whatever siblings do, their sum stays within the parent's cap but for what was reported beyond it", () => {
  fc.assert(
    fc.property(amount, amount, fc.array(operation, { maxLength: 40 }), (usd, eur, operations) => {
      const caps: Record<string, number> = { USD: usd, EUR: eur };
      const spent: Record<string, number> = { USD: 0, EUR: 0 };
      const beyond: Record<string, number> = { USD: 0, EUR: 0 };
      const everyone = [{ budget: new Budget({ USD: decimal(usd), EUR: decimal(eur) }), owns: ["USD", "EUR"] }];
      for (const { on, kind, currency, amount, asText } of operations) {
        const { budget } = everyone[on % everyone.length] as (typeof everyone)[number];
        const left = thousandths(budget.remaining()[currency]);
        if (kind === "settle") {
          budget.settle();
        } else if (kind === "reserve") {
          const part = { [currency]: decimal(amount) };
          if (amount <= left) everyone.push({ budget: budget.reserve(part), owns: [currency] });
          else assert.throws(() => budget.reserve(part), ArcpError);
        } else {
          const value = kind === "spend" ? amount : Math.min(amount, Math.max(left, 0));
          budget.spend(currency, asText ? decimal(value) : value / 1_000);
          spent[currency] = (spent[currency] ?? 0) + value;
          // A settled budget holds nothing: its spending falls on whoever it went back to.
          beyond[currency] = (beyond[currency] ?? 0) + Math.max(0, value - Math.max(left, 0));
        }
        for (const [name, cap] of Object.entries(caps)) {
          const held = everyone
            .filter(({ owns }) => owns.includes(name))
            .map(({ budget }) => thousandths(budget.remaining()[name]));
          assert.equal(held.reduce((sum, part) => sum + part, 0) + (spent[name] ?? 0), cap, "nothing is lost or made");
          assert((spent[name] ?? 0) <= cap + (beyond[name] ?? 0), "no more is spent than there is");
          if (beyond[name] === 0)
            assert(
              held.every((part) => part >= 0),
              "what was granted was there",
            );
        }
      }
    }),
    { numRuns: 10_000 },
  );
});
