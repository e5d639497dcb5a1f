/** Who is there: the runtime asks, what is handed in answers (server/tokens.ts has ways to answer). */

export interface Identity {
  /** Names the caller; all visibility is by principal. */
  principal: string;
  /** Wall milliseconds at which the token ends; a connection ends with it (SES-11). */
  expiresAt?: number | undefined;
  /** Whether it may do what concerns others: keys of channels, breaking locks. @default false */
  operator?: boolean | undefined;
}

export interface Authenticator {
  /** The identity behind a token, or `undefined` when the token is not good. */
  authenticate(token: string): Promise<Identity | undefined>;
}
