/** A chat on a page, behind conversations: a channel for answers, and the rooms (SPEC.md, WEB). */
export { WebChannel, type WebChannelOptions } from "./channel.ts";
export { mayChat, type WebChat, type WebChatOptions, webChat } from "./chat.ts";
export { CHAT_EVENT, ROOM_AGENT } from "./events.ts";
