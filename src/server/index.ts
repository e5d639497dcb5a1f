/** HTTP and WebSocket around a runtime, and ways to say who holds which token (SPEC.md, SRV). */
export { type Attachment, type AttachOptions, attach } from "./attach.ts";
export { type JwtAuthOptions, jwtAuth } from "./auth/jwt.ts";
export type { Rate } from "./auth/rate-limit.ts";
export { type HoldfastServer, type ServeOptions, serve } from "./serve.ts";
export { bearerTokens, firstOf, generateToken, parseTokenPairs, tokensFromFile, withOperators } from "./tokens.ts";
