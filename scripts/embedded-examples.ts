/**
 * The programs that documentation shows are those that CI runs: where a page links a file of examples/ in a line that
 * ends in a colon, the block below it is that file without its first comment, and the `text` block after that, if there
 * is one, is what the file prints. Nobody writes them twice: `npm run docs` puts them in, and a test looks.
 */
const EMBEDDED =
  /(?<head>\[examples\/(?<name>[a-z-]+)\.ts\]\(\.\.\/examples\/\k<name>\.ts\)[^\n]*:\n\n)```ts\n[\s\S]*?```\n(?:(?<prints>\n[^\n`]+:\n\n)```text\n[\s\S]*?```\n)?/g;

/**
 * @param read gives a file's content by its path from the repository's root
 * @returns the page as it should be
 */
export function embedExamples(page: string, read: (file: string) => string): string {
  return page.replaceAll(EMBEDDED, (...match) => {
    const { head = "", name, prints } = match.at(-1) as { head?: string; name: string; prints?: string };
    const code = read(`examples/${name}.ts`).replace(/^\/\*\*[\s\S]*?\*\/\n/, "");
    const block = `${head}\`\`\`ts\n${code}\`\`\`\n`;
    return prints === undefined ? block : `${block}${prints}\`\`\`text\n${read(`examples/${name}.out`)}\`\`\`\n`;
  });
}

/** @returns the names of the files that a page shows in full */
export const embeddedIn = (page: string): string[] =>
  [...page.matchAll(EMBEDDED)].map((match) => match.groups?.["name"] ?? "");
