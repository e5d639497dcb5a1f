/**
 * `holdfast`: a runtime that keeps the sessions, and a server for it. The engine is handed in
 * (`holdfast/sqlite`), the client is its own entry (`holdfast/client`).
 */
export { type Clock, systemClock, type Timer } from "./clock.ts";
export * from "./cluster/index.ts";
export * from "./conversation/index.ts";
export type { Logger } from "./logger.ts";
export { ArcpError, type ErrorCode } from "./protocol/index.ts";
export * from "./routing/deliveries/index.ts";
export { StoredRoutes, type StoredRoutesOptions } from "./routing/stored/stored-routes.ts";
export * from "./runtime/index.ts";
export {
  type Attachment,
  type AttachOptions,
  attach,
  bearerTokens,
  firstOf,
  generateToken,
  type HoldfastServer,
  type JwtAuthOptions,
  jwtAuth,
  type Rate,
  type ServeOptions,
  serve,
  tokensFromFile,
  withOperators,
} from "./server/index.ts";
// All of it: who writes a store of his own implements and throws these.
export * from "./store/store.ts";
export type { Transport, TransportEvents } from "./transport/transport.ts";
