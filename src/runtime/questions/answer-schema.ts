/**
 * What an answer must look like, as the agent says it in JSON Schema (draft 2020-12). A schema is checked
 * and compiled when the question is asked, so that a wrong one is the agent's error and nobody else's, and
 * again where an answer comes in, which may be another process: a millisecond each. Nothing is fetched,
 * nothing in an answer is changed, `format` is a remark. A schema is the agent's own word, and agents are
 * trusted code: a `pattern` that never ends is not kept from running.
 */
import { Ajv2020, type ErrorObject, type ValidateFunction } from "ajv/dist/2020.js";
import { ArcpError } from "../../protocol/index.ts";
import { data } from "../../protocol/scalars.ts";

/** JSON text, in bytes of UTF-8. */
const MAX_SCHEMA_BYTES = 16 * 1024;
const MAX_ANSWER_BYTES = 64 * 1024;
/** What an error repeats of an answer, and of what the schema says to it (ENV-13). */
const MAX_NAME_CHARS = 64;
const MAX_PATH_CHARS = 256;

/** Keywords nobody knows are mistakes; what is merely unusual is not. */
const OPTIONS = {
  strict: true,
  strictTypes: false,
  strictTuples: false,
  strictRequired: false,
  validateFormats: false,
  logger: false,
} as const;

/** Knows how a schema is written; made when the first one comes, for it takes tens of milliseconds. */
let grammar: Ajv2020 | undefined;

const cut = (text: string, max: number): string => (text.length <= max ? text : `${text.slice(0, max)}…`);

const messageOf = (error: unknown): string =>
  cut((error instanceof Error ? error.message : String(error)).split("\n", 1)[0] ?? "", MAX_PATH_CHARS);

const wrongSchema = (why: string, cause?: unknown): ArcpError =>
  new ArcpError("INVALID_REQUEST", `schema: ${why}.`, { cause });

/** Compiled by an instance of its own: what a schema names never reaches another one. */
function compile(schema: unknown): ValidateFunction {
  const validate = new Ajv2020({ ...OPTIONS, meta: false, validateSchema: false }).compile(schema as object | boolean);
  if ("$async" in validate) throw new Error("`$async` is not possible here");
  return validate;
}

/**
 * The JSON text of a schema that answers can be checked by.
 *
 * @throws ArcpError INVALID_REQUEST saying what is wrong with it
 */
export function schemaText(schema: unknown): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(schema);
  } catch (error) {
    throw wrongSchema(`is not JSON (${messageOf(error)})`, error);
  }
  const bytes = Buffer.byteLength(text ?? "");
  if (text === undefined || bytes > MAX_SCHEMA_BYTES) {
    throw wrongSchema(text === undefined ? "is not JSON" : `takes ${bytes} bytes; at most ${MAX_SCHEMA_BYTES} fit`);
  }
  const parsed: unknown = JSON.parse(text);
  if (!data.safeParse(parsed).success) throw wrongSchema("nests too deep");
  try {
    grammar ??= new Ajv2020(OPTIONS);
    if (grammar.validateSchema(parsed as object | boolean) !== true) {
      const [first] = grammar.errors ?? [];
      throw new Error(`${first?.instancePath || "the schema"} ${first?.message ?? "is none"}`);
    }
    // A schema that refers to itself without end shows on any value.
    compile(parsed)(null);
  } catch (error) {
    throw wrongSchema(`is no JSON Schema of draft 2020-12 (${messageOf(error)})`, error);
  }
  return text;
}

/**
 * The JSON text of an answer that satisfies the schema.
 *
 * @param name what the answer is called where it came from, e.g. `payload.answer`
 * @throws ArcpError INVALID_REQUEST naming the path within the answer
 */
export function answerText(answer: unknown, schema: string | undefined, name: string): string {
  const text = JSON.stringify(answer);
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_ANSWER_BYTES) {
    throw new ArcpError("INVALID_REQUEST", `${name}: takes ${bytes} bytes; at most ${MAX_ANSWER_BYTES} fit.`, {
      details: { limit: MAX_ANSWER_BYTES },
    });
  }
  if (schema !== undefined) satisfy(answer, JSON.parse(schema), name);
  return text;
}

function satisfy(answer: unknown, schema: unknown, name: string): void {
  let error: ErrorObject | undefined;
  try {
    const validate = compile(schema);
    if (validate(answer) === true) return;
    error = validate.errors?.[0];
  } catch (cause) {
    throw new ArcpError("INVALID_REQUEST", `${name}: the question's schema cannot be checked on this answer.`, {
      cause,
    });
  }
  const { path, complaint } = describe(error);
  const where = cut([name, ...path].join("."), MAX_PATH_CHARS);
  throw new ArcpError("INVALID_REQUEST", `${where}: ${cut(complaint, MAX_PATH_CHARS)}.`, {
    details: { path: cut(path.map((part) => `/${part}`).join(""), MAX_PATH_CHARS) },
  });
}

/** Where in the answer, and what. A field that is missing or one too many is named, not the object around it. */
function describe(error: ErrorObject | undefined): { path: string[]; complaint: string } {
  const { instancePath = "", message = "does not satisfy the question's schema", params = {} } = error ?? {};
  const path = instancePath
    .split("/")
    .slice(1)
    .map((part) => cut(part.replaceAll("~1", "/").replaceAll("~0", "~"), MAX_NAME_CHARS));
  const { missingProperty, additionalProperty, unevaluatedProperty } = params as Record<string, unknown>;
  if (typeof missingProperty === "string") {
    return { path: [...path, cut(missingProperty, MAX_NAME_CHARS)], complaint: "is missing" };
  }
  const surplus = additionalProperty ?? unevaluatedProperty;
  if (typeof surplus === "string") {
    return { path: [...path, cut(surplus, MAX_NAME_CHARS)], complaint: "is not a field of the answer" };
  }
  return { path, complaint: message };
}
