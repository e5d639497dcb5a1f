/** `holdfast answer JOB [QUESTION] JSON`: answers what a job asks, whichever session of the principal submitted it. */
import { Command } from "commander";
import { z } from "zod";
import { type ConnectionFlags, findTarget, type Target, withConnectionFlags } from "./connection.ts";
import { jsonArgument } from "./json-argument.ts";
import { Problem } from "./problem.ts";
import { shortened, type Terminal } from "./terminal.ts";
import { askAboutJob } from "./v1.ts";

const Questions = z.looseObject({
  questions: z.array(z.looseObject({ question_id: z.string(), state: z.string(), message: z.string() })),
});
const Answered = z.looseObject({ question_id: z.string(), outcome: z.literal("accepted") });

/** Questions that a complaint lists. */
const MAX_LISTED = 16;
const MAX_MESSAGE_CHARS = 60;

export function answerCommand(terminal: Terminal): Command {
  return withConnectionFlags(new Command("answer"))
    .description("Answer a question of a job. QUESTION may be left out when exactly one is open.")
    .usage("[options] <job> [question] <json>")
    .argument("<job>", "the job's id, as `submit` and `jobs` print it")
    .argument("<answer...>", "the question's id, then the answer as JSON; `-` reads it from standard input")
    .action((jobId: string, words: string[], flags: ConnectionFlags) => run(jobId, words, flags, terminal));
}

async function run(jobId: string, words: string[], flags: ConnectionFlags, terminal: Terminal): Promise<void> {
  const [first = "", second, surplus] = words;
  if (surplus !== undefined) {
    throw new Problem(
      "Too many arguments: give a job, a question and one JSON, quoted, as in '{\"approve\":true}'.",
      2,
    );
  }
  const answer = await jsonArgument(second ?? first, "answer");
  const target = await findTarget(flags, process.env);
  const questionId = second === undefined ? await onlyQuestion(target, jobId) : first;
  const path = `/questions/${encodeURIComponent(questionId)}/answer` as const;
  const answered = await askAboutJob(target, jobId, { method: "POST", path, body: { answer } }, Answered);
  if (flags.json) terminal.json(answered);
  else terminal.line(`Answered ${questionId}; see how it goes on with: holdfast watch ${jobId}`);
}

/** @throws Problem when none is open, or several */
async function onlyQuestion(target: Target, jobId: string): Promise<string> {
  const { questions } = await askAboutJob(target, jobId, { method: "GET", path: "/questions" }, Questions);
  const open = questions.filter(({ state }) => state === "open");
  const [first, ...others] = open;
  if (first === undefined) throw new Problem(`Job ${jobId} has no open question.`);
  if (others.length === 0) return first.question_id;
  const list = open
    .slice(0, MAX_LISTED)
    .map(({ question_id, message }) => `${question_id} (${shortened(message, MAX_MESSAGE_CHARS)})`);
  throw new Problem(`Job ${jobId} asks ${open.length} questions; name one of them: ${list.join(", ")}.`, 2);
}
