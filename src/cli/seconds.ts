/** Options that are a number of seconds. */
import { InvalidArgumentError } from "commander";

export function seconds(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0)
    throw new InvalidArgumentError("Give a number of seconds.");
  return value;
}

export function positiveSeconds(text: string): number {
  const value = seconds(text);
  if (value === 0) throw new InvalidArgumentError("Give more than 0 seconds.");
  return value;
}
