/**
 * What a job may cost, in exact decimals, a counter for each currency. A child's part is taken out of its
 * parent's counter when it is granted and what is left of it comes back, once, so that siblings cannot spend
 * the same money (LEA-10, LEA-11, LEA-12). Spending is reported, not asked for: a counter may fall below
 * zero, and then the next operation is refused.
 *
 * All that was granted out of a budget never exceeds it; all that was spent exceeds it by no more than what
 * was reported beyond what its counter still held.
 */
import Big from "big.js";
import { ArcpError } from "../protocol/index.ts";
import { BUDGET } from "./capability.ts";
import { quote } from "./refusal.ts";

/** Decimals in plain notation, by currency: `{USD: "4.25"}`. */
export type Amounts = Readonly<Record<string, string>>;

const ENTRY = /^([A-Z0-9_]{3,16}):(.*)$/s;
const AMOUNT = /^(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,12})?$/;
const AMOUNT_FORM = "a decimal of at most 18 digits before and 12 after the point, without sign or exponent";

/**
 * The entries of `cost.budget`, such as `USD:5.00`.
 *
 * @param field where they stand, for messages
 * @throws ArcpError INVALID_REQUEST naming the field, the value and the remedy
 */
export function parseBudget(entries: readonly string[], field = `payload.lease_request["${BUDGET}"]`): Amounts {
  const amounts = new Map<string, string>();
  for (const [index, entry] of entries.entries()) {
    const [, currency, amount] = ENTRY.exec(entry) ?? [];
    let problem: string | undefined;
    if (currency === undefined || amount === undefined) {
      problem = "is not `CURRENCY:amount`, the currency of 3 to 16 of A-Z, 0-9 and `_`";
    } else if (!AMOUNT.test(amount)) {
      problem = `has no amount that is ${AMOUNT_FORM}`;
    } else if (amounts.has(currency)) {
      problem = "names a currency a second time; one entry for each";
    } else {
      amounts.set(currency, new Big(amount).toFixed());
    }
    if (problem !== undefined) {
      throw new ArcpError("INVALID_REQUEST", `${field}[${index}]: ${quote(entry)} ${problem}.`);
    }
  }
  return Object.fromEntries(amounts);
}

/** What is spent is a metric of such a name, with the currency for its unit. */
export const isCostMetric = (name: string): boolean => name.startsWith("cost.") && name !== REMAINING_METRIC;

/** By this name a job's stream tells what is left. */
export const REMAINING_METRIC = "cost.budget.remaining";

/** One currency of one budget. After it was settled everything goes to the counter it came from. */
class Counter {
  #remaining: Big;
  readonly #source: Counter | undefined;
  #settled = false;

  constructor(amount: Big, source?: Counter) {
    this.#remaining = amount;
    this.#source = source;
  }

  get remaining(): Big {
    return this.#remaining;
  }

  add(amount: Big): void {
    if (this.#settled) this.#source?.add(amount);
    else this.#remaining = this.#remaining.plus(amount);
  }

  settle(): void {
    if (this.#settled || this.#source === undefined) return;
    this.#settled = true;
    this.#source.add(this.#remaining);
    this.#remaining = new Big(0);
  }
}

/** Of one job. Those of its children are made by {@link reserve}. */
export class Budget {
  #counters: ReadonlyMap<string, Counter>;
  #reserved: readonly Counter[] = [];

  /** @param amounts by currency; without any, nothing is counted and nothing is ever exhausted */
  constructor(amounts: Amounts) {
    this.#counters = new Map(
      Object.entries(amounts).map(([currency, amount]) => [currency, new Counter(new Big(amount))]),
    );
  }

  /**
   * Counts what a metric reported. A number counts as the decimal that it is printed as.
   *
   * @returns false when nothing was counted, since the budget has no such currency
   * @throws ArcpError INVALID_REQUEST for an amount that is negative or none; nothing is counted
   */
  spend(currency: string, amount: number | string): boolean {
    const spent = amountOf(amount);
    const counter = this.#counters.get(currency);
    counter?.add(spent.neg());
    return counter !== undefined;
  }

  /** What is left, below zero where more was reported than there was. A child sees its parent's counters too. */
  remaining(): Amounts {
    return Object.fromEntries(
      [...this.#counters].map(([currency, counter]) => [currency, counter.remaining.toFixed()]),
    );
  }

  /** The currencies of which nothing is left. */
  get exhausted(): string[] {
    return [...this.#counters].filter(([, counter]) => counter.remaining.lte(0)).map(([currency]) => currency);
  }

  /**
   * Takes a child's part out, all of it or nothing. A currency that the child does not name stays shared:
   * what the child spends of it is its parent's spending at once.
   *
   * @param field where the amounts stand, for messages
   * @throws ArcpError LEASE_SUBSET_VIOLATION for more than is left, or a currency that a budget with
   *   currencies lacks
   */
  reserve(amounts: Amounts, field = `lease_request["${BUDGET}"]`): Budget {
    const parts = Object.entries(amounts).map(([currency, text]) => ({ currency, amount: new Big(text) }));
    for (const { currency, amount } of parts) {
      const remaining = this.#counters.get(currency)?.remaining;
      if (remaining === undefined ? this.#counters.size > 0 : amount.gt(remaining)) {
        throw beyond(field, currency, amount, remaining);
      }
    }
    const counters = new Map(this.#counters);
    const reserved: Counter[] = [];
    for (const { currency, amount } of parts) {
      const source = this.#counters.get(currency);
      source?.add(amount.neg());
      const counter = new Counter(amount, source);
      counters.set(currency, counter);
      reserved.push(counter);
    }
    const child = new Budget({});
    child.#counters = counters;
    child.#reserved = reserved;
    return child;
  }

  /**
   * At the job's end: what is left of its own part goes back, and what it overspent is charged. Once; what
   * is reported or returned later goes straight to the parent.
   */
  settle(): void {
    for (const counter of this.#reserved) counter.settle();
  }
}

/** What is left, as the wire has it in `budget {USD: 5}`: beyond 15 digits a JSON number is only close. */
export const budgetForWire = (budget: Budget): Record<string, number> =>
  Object.fromEntries(Object.entries(budget.remaining()).map(([currency, amount]) => [currency, Number(amount)]));

function amountOf(value: number | string): Big {
  const isAmount = typeof value === "number" ? Number.isFinite(value) && value >= 0 : AMOUNT.test(value);
  if (isAmount) return new Big(value);
  const form = typeof value === "number" ? "a finite number of at least 0" : AMOUNT_FORM;
  throw new ArcpError("INVALID_REQUEST", `value: ${quote(value)} is not ${form}; nothing was counted.`);
}

function beyond(field: string, currency: string, amount: Big, remaining: Big | undefined): ArcpError {
  const left = remaining === undefined ? `no ${currency}` : `${currency}:${remaining.toFixed()} left`;
  return new ArcpError(
    "LEASE_SUBSET_VIOLATION",
    `${field}: ${quote(`${currency}:${amount.toFixed()}`)} is not within the parent's budget, which has ${left}.`,
    { details: { capability: BUDGET, pattern: `${currency}:${amount.toFixed()}` } },
  );
}

/** The first currency of which `amounts` holds more than `limit`, or that `limit` lacks. */
export function currencyBeyond(amounts: Amounts, limit: Amounts): string | undefined {
  return Object.keys(amounts).find((currency) => {
    const most = Object.hasOwn(limit, currency) ? limit[currency] : undefined;
    return most === undefined || new Big(amounts[currency] ?? 0).gt(most);
  });
}
