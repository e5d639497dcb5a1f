/** A web chat is a channel as every other: the contract, over a room that is read as a page reads it. */
import path from "node:path";
import { setImmediate } from "node:timers/promises";
import { mayChat, WebChannel, webChat } from "../src/adapters/webchat/index.ts";
import { connect, openChat } from "../src/client/index.ts";
import { Conversations, conversationIdOf } from "../src/conversation/index.ts";
import type { Route } from "../src/routing/index.ts";
import { Runtime } from "../src/runtime/index.ts";
import { bearerTokens, serve } from "../src/server/index.ts";
import { sqlite } from "../src/store/sqlite/index.ts";
import { channelContract } from "../src/testing/channel-contract.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const TOKEN = "alices";

const routeTo = (room: string): Route => ({
  channel: "web",
  externalRoomId: conversationIdOf({ source: "web", chat: room }, "alice"),
});

channelContract("web chat", async () => {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder());
  const auth = bearerTokens({ [TOKEN]: "alice" });
  const runtime = new Runtime({ store: sqlite(path.join(folder.path, "chat.db")), auth, mayAnswer: mayChat });
  const channel = new WebChannel();
  const conversations = new Conversations(runtime, { deliveries: { channels: [channel] } });
  const rooms = webChat({ runtime, conversations, channel });
  const server = await serve(runtime, { port: 0, conversations });
  stack.defer(() => server.stop({ drainMs: 0 }));
  const session = stack.use(await connect(server.url, { token: TOKEN }));
  const places = [routeTo("lobby"), routeTo("attic")];
  for (const room of ["lobby", "attic"]) {
    const chat = stack.use(await openChat(session, { room, agent: "nobody" }));
    // A room takes messages when it hears its pages.
    await chat.stop();
  }
  const moved = stack.move();
  return {
    channel,
    route: routeTo("lobby"),
    otherRoute: routeTo("attic"),
    /** Whatever is in the log, as a page that comes now sees it. */
    async shown({ externalRoomId }) {
      const room = externalRoomId === places[0]?.externalRoomId ? "lobby" : "attic";
      await using page = await connect(server.url, { token: TOKEN });
      using chat = await openChat(page, { room, agent: "nobody" });
      // Its own wish comes behind all that was sent before.
      await chat.stop();
      return chat.messages.map(({ text, files }) => ({
        text,
        files: files.map(({ name, base64 = "" }) => ({ name, data: new Uint8Array(Buffer.from(base64, "base64")) })),
      }));
    },
    async goDown() {
      rooms.stop();
      while (places.some((place) => channel.reaches(place))) await setImmediate();
    },
    [Symbol.asyncDispose]: () => moved.disposeAsync(),
  };
});
