/** Event kinds of the host's own whose bodies are checked before they are logged (SPEC.md, EXT-5). */
import { checked, type ValueSchema } from "./value-schema.ts";
import { checkVendorName } from "./vendor-name.ts";

export class EventKinds {
  readonly #schemas = new Map<string, ValueSchema>();

  /** @throws RangeError for a name that is no vendor's, is Holdfast's, or is taken */
  register(kind: string, schema: ValueSchema): void {
    checkVendorName("kind", kind);
    if (this.#schemas.has(kind)) throw new RangeError(`kind: ${JSON.stringify(kind)} is registered already.`);
    this.#schemas.set(kind, schema);
  }

  /** Lets bodies of other kinds pass. @throws ArcpError INVALID_REQUEST for one that is not of its registered kind */
  check(kind: string, body: unknown): void {
    const schema = this.#schemas.get(kind);
    if (schema !== undefined) checked(schema, body, `Invalid ${kind} event: body`);
  }
}
