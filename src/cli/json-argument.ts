/** JSON as an argument of a command; `-` stands for standard input. */
import { text as readAll } from "node:stream/consumers";
import { oneLine, Problem } from "./problem.ts";

/**
 * @param what what the JSON is, as the complaint calls it
 * @throws Problem
 */
export async function jsonArgument(json: string, what: string): Promise<unknown> {
  const source = json === "-" ? await readAll(process.stdin) : json;
  try {
    return JSON.parse(source);
  } catch (error) {
    throw new Problem(`The ${what} is not JSON (${oneLine(error)}); quote it, as in '{"n":3}'.`, 2, error);
  }
}
