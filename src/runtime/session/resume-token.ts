import { createHash, randomBytes } from "node:crypto";

/** A fresh resume token: 256 random bits. Only its hash is stored (law 8). */
export const newResumeToken = (): string => randomBytes(32).toString("base64url");

/** SHA-256 of a token. */
export const hashToken = (token: string): Uint8Array => createHash("sha256").update(token).digest();
