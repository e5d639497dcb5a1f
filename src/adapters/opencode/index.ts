/** OpenCode behind a conversation: the backend, the agent, and a server of one's own. */
export { type OpencodeAgentOptions, opencodeAgent, type PermissionRequest } from "./agent.ts";
export { type OpencodeBackend, type OpencodeOptions, type OpencodeTimeouts, opencode } from "./backend.ts";
export { connectionFile, OpencodeServer, type OpencodeServerOptions } from "./server.ts";
