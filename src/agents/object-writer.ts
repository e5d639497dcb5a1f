/**
 * JSON text of an object while its fields come about: for a result that is sent in pieces. Lists have a line
 * for each item, so that the text is good to read as it is. Holds one piece of 32 KiB and one item.
 */
import type { ResultStream } from "../runtime/index.ts";

const PIECE_CHARS = 32 * 1024;

/** Blanks between the parts of an item; a text within JSON holds no line break. */
const onOneLine = (value: unknown): string => JSON.stringify(value, null, 1).replaceAll(/\n */g, " ");

/** Each field once, in any order; then {@link end}. */
export class ObjectWriter<T extends object> {
  readonly #out: Pick<ResultStream, "write">;
  #text = "{";
  #separator = "\n";

  constructor(out: Pick<ResultStream, "write">) {
    this.#out = out;
  }

  field<K extends keyof T & string>(name: K, value: T[K]): Promise<void> {
    return this.#write(`${this.#key(name)}${onOneLine(value)}`);
  }

  async list<K extends keyof T & string>(name: K, items: T[K] & readonly unknown[]): Promise<void> {
    await this.#write(`${this.#key(name)}[`);
    for (const [index, item] of items.entries()) await this.#write(`${index === 0 ? "" : ","}\n    ${onOneLine(item)}`);
    await this.#write(items.length === 0 ? "]" : "\n  ]");
  }

  /** Sends what there is. */
  async flush(): Promise<void> {
    const text = this.#text;
    this.#text = "";
    if (text !== "") await this.#out.write(text);
  }

  async end(): Promise<void> {
    this.#text += this.#separator === "\n" ? "}" : "\n}";
    await this.flush();
  }

  #key(name: string): string {
    const separator = this.#separator;
    this.#separator = ",\n";
    return `${separator}  ${JSON.stringify(name)}: `;
  }

  async #write(text: string): Promise<void> {
    this.#text += text;
    if (this.#text.length >= PIECE_CHARS) await this.flush();
  }
}
