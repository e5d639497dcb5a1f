/** What happened in the demo, so that it fits a screen. */
import Table from "cli-table3";
import { countsLine } from "./counts.ts";
import type { JobStory, Story } from "./scenario.ts";

const number = new Intl.NumberFormat("en-US");
const shown = (value: number): string => number.format(Math.round(value));

const PLAIN = { head: [], border: [] };

function ending({ end, endSeq }: JobStory): string {
  if (end.final_status === "success") return "success";
  const reason = end.details?.["reason"];
  const because = reason === undefined ? "" : ` ${String(reason)}`;
  const told = endSeq === undefined ? "" : `, told by event ${endSeq}`;
  return `${reason === "node_lost" ? "killed" : end.final_status}: ${end.code}${because}${told}`;
}

function jobsTable(story: Story): string {
  const table = new Table({
    head: ["job", "agent", "events", "how it ended"],
    colAligns: ["left", "left", "right", "left"],
    style: PLAIN,
  });
  for (const job of story.jobs) table.push([job.label, job.agent, shown(job.events), ending(job)]);
  return table.toString();
}

function interruptionsTable(story: Story): string {
  const table = new Table({
    head: ["what was done", "at event", "back after", "replayed"],
    colAligns: ["left", "right", "right", "right"],
    style: PLAIN,
  });
  for (const { what, atSeq, backAfterMs, replayed } of story.interruptions) {
    table.push([what, shown(atSeq), backAfterMs === undefined ? "never" : `${shown(backAfterMs)} ms`, shown(replayed)]);
  }
  return table.toString();
}

function surveyLines({ survey }: Story): string[] {
  if (survey === undefined) return [];
  const languages = survey.languages
    .filter(({ lines }) => lines > 0)
    .slice(0, 4)
    .map(({ language, lines }) => `${language} ${shown(lines)}`);
  const [largest] = survey.largest;
  const [equal] = survey.equal;
  return [
    `The survey found ${shown(survey.files)} files with ${shown(survey.lines)} lines: ${languages.join(", ")}.`,
    ...(largest === undefined ? [] : [`Largest: ${largest.path} (${shown(largest.bytes)} bytes).`]),
    equal === undefined
      ? "No two files have the same content."
      : `${survey.equal.length} contents are there more than once, e.g. ${equal.paths.slice(0, 2).join(" and ")}.`,
    ...(survey.skipped.length === 0 ? [] : [`Skipped: ${survey.skipped.slice(0, 5).join(", ")}.`]),
  ];
}

/** Ends with the line of counts. */
export function reportOf(story: Story): string {
  const cuts = story.interruptions.filter(({ what }) => what === "socket cut").length;
  return [
    `One session: its socket was cut ${cuts} times and its server killed once, in ${(story.durationMs / 1_000).toFixed(1)} s.`,
    "",
    jobsTable(story),
    interruptionsTable(story),
    "",
    ...surveyLines(story),
    "",
    countsLine(story.counts),
  ].join("\n");
}
