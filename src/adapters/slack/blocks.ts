/**
 * A message's text as Slack's blocks: sections of at most 3,000 characters, and while the turn runs the button that
 * stops it. Blocks, not plain text, since a message whose blocks are updated does not say "(edited)" at every step.
 */
import type { types } from "@slack/bolt";

/** What the button's click is listened for by. */
export const STOP_ACTION = "holdfast_stop";

const MAX_SECTION_CHARS = 3_000;
const FENCE = "```";

/** The texts in order, none longer than `maxChars`, cut where it does the least harm. */
export function pieces(mrkdwn: string, maxChars: number): string[] {
  const found: string[] = [];
  let rest = mrkdwn;
  let fenced = false;
  for (;;) {
    const head = fenced ? `${FENCE}\n` : "";
    // Room for the fence that is opened anew, and for the one that is closed.
    const room = maxChars - head.length - FENCE.length - 1;
    if (rest.length <= room) return [...found, head + rest];
    const piece = rest.slice(0, cutAt(rest, room));
    rest = rest.slice(piece.length).replace(/^\n/, "");
    fenced = fenced !== ((piece.match(/```/g)?.length ?? 0) % 2 === 1);
    found.push(`${head}${piece}${fenced ? `\n${FENCE}` : ""}`);
  }
}

/** At a line's end, else at a space, else anywhere but within an entity, a link or a character of two units. */
function cutAt(text: string, room: number): number {
  const head = text.slice(0, room);
  for (const end of [head.lastIndexOf("\n"), head.lastIndexOf(" ")]) {
    // A link's text may hold spaces.
    if (end > room / 2 && head.lastIndexOf("<", end) <= head.lastIndexOf(">", end)) return end;
  }
  const opened = head.lastIndexOf("<");
  if (opened > 0 && opened > head.lastIndexOf(">")) return opened;
  const entity = head.lastIndexOf("&");
  if (entity > 0 && entity > room - 5 && entity > head.lastIndexOf(";")) return entity;
  return (head.codePointAt(room - 1) ?? 0) >= 0xd800 && !head.isWellFormed() ? room - 1 : room;
}

/**
 * @param mrkdwn not empty
 * @param stop the turn that a button is to stop
 */
export function blocksOf(
  mrkdwn: string,
  stop: { conversationId: string; jobId: string; label: string } | undefined,
): types.KnownBlock[] {
  const blocks: types.KnownBlock[] = pieces(mrkdwn, MAX_SECTION_CHARS).map((text) => ({
    type: "section",
    // Slack finds no names and links of its own in it.
    text: { type: "mrkdwn", text, verbatim: true },
    expand: true,
  }));
  if (stop !== undefined) {
    blocks.push({
      type: "actions",
      elements: [
        {
          type: "button",
          action_id: STOP_ACTION,
          text: { type: "plain_text", text: stop.label },
          style: "danger",
          // Read again by {@link slackAgent}: the message may stand elsewhere than in its conversation's thread.
          value: `${stop.conversationId} ${stop.jobId}`,
        },
      ],
    });
  }
  return blocks;
}
