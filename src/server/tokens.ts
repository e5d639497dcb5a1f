/**
 * Who holds which token. Tokens are kept as SHA-256 hashes and compared without an early exit
 * (SRV-3, law 8); an answer costs one hash and 32 bytes of comparing per known token.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { z } from "zod";
import { type Clock, systemClock } from "../clock.ts";
import { type Logger, silentLogger } from "../logger.ts";
import { describeIssue } from "../protocol/index.ts";
import type { Authenticator, Identity } from "../runtime/index.ts";

interface KnownToken {
  hash: Buffer;
  identity: Identity;
}

const sha256 = (token: string): Buffer => createHash("sha256").update(token, "utf8").digest();

/** A token of 192 random bits. */
export const generateToken = (): string => `hf_${randomBytes(24).toString("base64url")}`;

function find(known: readonly KnownToken[], token: string, clock: Clock): Identity | undefined {
  const hash = sha256(token);
  let found: Identity | undefined;
  for (const candidate of known) {
    if (timingSafeEqual(candidate.hash, hash)) found = candidate.identity;
  }
  return found?.expiresAt !== undefined && found.expiresAt <= clock.wall() ? undefined : found;
}

const BOTH_ROLES = "operator and observer go not together; give a token one of them";

/**
 * Tokens that are known when the program starts, each with its principal, or with an identity that
 * says when it ends, or that it is an operator's.
 *
 * @throws RangeError for an empty token or principal, and for an operator that is an observer
 */
export function bearerTokens(
  tokens: Readonly<Record<string, string | Identity>>,
  options: { clock?: Clock } = {},
): Authenticator {
  const clock = options.clock ?? systemClock;
  const known = Object.entries(tokens).map(([token, who]): KnownToken => {
    const identity = typeof who === "string" ? { principal: who } : who;
    if (token === "" || identity.principal === "") throw new RangeError("tokens: a token or its principal is empty.");
    if (identity.operator === true && identity.observer === true) throw new RangeError(`tokens: ${BOTH_ROLES}.`);
    return { hash: sha256(token), identity };
  });
  return { authenticate: async (token) => find(known, token, clock) };
}

/** Makes the tokens of these principals operators', wherever they come from. */
export function withOperators(authenticator: Authenticator, principals: readonly string[]): Authenticator {
  const operators = new Set(principals);
  return {
    async authenticate(token) {
      const identity = await authenticator.authenticate(token);
      if (identity === undefined || !operators.has(identity.principal)) return identity;
      // A token that was made to look stays one, whoever's it is.
      return identity.observer === true ? identity : { ...identity, operator: true };
    },
  };
}

/** Asks one after the other; the first that knows the token answers. */
export function firstOf(authenticators: readonly Authenticator[]): Authenticator {
  return {
    async authenticate(token) {
      for (const authenticator of authenticators) {
        const identity = await authenticator.authenticate(token);
        if (identity !== undefined) return identity;
      }
      return undefined;
    },
  };
}

/**
 * `TOKEN=PRINCIPAL` pairs, as `--token` takes one and HOLDFAST_TOKENS several with commas between.
 * The last `=` divides, so a token may end in padding.
 *
 * @throws RangeError without repeating the token
 */
export function parseTokenPairs(text: string): Record<string, string> {
  const pairs: Record<string, string> = {};
  for (const pair of text.split(",")) {
    const at = pair.lastIndexOf("=");
    const token = pair.slice(0, at).trim();
    const principal = pair.slice(at + 1).trim();
    if (at < 0 || token === "" || principal === "") {
      throw new RangeError("expected TOKEN=PRINCIPAL, with commas between several.");
    }
    pairs[token] = principal;
  }
  return pairs;
}

const expiry = z.iso.datetime({ offset: true, error: "must be ISO 8601 with a zone" }).optional();
const principal = z.string().min(1).max(256);
const operator = z.boolean().optional();
const observer = z.boolean().optional();
const oneRole = (entry: { operator?: boolean | undefined; observer?: boolean | undefined }): boolean =>
  entry.operator !== true || entry.observer !== true;
const TokenFile = z.strictObject({
  tokens: z.array(
    z
      .union([
        z.strictObject({ token: z.string().min(1).max(16_384), principal, expires_at: expiry, operator, observer }),
        z.strictObject({
          sha256: z.string().regex(/^[0-9a-f]{64}$/),
          principal,
          expires_at: expiry,
          operator,
          observer,
        }),
      ])
      .refine(oneRole, BOTH_ROLES),
  ),
});

/** Bits that let others than owner and group read or write. */
const OTHERS = 0o006;

interface FileVersion {
  mtimeMs: number;
  ino: number;
  size: number;
  mode: number;
}

async function readTokenFile(path: string, version: FileVersion): Promise<KnownToken[]> {
  if (process.platform !== "win32" && (version.mode & OTHERS) !== 0) {
    throw new Error(`token file ${path}: everybody on this machine can read it; run: chmod 600 ${path}`);
  }
  let content: unknown;
  try {
    content = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    // The parser's own message would quote the content.
    if (!(error instanceof SyntaxError)) throw error;
    throw new Error(`token file ${path}: not JSON.`);
  }
  const parsed = TokenFile.safeParse(content);
  if (!parsed.success) throw new Error(`token file ${path}: ${describeIssue(parsed.error, "")}.`);
  return parsed.data.tokens.map((entry) => ({
    hash: "sha256" in entry ? Buffer.from(entry.sha256, "hex") : sha256(entry.token),
    identity: {
      principal: entry.principal,
      ...(entry.expires_at === undefined ? {} : { expiresAt: Date.parse(entry.expires_at) }),
      ...(entry.operator === undefined ? {} : { operator: entry.operator }),
      ...(entry.observer === undefined ? {} : { observer: entry.observer }),
    },
  }));
}

/**
 * Tokens in a JSON file, `{"tokens": [{"token" | "sha256": …, "principal": …, "expires_at"?: …,
 * "operator"?: …, "observer"?: …}]}`. The file is looked at on every use and read again when it has changed, so a token is revoked by taking it
 * out. While a changed file cannot be read, the tokens read last stay good, and the log says so.
 *
 * @throws Error when the file is missing, is not of that form, or everybody can read it
 */
export async function tokensFromFile(
  path: string,
  options: { clock?: Clock; logger?: Logger } = {},
): Promise<Authenticator> {
  const { clock = systemClock, logger = silentLogger } = options;
  const look = async (): Promise<FileVersion> => {
    const { mtimeMs, ino, size, mode } = await stat(path);
    return { mtimeMs, ino, size, mode };
  };
  const isSame = (a: FileVersion, b: FileVersion) =>
    a.mtimeMs === b.mtimeMs && a.ino === b.ino && a.size === b.size && a.mode === b.mode;

  let seen = await look();
  let known = await readTokenFile(path, seen);
  const refresh = async () => {
    try {
      const now = await look();
      if (isSame(now, seen)) return;
      known = await readTokenFile(path, now);
      seen = now;
    } catch (error) {
      logger.error({ err: error }, "the token file changed and cannot be read; the tokens read last stay good");
    }
  };
  return {
    async authenticate(token) {
      await refresh();
      return find(known, token, clock);
    },
  };
}
