/** The words of the wire: ARCP v1.1 (SPEC.md, ENV). Pure: no input or output, no clock. */
export * from "./envelope.ts";
export * from "./errors.ts";
export * from "./event-bodies.ts";
export * from "./features.ts";
export * from "./ids.ts";
export * from "./messages.ts";
export * from "./parse.ts";
export * from "./requests.ts";
