/**
 * Files of an answer. The bytes go up first, which nobody sees; the message that belongs to them names their ids in
 * its metadata; only then are they shared to the thread. So a crash in between leaves a message that says which files
 * are still to be shared, and no file is shared twice.
 */
import { ChannelError, type OutgoingFile } from "../../routing/deliveries/channel.ts";
import type { SlackApi } from "./api.ts";
import { slackError } from "./errors.ts";
import type { Place } from "./place.ts";

/** Of one answer: more would not go up in the time of a call. */
const MAX_FILES = 20;
/** As many as Slack shows with one message. */
const FILES_PER_MESSAGE = 10;
/** Slack takes no empty file. */
const EMPTY = new TextEncoder().encode("\n");

/** @returns the ids, in order; nobody sees the files yet */
export async function upload(
  api: SlackApi,
  { team }: Place,
  files: readonly OutgoingFile[],
  signal: AbortSignal,
): Promise<string[]> {
  if (files.length > MAX_FILES) {
    throw new ChannelError("refused", `Slack: an answer has at most ${MAX_FILES} files; this one has ${files.length}.`);
  }
  const ids: string[] = [];
  for (const { name, data: given } of files) {
    const data = given.byteLength === 0 ? EMPTY : given;
    const method = "files.getUploadURLExternal";
    const { upload_url, file_id } = await api.call({ method, team, repeatable: true, signal }, (client) =>
      client.files.getUploadURLExternal({ filename: name, length: data.byteLength }),
    );
    if (upload_url === undefined || file_id === undefined) {
      throw new ChannelError("retry", `Slack, ${method}: an answer without a URL.`);
    }
    await put(upload_url, data, signal);
    ids.push(file_id);
  }
  return ids;
}

/** The URL is the permission: no token goes there. */
async function put(url: string, data: Uint8Array, signal: AbortSignal): Promise<void> {
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: new Uint8Array(data),
      redirect: "error",
      signal,
    });
    await response.body?.cancel();
    if (!response.ok) throw new ChannelError("retry", `Slack, the upload of a file: HTTP status ${response.status}.`);
  } catch (error) {
    throw slackError(error, "the upload of a file", true);
  }
}

/** Shows files that were uploaded in the thread. */
export async function share(
  api: SlackApi,
  { team, channel, thread }: Place,
  ids: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const [first, ...others] = ids.slice(0, FILES_PER_MESSAGE).map((id) => ({ id }));
  if (first === undefined) return;
  const files: [{ id: string }, ...{ id: string }[]] = [first, ...others];
  // Not repeatable: an unclear try may have shared them, and whoever asks again looks first.
  await api.call({ method: "files.completeUploadExternal", team, repeatable: false, signal }, (client) =>
    client.files.completeUploadExternal(
      thread === undefined ? { files, channel_id: channel } : { files, channel_id: channel, thread_ts: thread },
    ),
  );
  await share(api, { team, channel, thread }, ids.slice(FILES_PER_MESSAGE), signal);
}
