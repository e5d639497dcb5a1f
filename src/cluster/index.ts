/** Several nodes on one store: how they wake each other (SPEC.md, CLU). */
export type { Bus } from "./bus.ts";
export { type ProcessBus, processBus } from "./process-bus.ts";
