/** Patterns and targets made up by fast-check: what holds for all of them, 10,000 cases each. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import picomatch from "picomatch";
import { ArcpError } from "../protocol/index.ts";
import { Effort, Union } from "./inclusion.ts";
import { Authority, canonicalTarget, parseLease, subsetViolation } from "./index.ts";
import { Pattern } from "./pattern.ts";

const RUNS = { numRuns: 10_000 };

/** Few characters and short, so that patterns and targets meet often. */
const letters = fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 3 });
const segment = fc.oneof(
  { weight: 4, arbitrary: letters },
  { weight: 2, arbitrary: fc.constant("*") },
  { weight: 2, arbitrary: fc.constant("**") },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.constantFrom("", "a", "ab"), fc.constantFrom("*", "*a", "*b*", "*ba*"), fc.constantFrom("", "b"))
      .map((parts) => parts.join(""))
      .filter((text) => text !== "*"),
  },
);
const pattern = fc
  .array(segment, { minLength: 1, maxLength: 4 })
  .map((segments) => parseLease({ "fs.read": [`/${segments.join("/")}`] })["fs.read"]?.[0] as string);
const target = fc.array(letters, { minLength: 1, maxLength: 5 }).map((segments) => `/${segments.join("/")}`);

/** A target that the pattern matches, from what a list of letters makes of its wildcards. */
function covered(text: string, fill: readonly string[]): string {
  let next = 0;
  const word = () => fill[next++ % fill.length] ?? "a";
  const segments = text.split("/").flatMap((part) => {
    if (part === "**") return Array.from({ length: word().length - 1 }, word);
    return [part === "*" ? word() : part.replaceAll("*", () => (word().length > 1 ? word() : ""))];
  });
  return segments.join("/") || "/";
}
const fill = fc.array(letters, { minLength: 4, maxLength: 8 });

const matches = (text: string, subject: string): boolean => new Pattern(text).matches(subject.split("/"));

/**
 * picomatch with the same grammar, over a whole pattern. It differs in two places: behind a slash at the very
 * beginning `**` is never no segment, and neither is it at the end behind a wildcard.
 */
function referee(text: string, subject: string): boolean {
  const options = { dot: true, nobrace: true, noextglob: true, nonegate: true, nobracket: true, windows: false };
  const [own, other] = [text.slice(1), subject.slice(1)];
  if (picomatch.makeRe(own, options).test(other)) return true;
  return own.endsWith("*/**") && picomatch.makeRe(own.slice(0, -"/**".length), options).test(other);
}

test("[LEA-3] matching agrees with picomatch over whole patterns", () => {
  fc.assert(
    fc.property(pattern, fc.oneof(target, fill), (text, made) => {
      const subject = typeof made === "string" ? made : covered(text, made);
      assert.equal(matches(text, subject), referee(text, subject), `${text} ${subject}`);
    }),
    RUNS,
  );
});

test("[LEA-8] the automaton agrees with the matcher about single targets", () => {
  fc.assert(
    fc.property(pattern, fc.oneof(target, fill), (text, made) => {
      const subject = typeof made === "string" ? made : covered(text, made);
      assert.equal(
        new Union([text]).lacks(subject, new Effort()) === undefined,
        matches(text, subject),
        `${text} ${subject}`,
      );
    }),
    RUNS,
  );
});

test("[LEA-8] what a subset may, its parent may; and what is no subset has an example that proves it", () => {
  let subsets = 0;
  fc.assert(
    fc.property(
      pattern,
      fc.array(pattern, { minLength: 1, maxLength: 4 }),
      fc.array(fill, { minLength: 4, maxLength: 4 }),
      target,
      (child, parents, fills, other) => {
        const violation = subsetViolation({ "fs.read": [child] }, { "fs.read": parents });
        if (violation === undefined) {
          subsets += 1;
          const mine = new Authority({ lease: { "fs.read": [child] } });
          const theirs = new Authority({ lease: { "fs.read": parents } });
          for (const subject of [...fills.map((words) => covered(child, words)), other]) {
            if (mine.permits("fs.read", subject)) assert.equal(theirs.permits("fs.read", subject), true, subject);
          }
        } else {
          const { example } = violation;
          assert(example !== undefined, "the search ended");
          assert.equal(matches(child, example), true, `${child} has ${example}`);
          for (const parent of parents) assert.equal(matches(parent, example), false, `${parent} lacks ${example}`);
        }
      },
    ),
    RUNS,
  );
  assert(subsets > 500, `${subsets} subsets among the cases`);
});

/** Pieces that are suspicious in some target. */
const piece = fc.constantFrom(
  ..."/ // . .. %2e %2E %2f %5c %25 %00 %c3%a9 %252e %zz % \\ ? # @ : é 日 a b A ~ * [ ] ( ) ; = & + , ' ! $ 0x7f . 1".split(
    " ",
  ),
  ..." \0\n\u2028\ud800",
);
const hostile = fc
  .array(fc.oneof(piece, fc.string({ unit: "binary", maxLength: 2 })), { maxLength: 12 })
  .map((parts) => parts.join(""));

test("[LEA-5, LEA-6, LEA-7] a canonical target is canonical again, and a refusal is typed, for hostile texts", () => {
  const operation = fc.oneof(
    fc.tuple(
      fc.constant("fs.read"),
      hostile.map((text) => `/${text}`),
    ),
    fc.tuple(
      fc.constant("net.fetch"),
      hostile.map((text) => `https://h/${text}`),
    ),
    fc.tuple(
      fc.constant("net.fetch"),
      hostile.map((text) => `http://${text}`),
    ),
    fc.tuple(fc.constantFrom("tool.call", "agent.delegate", "x-vendor.acme.db", "fs.write", "nothing"), hostile),
  );
  let taken = 0;
  fc.assert(
    fc.property(operation, ([capability, text]) => {
      let first: ReturnType<typeof canonicalTarget>;
      try {
        first = canonicalTarget(capability, text);
      } catch (error) {
        assert(error instanceof ArcpError && error.code === "PERMISSION_DENIED", String(error));
        assert(error.message.length < 300 && error.message.isWellFormed());
        return;
      }
      taken += 1;
      assert.deepEqual(canonicalTarget(capability, first.target), first);
      assert.doesNotMatch(first.subject, /(^|\/)\.\.?(\/|$)|\\|\p{Cc}|%[0-9a-f]{2}/iu);
      if (capability === "net.fetch") assert.equal(new URL(first.target).href, first.target);
      else assert.doesNotMatch(first.subject, /\/\//);
    }),
    RUNS,
  );
  assert(taken > 500, `${taken} of the texts were targets`);
});
