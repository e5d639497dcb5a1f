/** What the workers say and the checker expects. */
import type { Route } from "../../../src/routing/route.ts";

export const ROOM = "C1";
export const MAX_TEXT_CHARS = 200;

export const placeOf = ({ externalRoomId, threadId }: Route): string => `${String(externalRoomId)}/${threadId ?? ""}`;

/** Some answers are long: each of their paragraphs is a message of its own. */
export const paragraphsTo = (label: string): string[] =>
  Array.from({ length: label.endsWith("0") ? 4 : label.endsWith("5") ? 2 : 1 }, (_, index) =>
    `answer to ${label}, ${index + 1} `.padEnd(150, "."),
  );

export const answerTo = (label: string): string => paragraphsTo(label).join("\n\n");
