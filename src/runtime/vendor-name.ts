/** Names that a host gives to what it adds to the wire (SPEC.md, EXT-4). */

/** As the envelope's own extension keys; a type takes at most 128 characters. */
const NAME = /^x-vendor\.[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+$/;
const MAX_CHARS = 128;
const OURS = "x-vendor.holdfast.";

/**
 * @param field what the name is of
 * @throws RangeError for one that is no vendor's, or is Holdfast's
 */
export function checkVendorName(field: string, name: string): void {
  if (!NAME.test(name) || name.length > MAX_CHARS) {
    throw new RangeError(
      `${field}: ${JSON.stringify(name)} must be "x-vendor.<vendor>.<name>" of at most ${MAX_CHARS} characters.`,
    );
  }
  if (name.startsWith(OURS)) throw new RangeError(`${field}: ${JSON.stringify(name)} is reserved for Holdfast.`);
}
