/**
 * JSON Web Tokens of an identity provider, checked with its public keys (SRV-28). Costs one signature check for each
 * request and hello; the provider is asked for its keys at the first token, then when an unknown key is named, at
 * most twice a minute, and never for longer than 5 s. `jose` does the work and is an optional peer: nothing of it is
 * loaded before this is called.
 */
import type { JSONWebKeySet, JWTPayload, JWTVerifyGetKey } from "jose";
import { type Clock, systemClock } from "../../clock.ts";
import { type Logger, silentLogger } from "../../logger.ts";
import type { Authenticator, Identity, Role } from "../../runtime/index.ts";

export interface JwtAuthOptions {
  /** Where the provider publishes its keys: an `https:` URL, `http:` of this machine. Or `jwks`. */
  jwksUrl?: string | URL;
  /** The keys themselves. */
  jwks?: { keys: Record<string, unknown>[] };
  /** What `iss` must be. */
  issuer: string;
  /** What `aud` must be or hold: tokens for somebody else are not for us. */
  audience: string;
  /** Which claim names the principal. @default "sub" */
  principalClaim?: string;
  /** Which claim lists roles (a text, or an array of texts). @default "roles" */
  rolesClaim?: string;
  /** What the provider calls our roles. Whoever has none of them is a user. @default the same names */
  roleNames?: Partial<Record<Role, string>>;
  /** Signatures that are taken. None is symmetric: a public key must not do as a secret. @default RS, PS, ES, EdDSA */
  algorithms?: readonly string[];
  /** How far clocks may differ. @default 5_000 */
  clockToleranceMs?: number;
  clock?: Clock;
  /** @default a logger that says nothing */
  logger?: Logger;
}

const ASYMMETRIC = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
  "EdDSA",
  "Ed25519",
];
const MAX_PRINCIPAL_CHARS = 256;
const MAX_TOKEN_CHARS = 16_384;
/** A token of ours has no dots; a signed one has two. */
const JWT_FORM = /^[\w-]+\.[\w-]+\.[\w-]+$/;

/**
 * Lets in whoever brings a token that the provider has signed for us. Composes with others in {@link firstOf}.
 *
 * @throws RangeError for options that cannot be; Error when `jose` is not installed
 */
export async function jwtAuth(options: JwtAuthOptions): Promise<Authenticator> {
  const { principalClaim = "sub", rolesClaim = "roles", algorithms = ASYMMETRIC, clockToleranceMs = 5_000 } = options;
  const { clock = systemClock, logger = silentLogger, issuer, audience } = options;
  if (issuer === "" || audience === "") throw new RangeError("issuer, audience: are empty; name both.");
  const symmetric = algorithms.find((name) => !ASYMMETRIC.includes(name));
  if (symmetric !== undefined) {
    throw new RangeError(`algorithms: ${symmetric} is none of ${ASYMMETRIC.join(", ")}.`);
  }
  const jose = await import("jose").catch((error: unknown) => {
    throw new Error("JSON Web Tokens need the package jose; install it beside holdfast: npm install jose", {
      cause: error,
    });
  });
  const keys = keysOf(jose, options);
  const names = { observer: "observer", user: "user", operator: "operator", ...options.roleNames };
  return {
    async authenticate(token) {
      if (token.length > MAX_TOKEN_CHARS || !JWT_FORM.test(token)) return undefined;
      try {
        const { payload } = await jose.jwtVerify(token, keys, {
          issuer,
          audience,
          algorithms: [...algorithms],
          clockTolerance: clockToleranceMs / 1_000,
          currentDate: new Date(clock.wall()),
          requiredClaims: ["exp", principalClaim],
        });
        return identityOf(payload, { principalClaim, rolesClaim, names });
      } catch (error) {
        // What is wrong with a token is its bearer's affair; that the keys cannot be had is ours.
        const isOurs = !(error instanceof jose.errors.JOSEError) || error instanceof jose.errors.JWKSTimeout;
        if (isOurs) logger.error({ err: error }, "the provider's keys cannot be had; its tokens are refused");
        else logger.debug({ code: error.code }, "a JSON Web Token is refused");
        return undefined;
      }
    },
  };
}

function keysOf(jose: typeof import("jose"), { jwks, jwksUrl }: JwtAuthOptions): JWTVerifyGetKey {
  if ((jwks === undefined) === (jwksUrl === undefined)) throw new RangeError("jwksUrl, jwks: give one of them.");
  if (jwks !== undefined) return jose.createLocalJWKSet(jwks as JSONWebKeySet);
  const url = new URL(String(jwksUrl));
  const isLocal = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/.test(url.hostname);
  if (url.protocol !== "https:" && !(url.protocol === "http:" && isLocal)) {
    throw new RangeError(`jwksUrl: ${url.protocol} is no way to get keys that everybody trusts; use https:.`);
  }
  return jose.createRemoteJWKSet(url, { timeoutDuration: 5_000, cooldownDuration: 30_000, cacheMaxAge: 600_000 });
}

function identityOf(
  payload: JWTPayload,
  { principalClaim, rolesClaim, names }: { principalClaim: string; rolesClaim: string; names: Record<Role, string> },
): Identity | undefined {
  const principal = payload[principalClaim];
  if (typeof principal !== "string" || principal === "" || principal.length > MAX_PRINCIPAL_CHARS) return undefined;
  const claimed = payload[rolesClaim];
  const roles = typeof claimed === "string" ? claimed.split(" ") : Array.isArray(claimed) ? claimed : [];
  const operator = roles.includes(names.operator);
  // Of several roles the one that may do most counts.
  const observer = !operator && !roles.includes(names.user) && roles.includes(names.observer);
  return {
    principal,
    ...(payload.exp === undefined ? {} : { expiresAt: payload.exp * 1_000 }),
    ...(operator ? { operator } : {}),
    ...(observer ? { observer } : {}),
  };
}
