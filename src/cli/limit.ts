/** `--limit`: how many entries a list shows. */
import { InvalidArgumentError } from "commander";

/** @throws InvalidArgumentError */
export function limitOf(text: string): number {
  const limit = Number(text);
  if (!/^\d+$/.test(text) || limit < 1 || limit > 1000) throw new InvalidArgumentError("Give a number from 1 to 1000.");
  return limit;
}
