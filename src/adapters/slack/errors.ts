/**
 * What Slack's answers, and the faults of the way there, mean for a delivery: a table of its error codes. A code that
 * the table does not know says that the call was not taken; it is tried again until the outbox gives up.
 */
import { webApi } from "@slack/bolt";
import { ChannelError, type ChannelErrorKind } from "../../routing/deliveries/channel.ts";

const REFUSED: Readonly<Record<string, string>> = {
  channel_not_found: "the channel is gone, or the app cannot see it",
  invalid_channel: "the channel is gone, or the app cannot see it",
  is_archived: "the channel is archived",
  is_inactive: "the channel is archived, frozen or deleted",
  not_in_channel: "the app is no member; /invite it, then retry the delivery",
  posting_to_channel_denied: "the app may not post there",
  thread_not_found: "the thread is gone",
  invalid_thread_ts: "the thread is gone",
  cannot_reply_to_message: "that message can have no thread",
  message_not_found: "the message was deleted",
  cant_update_message: "the message is not the app's",
  edit_window_closed: "the workspace lets no message of that age be edited",
  block_mismatch: "the message cannot be edited by the app",
  messages_tab_disabled: "the app's Messages tab is off; switch it on in the app's settings",
  ekm_access_denied: "an administrator has suspended posting",
  restricted_action: "a preference of the workspace forbids it",
  restricted_action_non_threadable_channel: "the channel has no threads",
  restricted_action_read_only_channel: "the channel is read-only",
  restricted_action_thread_locked: "the thread is locked",
  restricted_action_thread_only_channel: "the channel takes replies only",
  slack_connect_file_link_sharing_blocked: "an administrator forbids files in shared channels",
  msg_too_long: "the text is too long",
  msg_blocks_too_long: "the text is too long",
  no_text: "there is no text",
  invalid_blocks: "the message is not well-formed",
  invalid_blocks_format: "the message is not well-formed",
  invalid_arguments: "the message is not well-formed",
  invalid_metadata_format: "the message is not well-formed",
  invalid_metadata_schema: "the message is not well-formed",
  metadata_too_large: "the message is not well-formed",
};

/** Slack says of these that the call may have succeeded in part. */
const UNCLEAR: ReadonlySet<string> = new Set([
  "fatal_error",
  "internal_error",
  "service_unavailable",
  "update_failed",
  "file_update_failed",
]);

/** What an operator puts right; until then the outbox keeps trying. */
const TOKEN = "give the app a good token";
const RETRY: Readonly<Record<string, string>> = {
  invalid_auth: TOKEN,
  not_authed: TOKEN,
  token_revoked: TOKEN,
  token_expired: TOKEN,
  account_inactive: TOKEN,
  missing_scope: "give the app the scopes that docs/slack.md lists, and install it again",
};

/** Of a connection that never came about: nothing was sent. */
const NOT_SENT: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "ENETUNREACH",
  "EHOSTUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);

/** Where Slack limits without saying for how long. */
const DEFAULT_RETRY_AFTER_MS = 1_000;
const ERROR_CODE = /^[a-z][a-z0-9_]{0,79}$/;

/**
 * @param method of Slack's API, for the message
 * @param repeatable whether doing it twice does no harm; then nothing is unclear
 */
export function slackError(error: unknown, method: string, repeatable: boolean): ChannelError {
  if (error instanceof ChannelError) return error;
  const told = (kind: ChannelErrorKind, why: string, retryAfterMs?: number): ChannelError =>
    new ChannelError(kind === "unclear" && repeatable ? "retry" : kind, `Slack, ${method}: ${why}.`, {
      cause: error,
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    });
  if (error instanceof webApi.WebAPIRateLimitedError) {
    return told("rate_limited", `rate limited for ${error.retryAfter} s`, error.retryAfter * 1_000);
  }
  if (error instanceof webApi.WebAPIPlatformError) {
    const code = error.data.error;
    // A gateway's page instead of Slack's JSON.
    if (!ERROR_CODE.test(code)) return told("unclear", "an answer that is none of Slack's");
    if (code === "ratelimited" || code === "rate_limited" || code === "message_limit_exceeded") {
      const seconds = error.data.response_metadata?.retryAfter;
      return told("rate_limited", code, seconds === undefined ? DEFAULT_RETRY_AFTER_MS : seconds * 1_000);
    }
    const reason = REFUSED[code];
    if (reason !== undefined) return told("refused", `${code} (${reason})`);
    if (UNCLEAR.has(code)) return told("unclear", code);
    const remedy = RETRY[code];
    return told("retry", remedy === undefined ? code : `${code} (${remedy})`);
  }
  if (error instanceof webApi.WebAPIHTTPError) {
    return told(error.statusCode >= 500 ? "unclear" : "retry", `HTTP status ${error.statusCode}`);
  }
  const code = systemCode(error);
  return told(code !== undefined && NOT_SENT.has(code) ? "retry" : "unclear", code ?? "no answer");
}

/** Node says what went wrong with a connection somewhere below: `fetch failed` alone says nothing. */
function systemCode(error: unknown): string | undefined {
  let at = error;
  for (let depth = 0; depth < 5 && at instanceof Error; depth += 1) {
    if ("code" in at && typeof at.code === "string" && !at.code.startsWith("slack_")) return at.code;
    at = at instanceof webApi.WebAPIRequestError ? at.original : at.cause;
  }
  return undefined;
}
