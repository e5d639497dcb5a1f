/**
 * Text between agents and Slack. Agents write Markdown, Slack reads mrkdwn: bold is `*`, links are `<url|label>`, and
 * `&`, `<`, `>` are escaped, which is also why nothing that an agent writes can call a whole channel, unless the host
 * lets it. What mrkdwn cannot show (tables, nested quotes) stays as it was written. Costs a pass over each line.
 */

/** Written by hand: a Markdown parser would be ten packages for seven rules, and streams cut Markdown anywhere. */
const INLINE =
  /(?<tick>`+)(?<code>[^\n]+?)\k<tick>(?!`)|(?<mention><(?:@[UW][A-Z0-9]{1,30}|#[CG][A-Z0-9]{1,30}|!(?:here|channel|everyone)|!subteam\^S[A-Z0-9]{1,30})(?:\|[^<>|\n]{0,80})?>)|!?\[(?<label>[^[\]\n]{0,500})\]\((?<target>(?:https?:\/\/|mailto:)[^\s()<>|]{1,2000})\)|<(?<angled>https?:\/\/[^\s<>|]{1,2000})>|(?<bare>https?:\/\/[^\s<>|()[\]"'`*]{1,2000})|\*\*(?=\S)(?<bold>[^\n]*?\S)\*\*|__(?=\S)(?<strong>[^\n]*?\S)__|~~(?=\S)(?<struck>[^\n]*?\S)~~|(?<![*\w])\*(?=[^\s*])(?<italic>[^*\n]*?[^\s*])\*(?![*\w])/gu;

/** What follows a bare URL in a sentence is not part of it. */
const TRAILING = /[.,;:!?]+$/;
const FENCE = /^\s*```/;
const HEADING = /^#{1,6}\s+(?<title>.*?)\s*#*$/;
const BULLET = /^(?<indent>\s*)[-*+]\s+/;

/** As Slack's own syntax would be, were it not text. */
export const escapeMrkdwn = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** @param mentions whether `<@U…>`, `<#C…>`, `<!here>` and the like of the text are to mean something */
export function toMrkdwn(markdown: string, mentions = false): string {
  let fenced = false;
  return markdown
    .split("\n")
    .map((line) => {
      if (FENCE.test(line)) {
        fenced = !fenced && !/```.*```/.test(line);
        // Slack would show the name of the language.
        return fenced ? "```" : escapeMrkdwn(line.trim());
      }
      if (fenced) return escapeMrkdwn(line);
      const title = HEADING.exec(line)?.groups?.["title"];
      if (title !== undefined) return title === "" ? "" : `*${inline(title.replaceAll("**", ""), mentions)}*`;
      const quoted = /^(?:> ?)+/.exec(line)?.[0] ?? "";
      const rest = line.slice(quoted.length).replace(BULLET, "$<indent>• ");
      return `${quoted === "" ? "" : "> "}${inline(rest, mentions)}`;
    })
    .join("\n");
}

function inline(text: string, mentions: boolean): string {
  let out = "";
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    out += escapeMrkdwn(text.slice(end, match.index));
    end = match.index + match[0].length;
    const { code, mention, label, target, angled, bare, bold, strong, struck, italic } = match.groups ?? {};
    if (code !== undefined) out += `\`${escapeMrkdwn(code.replaceAll("`", "'"))}\``;
    else if (mention !== undefined) out += mentions ? mention : escapeMrkdwn(mention);
    else if (target !== undefined) out += link(target, label);
    else if (angled !== undefined) out += link(angled);
    else if (bare !== undefined) {
      const url = bare.replace(TRAILING, "");
      out += `${link(url)}${bare.slice(url.length)}`;
    } else if (bold !== undefined) out += `*${inline(bold, mentions)}*`;
    else if (strong !== undefined) out += `*${inline(strong, mentions)}*`;
    else if (struck !== undefined) out += `~${inline(struck, mentions)}~`;
    else if (italic !== undefined) out += `_${inline(italic, mentions)}_`;
  }
  return out + escapeMrkdwn(text.slice(end));
}

const link = (url: string, label = ""): string =>
  label.trim() === "" ? `<${escapeMrkdwn(url)}>` : `<${escapeMrkdwn(url)}|${escapeMrkdwn(label.replaceAll("|", "¦"))}>`;

const ENTITY: Readonly<Record<string, string>> = { "&amp;": "&", "&lt;": "<", "&gt;": ">" };

/**
 * What somebody wrote, as they saw it: the bot's own mention gone, links bare, channels by name; other people stay
 * `<@U…>`, which an agent can say back where it may.
 */
export function fromMrkdwn(text: string, botUserId: string | undefined): string {
  return text
    .replace(/<([^<>\n]{1,4000})>/g, (whole, inside: string) => {
      const [target = "", label] = inside.split("|", 2);
      if (target.startsWith("@")) return target.slice(1) === botUserId ? "" : `<${target}>`;
      if (target.startsWith("#")) return `#${label || target.slice(1)}`;
      if (target.startsWith("!")) return label || `@${target.slice(1)}`;
      return /^(https?:\/\/|mailto:)/.test(target) ? target.replace(/^mailto:/, "") : whole;
    })
    .replace(/&(?:amp|lt|gt);/g, (entity) => ENTITY[entity] ?? entity)
    .trim();
}
