/** Deliveries: answers on their way out to people (SPEC.md, DLV). */
export { type Answer, answerOf, type Ending } from "./answer.ts";
export {
  type CallOptions as ChannelCallOptions,
  type Channel,
  ChannelError,
  type ChannelErrorKind,
  type ChannelLimits,
  type OutgoingFile,
  type OutgoingMessage,
  type Receipt,
} from "./channel.ts";
export {
  type ChannelOptions,
  Deliveries,
  type DeliveriesHost,
  type DeliveriesOptions,
  type DeliveryQuery,
  type DeliveryViewer,
} from "./deliveries.ts";
export type { DeliveryEvents } from "./events.ts";
export type { ReplyTo, RouteTable } from "./pin.ts";
