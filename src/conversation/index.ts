/** Conversations: keys, locks and turns (SPEC.md, CNV, LCK, TRN). */
export { type RequestContext, requestContext, withRequestContext } from "./context.ts";
export {
  type ConversationAction,
  type ConversationRef,
  Conversations,
  type ConversationsOptions,
  type StartedTurn,
  type StartTurn,
} from "./conversations.ts";
export { type ConversationKey, type ConversationSource, conversationIdOf, parseKey, readKey, writeKey } from "./key.ts";
export { Lock } from "./lock.ts";
export { type AcquireOptions, Locks, type WithLockOptions } from "./locks.ts";
export * from "./upstream/index.ts";
