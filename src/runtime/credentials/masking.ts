/**
 * Finds the secrets that are known, in whatever is about to be stored or logged, and puts a name in their
 * place. Costs a few nanoseconds a character while there are secrets, whatever their number, and nothing
 * otherwise. A secret is found as it is, inside JSON inside JSON, and percent-encoded; one that somebody
 * has cut in pieces or encoded otherwise is not.
 */

/** So many characters of a form find it; no secret is shorter (CRD-4). */
const HEAD = 16;
/** JSON text in a JSON string in a JSON string: as deep as a secret is looked for. */
const JSON_DEPTH = 3;
/** What masking may add to a text; a text that would grow further gets masks without names. */
const MOST_GROWTH = 8 * 1024;
const DEEPEST = 64;
const NAMELESS = "[credential]";
/** In the place of what fails when it is to turn itself into JSON. */
const UNREADABLE = "[unreadable]";

interface Form {
  text: string;
  mask: string;
}

export class Masking {
  /** How many forms start so, by the hash of their first characters. */
  readonly #starts = new Map<number, number>();
  /** By their heads, the longer ones first. */
  readonly #byHead = new Map<string, Form[]>();

  /**
   * Masks a secret from now on.
   *
   * @param secret of {@link HEAD} characters at least (CRD-4)
   * @param name is put in its place, as `[credential <name>]`
   * @returns a function that ends it
   */
  add(secret: string, name: string): () => void {
    const mask = `[credential ${name}]`;
    const forms = new Set([...formsOf(secret)].map((text): Form => ({ text, mask })));
    for (const form of forms) {
      const start = hashAt(form.text, 0);
      const head = form.text.slice(0, HEAD);
      this.#starts.set(start, (this.#starts.get(start) ?? 0) + 1);
      const others = this.#byHead.get(head) ?? [];
      this.#byHead.set(
        head,
        [...others, form].sort((a, b) => b.text.length - a.text.length),
      );
    }
    return () => {
      for (const form of forms) this.#remove(form);
      forms.clear();
    };
  }

  #remove(form: Form): void {
    const start = hashAt(form.text, 0);
    const count = (this.#starts.get(start) ?? 0) - 1;
    if (count > 0) this.#starts.set(start, count);
    else this.#starts.delete(start);
    const head = form.text.slice(0, HEAD);
    const left = this.#byHead.get(head)?.filter((other) => other !== form) ?? [];
    if (left.length > 0) this.#byHead.set(head, left);
    else this.#byHead.delete(head);
  }

  /** Masks plain text. */
  text(text: string): string {
    const masked = this.#replace(text, true);
    return masked.length <= text.length + MOST_GROWTH ? masked : this.#replace(text, false);
  }

  /** Masks the strings and keys of a JSON text; what holds no secret comes back as it is, to the byte. */
  json(text: string): string {
    if (!this.#finds(text)) return text;
    const value: unknown = JSON.parse(text);
    const masked = JSON.stringify(deeply(value, (string) => this.#replace(string, true)));
    if (masked.length <= text.length + MOST_GROWTH) return masked;
    return JSON.stringify(deeply(value, (string) => this.#replace(string, false)));
  }

  /** Masks whatever a logger may be handed: a copy where it held a secret, else the same. */
  value(value: unknown): unknown {
    return this.#starts.size === 0 ? value : this.#loggable(value, new Map(), 0);
  }

  #loggable(value: unknown, copies: Map<object, unknown>, depth: number): unknown {
    if (typeof value === "string") return this.text(value);
    if (typeof value !== "object" || value === null) return value;
    if (copies.has(value)) return copies.get(value);
    if (depth > DEEPEST) return "[too deep]";
    if (tellsJson(value)) {
      // Until it is known, so that one that leads to itself ends.
      copies.set(value, "[circular]");
      const json = jsonOf(value);
      const masked = this.#loggable(json, copies, depth + 1);
      const result = masked === json && json !== UNREADABLE ? value : masked;
      copies.set(value, result);
      return result;
    }
    const copy: object = Array.isArray(value) ? [] : Object.create(Object.getPrototypeOf(value));
    copies.set(value, copy);
    let changed = false;
    // An error's message and stack are its own, and not enumerable.
    for (const key of value instanceof Error ? Object.getOwnPropertyNames(value) : Object.keys(value)) {
      const before = (value as Record<string, unknown>)[key];
      const after = this.#loggable(before, copies, depth + 1);
      const name = Array.isArray(value) ? key : this.text(key);
      changed ||= after !== before || name !== key;
      const enumerable = Object.prototype.propertyIsEnumerable.call(value, key);
      Object.defineProperty(copy, name, { value: after, enumerable, writable: true, configurable: true });
    }
    if (changed) return copy;
    copies.set(value, value);
    return value;
  }

  #finds(text: string): boolean {
    if (this.#starts.size === 0) return false;
    for (let at = 0; at + HEAD <= text.length; at += 1) if (this.#formAt(text, at) !== undefined) return true;
    return false;
  }

  #replace(text: string, named: boolean): string {
    if (this.#starts.size === 0) return text;
    let masked = "";
    let from = 0;
    for (let at = 0; at + HEAD <= text.length; at += 1) {
      const form = this.#formAt(text, at);
      if (form === undefined) continue;
      masked += text.slice(from, at) + (named ? form.mask : NAMELESS);
      from = at + form.text.length;
      at = from - 1;
    }
    return from === 0 ? text : masked + text.slice(from);
  }

  #formAt(text: string, at: number): Form | undefined {
    if (!this.#starts.has(hashAt(text, at))) return undefined;
    return this.#byHead.get(text.slice(at, at + HEAD))?.find((form) => text.startsWith(form.text, at));
  }
}

/** No two starts of ASCII share one; others may, and cost a comparison. */
const hashAt = (text: string, at: number): number =>
  (text.charCodeAt(at) << 21) ^
  (text.charCodeAt(at + 1) << 14) ^
  (text.charCodeAt(at + 2) << 7) ^
  text.charCodeAt(at + 3);

function formsOf(secret: string): Set<string> {
  const forms = new Set([encodeURIComponent(secret)]);
  let plain = secret;
  let ascii = secret;
  for (let depth = 0; depth <= JSON_DEPTH; depth += 1) {
    forms.add(plain);
    forms.add(ascii);
    plain = JSON.stringify(plain).slice(1, -1);
    ascii = asciiJson(ascii);
  }
  return forms;
}

/** As encoders write it that keep to ASCII. */
const asciiJson = (text: string): string =>
  JSON.stringify(text)
    .slice(1, -1)
    .replaceAll(/[^\0-\x7f]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);

const tellsJson = (value: object): value is { toJSON(): unknown } =>
  !(value instanceof Error) && "toJSON" in value && typeof value.toJSON === "function";

/** What an object says that it is as JSON; a log line is no place to fail for it. */
function jsonOf(value: { toJSON(): unknown }): unknown {
  try {
    const json = value.toJSON();
    return json === value ? { ...value, toJSON: undefined } : json;
  } catch {
    return UNREADABLE;
  }
}

function deeply(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((item) => deeply(item, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [change(key), deeply(item, change)]));
}
