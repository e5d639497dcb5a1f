/** `capability=pattern`, as `submit --lease` asks for it and `serve --grant` grants it; repeatable. */
import { InvalidArgumentError } from "commander";
import { parseLease } from "../lease/index.ts";
import type { Lease } from "../protocol/index.ts";
import { oneLine } from "./problem.ts";

/** What one of two leases allows. */
export function joinedLeases(one: Lease, other: Lease): Lease {
  const joined: Lease = { ...one };
  for (const [capability, patterns] of Object.entries(other)) {
    joined[capability] = [...(joined[capability] ?? []), ...patterns];
  }
  return joined;
}

/** Adds to what earlier options of the name gave. @throws InvalidArgumentError for what is no pattern of a lease */
export function leaseOption(text: string, before: Lease): Lease {
  const at = text.indexOf("=");
  if (at < 1) throw new InvalidArgumentError("Give CAPABILITY=PATTERN, such as fs.read=/srv/docs/**.");
  const capability = text.slice(0, at);
  try {
    return joinedLeases(before, parseLease({ [capability]: [text.slice(at + 1)] }, "lease"));
  } catch (error) {
    throw new InvalidArgumentError(oneLine(error));
  }
}
