/** Who is there: the runtime asks, what is handed in answers (src/server has ways to answer). */

/**
 * What the holder of a token may do (SRV-19, SRV-20).
 *
 * - `observer`: look at what its principal may see, and change nothing.
 * - `user`: everything with what is its principal's own.
 * - `operator`: look at everything, stop jobs, break locks, use keys of channels. Each such act is audited.
 */
export type Role = "observer" | "user" | "operator";

export interface Identity {
  /** Names the caller; all visibility is by principal. */
  principal: string;
  /** Wall milliseconds at which the token ends; a connection ends with it (SES-11). */
  expiresAt?: number | undefined;
  /** Whether it may do what concerns others: keys of channels, breaking locks. @default false */
  operator?: boolean | undefined;
  /** Whether it may only look. An operator is none. @default false */
  observer?: boolean | undefined;
}

/** Who asks: a principal, and whether it is an operator that may see what is others'. A text is a principal alone. */
export type Asker = string | { readonly principal: string; readonly operator?: boolean | undefined };

export interface Authenticator {
  /** The identity behind a token, or `undefined` when the token is not good. */
  authenticate(token: string): Promise<Identity | undefined>;
}

export function roleOf(identity: Identity): Role {
  if (identity.operator === true) return "operator";
  return identity.observer === true ? "observer" : "user";
}

export const principalOf = (asker: Asker): string => (typeof asker === "string" ? asker : asker.principal);

export const isOperator = (asker: Asker): boolean => typeof asker !== "string" && asker.operator === true;
