import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { systemClock } from "../../clock.ts";
import { fromMrkdwn, toMrkdwn } from "./mrkdwn.ts";

/** What Slack would make of it: every `<…>` that is no link. */
const calls = (mrkdwn: string): string[] =>
  [...mrkdwn.matchAll(/<([^>]*)>/g)]
    .map(([, inside = ""]) => inside)
    .filter((inside) => !/^(https?:\/\/|mailto:)/.test(inside));

for (const [markdown, mrkdwn] of [
  ["plain words", "plain words"],
  ["**bold** and __strong__", "*bold* and *strong*"],
  ["*slanted* and _slanted_", "_slanted_ and _slanted_"],
  ["~~gone~~", "~gone~"],
  ["**bold with `code` in it**", "*bold with `code` in it*"],
  ["# A title", "*A title*"],
  ["### A **title** ###", "*A title*"],
  ["- one\n* two\n  + three", "• one\n• two\n  • three"],
  ["1. one", "1. one"],
  ["> quoted **words**", "> quoted *words*"],
  ["[a page](https://example.com/a?b=1&c=2)", "<https://example.com/a?b=1&amp;c=2|a page>"],
  ["![a picture](https://example.com/p.png)", "<https://example.com/p.png|a picture>"],
  ["see https://example.com/a.", "see <https://example.com/a>."],
  ["<https://example.com/>", "<https://example.com/>"],
  ["[not](javascript:alert)", "[not](javascript:alert)"],
  ["a < b && b > c", "a &lt; b &amp;&amp; b &gt; c"],
  ["&amp; is written &amp;amp;", "&amp;amp; is written &amp;amp;amp;"],
  ["2 * 3 * 4", "2 * 3 * 4"],
  ["a*b*c", "a*b*c"],
  ["`a < b`", "`a &lt; b`"],
  ["``a ` b``", "`a ' b`"],
  ["```ts\nif (a < b) **x**\n```\n**y**", "```\nif (a &lt; b) **x**\n```\n*y*"],
  ["```\nnever closed **x**", "```\nnever closed **x**"],
  ["日本語 **太字** 🎣", "日本語 *太字* 🎣"],
] as const) {
  test(`[SLK-9] Markdown becomes mrkdwn: ${JSON.stringify(markdown)}`, () => {
    assert.equal(toMrkdwn(markdown), mrkdwn);
  });
}

const CALLS = ["<!channel>", "<!here>", "<!everyone>", "<@U123ABC>", "<#C123|general>", "<!subteam^S12>", "<@U1|you>"];

test("[SLK-9] an agent's text calls nobody, whatever it is wrapped in", () => {
  for (const call of CALLS) {
    for (const text of [
      call,
      `**${call}**`,
      `# ${call}`,
      `\`${call}\``,
      `[${call}](https://example.com)`,
      `- ${call}`,
    ]) {
      assert.deepEqual(calls(toMrkdwn(text)), [], text);
    }
  }
  assert.equal(toMrkdwn("[<!here>](https://example.com)"), "<https://example.com|&lt;!here&gt;>");
});

test("[SLK-9] where the host lets it, an agent calls people and channels, and nothing else passes", () => {
  for (const call of CALLS) assert.deepEqual(calls(toMrkdwn(`so ${call}, look`, true)), [call.slice(1, -1)]);
  for (const text of ["<!date^1^x|y>", "<!shrug>", "<@someone>", "`<!here>`", "```\n<!here>\n```"]) {
    assert.deepEqual(calls(toMrkdwn(text, true)), [], text);
  }
});

const SCRAPS = [
  "<",
  ">",
  "&",
  "!",
  "@",
  "|",
  "*",
  "**",
  "_",
  "~~",
  "`",
  "```",
  "[",
  "](",
  ")",
  "https://a.b",
  "!here",
  "\n",
  "#",
  "- ",
  "> ",
  "x",
  " ",
];

test("[SLK-9] no text, however broken, calls anybody, and each is read in time", () => {
  const scraps = fc.array(fc.constantFrom(...SCRAPS, ...CALLS), { maxLength: 60 }).map((all) => all.join(""));
  fc.assert(
    fc.property(scraps, (text) => assert.deepEqual(calls(toMrkdwn(text)), [])),
    { numRuns: 3_000 },
  );
  for (const scrap of SCRAPS) {
    const since = systemClock.monotonic();
    toMrkdwn(scrap.repeat(Math.floor(2_600 / scrap.length)));
    const took = systemClock.monotonic() - since;
    assert.ok(took < 2_000, `${JSON.stringify(scrap)} took ${took} ms`);
  }
});

for (const [mrkdwn, text] of [
  ["<@UBOT> what is this?", "what is this?"],
  ["hey <@UBOT>, and <@U2>?", "hey , and <@U2>?"],
  ["in <#C1|general> or <#C2>", "in #general or #C2"],
  ["<!here> <!subteam^S1|@admins>", "@here @admins"],
  [
    "see <https://example.com/a|example.com/a> &amp; <https://b.example>",
    "see https://example.com/a & https://b.example",
  ],
  ["<mailto:a@example.com|a@example.com>", "a@example.com"],
  ["1 &lt; 2 &amp;&amp; &amp;lt;", "1 < 2 && &lt;"],
] as const) {
  test(`[SLK-2] what somebody wrote is given as they saw it: ${mrkdwn}`, () => {
    assert.equal(fromMrkdwn(mrkdwn, "UBOT"), text);
  });
}
