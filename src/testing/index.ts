/**
 * `holdfast/testing`: what somebody else's store, bus, transport, backend or channel proves itself with, and a clock that only
 * moves when told. The contracts register their cases with `node:test`.
 */
export { type Direction, type MemoryPair, memoryPair } from "../transport/memory.ts";
export { type BackendFixture, backendContract } from "./backend-contract.ts";
export { type BusFixture, busContract } from "./bus-contract.ts";
export { type ChannelFixture, channelContract, type ShownMessage } from "./channel-contract.ts";
export * from "./conformance/index.ts";
export { FakeBackend, type FakeFault, type FakeMethod } from "./fake-backend.ts";
export {
  FakeChannel,
  type FakeChannelFault,
  type FakeChannelMethod,
  type FakeChannelOptions,
  type FakeShown,
} from "./fake-channel.ts";
export { ManualClock } from "./manual-clock.ts";
export { type StoreFixture, storeContract } from "./store-contract.ts";
export { type ConnectedPair, transportContract } from "./transport-contract.ts";
