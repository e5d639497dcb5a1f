/** Names of tools, agents and models: few characters, so that no two of them look or read alike. */
import { quote, refuse } from "./refusal.ts";

const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@+/-]*$/;
/** As the runtime registers agents; at most one version. */
const AGENT = /^[A-Za-z0-9][A-Za-z0-9._/-]*(?:@[A-Za-z0-9][A-Za-z0-9._/-]*)?$/;
const ODD = /[^A-Za-z0-9_.:@+/*-]/u;

/**
 * @param name of a pattern, with a letter in each wildcard's place
 * @throws Refusal
 */
export function checkName(capability: string, name: string): void {
  const isAgent = capability === "agent.delegate";
  if ((isAgent ? AGENT : NAME).test(name)) return;
  const odd = ODD.exec(name)?.[0];
  if (odd !== undefined) refuse(`holds ${quote(odd)}, which no name does`);
  refuse(isAgent ? "is neither `name` nor `name@version`" : "is not a name; it starts with a letter, a digit or `_`");
}
