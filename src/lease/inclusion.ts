/**
 * Whether all that one pattern matches is matched by some of others: the question behind every subset of a
 * lease (LEA-8). Patterns become one small automaton, and the search walks the pattern's own words against the
 * set of states that the others are in, over an alphabet of the characters that occur and one that does not.
 * Exact over patterns as texts; so it also counts targets that no canonical target is, such as `/a//b`, and
 * may say no where the rest would be covered. It never says yes to more than is covered: when the work is
 * used up the answer is no.
 */
import { GLOBSTAR } from "./pattern.ts";

/** Steps that one comparison of leases may take: tens of milliseconds, and ten times what real leases need. */
const MAX_STEPS = 100_000;

/** From every state but `end` the way goes on to the next one; `many` and `all` may also stay. */
type State =
  | { readonly kind: "character"; readonly code: string }
  /** One character of a segment. */
  | { readonly kind: "one" }
  /** Any characters of a segment. */
  | { readonly kind: "many" }
  /** Any characters at all. */
  | { readonly kind: "all" }
  /** Straight on, or straight to a later state. */
  | { readonly kind: "fork"; readonly to: number }
  | { readonly kind: "end" };

/** A character of a segment that no pattern at hand mentions. */
const OTHER = Symbol("other");
type Letter = string | typeof OTHER;

/** How much work is left for comparing two leases. */
export class Effort {
  #left = MAX_STEPS;

  /** False once it is used up. */
  take(steps: number): boolean {
    this.#left -= steps;
    return this.#left >= 0;
  }
}

export interface Outside {
  /** Matched by the pattern and by none of the others; absent when the work was used up. */
  readonly example?: string;
}

/** What some patterns match together, built once for all that is held against it. */
export class Union {
  readonly #patterns: readonly string[];
  readonly #states: State[] = [];
  readonly #starts: readonly number[];

  constructor(patterns: readonly string[]) {
    this.#patterns = patterns;
    this.#starts = patterns.map((pattern) => append(this.#states, pattern));
  }

  /** What of the pattern is not covered; `undefined` when all of it is. */
  lacks(pattern: string, effort: Effort): Outside | undefined {
    if (this.#patterns.includes(pattern)) return undefined;
    if (!effort.take(this.#patterns.length)) return {};
    const starts = this.#starts.filter((_, index) => mayMeet(pattern, this.#patterns[index] as string));
    const own: State[] = [];
    append(own, pattern);
    return search(own, this.#states, starts, effort);
  }
}

/** The literal beginnings agree as far as both go. */
function mayMeet(a: string, b: string): boolean {
  const [headA, headB] = [literalHead(a), literalHead(b)];
  return headA.startsWith(headB) || headB.startsWith(headA);
}

/** Without the slash before a `**`, which may stand for no segment. */
function literalHead(pattern: string): string {
  const wild = pattern.indexOf("*");
  if (wild < 0) return pattern;
  const head = pattern.slice(0, wild);
  return pattern.startsWith(GLOBSTAR, wild) && head.endsWith("/") ? head.slice(0, -1) : head;
}

/** @returns the index of the pattern's first state */
function append(states: State[], pattern: string): number {
  const start = states.length;
  const segments = pattern.split("/");
  const last = segments.length - 1;
  for (const [index, segment] of segments.entries()) {
    const follows = index > 0 && segments[index - 1] !== GLOBSTAR;
    if (segment === GLOBSTAR && index === last) {
      if (follows) states.push({ kind: "fork", to: states.length + 3 }, { kind: "character", code: "/" });
      states.push({ kind: "all" });
      continue;
    }
    if (follows) states.push({ kind: "character", code: "/" });
    if (segment === GLOBSTAR) {
      states.push({ kind: "fork", to: states.length + 3 }, { kind: "all" }, { kind: "character", code: "/" });
    } else if (segment === "*") {
      states.push({ kind: "one" }, { kind: "many" });
    } else {
      for (let at = 0; at < segment.length; at += 1) {
        const code = segment.charAt(at);
        states.push(code === "*" ? { kind: "many" } : { kind: "character", code });
      }
    }
  }
  states.push({ kind: "end" });
  return start;
}

interface Pair {
  /** Of the pattern itself. */
  readonly state: number;
  /** Of the others, sorted. */
  readonly against: readonly number[];
  readonly word: readonly [Letter, Pair] | undefined;
}

/** Breadth first, so that an example is as short as they come. */
function search(
  own: readonly State[],
  states: readonly State[],
  starts: number[],
  effort: Effort,
): Outside | undefined {
  const seen = new Set<string>();
  const queue: Pair[] = [];
  const visit = (from: Iterable<number>, against: readonly number[], word: Pair["word"]): void => {
    for (const state of from) {
      const key = `${state}:${against.join()}`;
      if (seen.has(key)) continue;
      seen.add(key);
      queue.push({ state, against, word });
    }
  };
  visit(closure(own, [0]), closure(states, starts), undefined);
  for (let index = 0; index < queue.length; index += 1) {
    const pair = queue[index] as Pair;
    const { against } = pair;
    const state = own[pair.state] as State;
    if (state.kind === "fork") continue;
    if (state.kind === "end") {
      if (!against.some((other) => states[other]?.kind === "end")) return { example: spell(pair, own, states) };
      continue;
    }
    if (against.some((other) => states[other]?.kind === "all" && states[other + 1]?.kind === "end")) continue;
    for (const letter of lettersOf(state, against, states)) {
      if (!effort.take(against.length + 1)) return {};
      const moved = closure(states, step(states, against, letter));
      visit(closure(own, step(own, [pair.state], letter)), moved, [letter, pair]);
    }
  }
  return undefined;
}

function closure(states: readonly State[], from: readonly number[]): number[] {
  const reached = new Set(from);
  for (const index of reached) {
    const state = states[index] as State;
    if (state.kind === "many" || state.kind === "all" || state.kind === "fork") reached.add(index + 1);
    if (state.kind === "fork") reached.add(state.to);
  }
  return [...reached].sort((a, b) => a - b);
}

function step(states: readonly State[], from: readonly number[], letter: Letter): number[] {
  const reached: number[] = [];
  for (const index of from) {
    const state = states[index] as State;
    if (state.kind === "character" && state.code === letter) reached.push(index + 1);
    else if (state.kind === "one" && letter !== "/") reached.push(index + 1);
    else if (state.kind === "many" && letter !== "/") reached.push(index);
    else if (state.kind === "all") reached.push(index);
  }
  return reached;
}

/** What can be read from here, once for all characters that make no difference. */
function lettersOf(state: State, against: readonly number[], states: readonly State[]): Iterable<Letter> {
  if (state.kind === "character") return [state.code];
  const letters = new Set<Letter>([OTHER]);
  for (const index of against) {
    const other = states[index] as State;
    if (other.kind === "character") letters.add(other.code);
  }
  if (state.kind === "all") letters.add("/");
  else letters.delete("/");
  return letters;
}

function spell(end: Pair, ...automata: readonly (readonly State[])[]): string {
  const used = new Set(automata.flat().map((state) => (state.kind === "character" ? state.code : "")));
  let code = "x".charCodeAt(0);
  while (used.has(String.fromCharCode(code))) code += 1;
  const letters: string[] = [];
  for (let pair = end; pair.word !== undefined; pair = pair.word[1]) {
    const [letter] = pair.word;
    letters.push(letter === OTHER ? String.fromCharCode(code) : letter);
  }
  return letters.reverse().join("");
}
