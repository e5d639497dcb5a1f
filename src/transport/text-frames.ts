/**
 * Text messages as WebSocket frames of a server, which are not masked (RFC 6455, 5.2), a whole batch in one
 * piece of memory: one write then carries it. Pieces of a common size are used again, up to a few, once
 * they were written: at 100,000 messages a second the collector would otherwise lag tens of megabytes behind.
 */

/** First byte of an unfragmented text message. */
const FINAL_TEXT = 0x81;
/** The longest length that is told in the second byte itself, and in two bytes behind it; else in eight. */
const LONGEST_INLINE = 125;
const LONGEST_IN_16_BITS = 65_535;

/** Smaller ones come out of Node's own pool, larger ones are rare. */
const SMALLEST_PIECE = 4 * 1024;
const PIECE = 256 * 1024;
const MAX_SPARE = 8;

const spare: Buffer[] = [];

export interface TextFrames {
  readonly bytes: Buffer;
  /** Nobody reads the bytes any more. Called at most once, and not after a write that failed. */
  release(): void;
}

const nothing = (): void => undefined;

export function textFrames(texts: readonly string[]): TextFrames {
  const lengths = texts.map((text) => Buffer.byteLength(text));
  const size = lengths.reduce((sum, length) => sum + headBytes(length) + length, 0);
  if (size < SMALLEST_PIECE || size > PIECE) {
    const bytes = Buffer.allocUnsafe(size);
    write(bytes, texts, lengths);
    return { bytes, release: nothing };
  }
  const piece = spare.pop() ?? Buffer.allocUnsafeSlow(PIECE);
  write(piece, texts, lengths);
  return {
    bytes: piece.subarray(0, size),
    release: () => {
      if (spare.length < MAX_SPARE) spare.push(piece);
    },
  };
}

function write(into: Buffer, texts: readonly string[], lengths: readonly number[]): void {
  let at = 0;
  for (const [index, length] of lengths.entries()) {
    into[at] = FINAL_TEXT;
    if (length <= LONGEST_INLINE) {
      into[at + 1] = length;
    } else if (length <= LONGEST_IN_16_BITS) {
      into[at + 1] = 126;
      into.writeUInt16BE(length, at + 2);
    } else {
      into[at + 1] = 127;
      into.writeBigUInt64BE(BigInt(length), at + 2);
    }
    at += headBytes(length);
    at += into.write(texts[index] as string, at, length, "utf8");
  }
}

const headBytes = (length: number): number => (length <= LONGEST_INLINE ? 2 : length <= LONGEST_IN_16_BITS ? 4 : 10);
