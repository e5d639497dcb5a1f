/** Something that is served beside `/v1` under paths of its own: the console, metrics. */
import type { IncomingMessage, ServerResponse } from "node:http";

export interface Site {
  covers(path: string): boolean;
  /** Answers a request whose host and origin are good. */
  answer(request: IncomingMessage, response: ServerResponse, path: string): Promise<void>;
}
