import { type Budget, budgetForWire, isCostMetric, REMAINING_METRIC } from "../../lease/index.ts";
import { ArcpError, type EventBody } from "../../protocol/index.ts";

type Metric = EventBody<"metric">;

/** Of the budget: what has to be spent before the rest is told again. */
const MATERIAL_SHARE = 0.01;

/**
 * Charges a job's `cost.*` metrics to its budget and says what is left: after a hundredth of the budget was
 * spent, and when it is used up. A metric ends no job; the next operation is refused (LEA-15).
 */
export class CostMeter {
  readonly #budget: Budget;
  readonly #caps: Readonly<Record<string, number>>;
  readonly #told = new Map<string, number>();

  constructor(budget: Budget) {
    this.#budget = budget;
    this.#caps = budgetForWire(budget);
  }

  /**
   * @returns the metrics that say what remains
   * @throws ArcpError INVALID_REQUEST for a negative amount, and for the metric that the runtime tells itself
   */
  take(metric: Metric): Metric[] {
    const { name, unit, value } = metric;
    if (name === REMAINING_METRIC) {
      throw new ArcpError("INVALID_REQUEST", `body.name: ${REMAINING_METRIC} is the runtime's own to tell.`);
    }
    if (!isCostMetric(name) || unit === undefined) return [];
    return this.#budget.spend(unit, value) ? this.#tell(unit) : [];
  }

  #tell(currency: string): Metric[] {
    const remaining = budgetForWire(this.#budget)[currency] ?? 0;
    const cap = this.#caps[currency] ?? 0;
    if (remaining > 0 && (this.#told.get(currency) ?? cap) - remaining < cap * MATERIAL_SHARE) return [];
    this.#told.set(currency, remaining);
    return [{ name: REMAINING_METRIC, value: remaining, unit: currency }];
  }
}
