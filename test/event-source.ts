/** Server-Sent Events as they come, for tests: each event with its fields, comments as `comment`. */
import { once } from "node:events";
import { type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from "node:http";

export interface SentEvent {
  id?: string;
  event?: string;
  data?: string;
  retry?: string;
  comment?: string;
}

export interface Source {
  status: number | undefined;
  headers: IncomingHttpHeaders;
  /** Until the server ends it. */
  events: AsyncGenerator<SentEvent>;
  request: ClientRequest;
  response: IncomingMessage;
}

export async function eventSource(
  port: number,
  target: string,
  { token = "alices", headers = {} }: { token?: string; headers?: Record<string, string> } = {},
): Promise<Source> {
  const outgoing = request({ port, host: "127.0.0.1", path: target, agent: false, headers });
  outgoing.setHeader("authorization", `Bearer ${token}`);
  outgoing.on("error", () => undefined);
  outgoing.end();
  const [response] = (await once(outgoing, "response")) as [IncomingMessage];
  return {
    status: response.statusCode,
    headers: response.headers,
    events: eventsOf(response),
    request: outgoing,
    response,
  };
}

async function* eventsOf(response: IncomingMessage): AsyncGenerator<SentEvent> {
  let rest = "";
  response.setEncoding("utf8");
  for await (const chunk of response as AsyncIterable<string>) {
    const blocks = (rest + chunk).split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) yield parsed(block);
  }
}

function parsed(block: string): SentEvent {
  const event: Record<string, string> = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const name = at === 0 ? "comment" : line.slice(0, at);
    const value = line.slice(at + 1).replace(/^ /, "");
    event[name] = name === "data" && event["data"] !== undefined ? `${event["data"]}\n${value}` : value;
  }
  return event;
}

/** The next event that is no comment and no `retry`; `undefined` at the end. */
export async function nextEvent(source: Source): Promise<SentEvent | undefined> {
  for (;;) {
    const { done, value } = await source.events.next();
    if (done === true) return undefined;
    if (value.event !== undefined) return value;
  }
}

/** All that are left. */
export async function restOf(source: Source): Promise<SentEvent[]> {
  const events: SentEvent[] = [];
  for (let event = await nextEvent(source); event !== undefined; event = await nextEvent(source)) events.push(event);
  return events;
}
