/** The `holdfast` command. One file per subcommand; this one only puts them together. */
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { VERSION } from "../runtime/index.ts";
import { answerCommand } from "./answer.ts";
import { backupCommand } from "./backup.ts";
import { cancelCommand } from "./cancel.ts";
import { conformanceCommand } from "./conformance.ts";
import { conversationsCommand } from "./conversations.ts";
import { deliveriesCommand } from "./deliveries.ts";
import { demoCommand } from "./demo/command.ts";
import { doctorCommand } from "./doctor.ts";
import { jobsCommand } from "./jobs.ts";
import { locksCommand } from "./locks.ts";
import { nodesCommand } from "./nodes.ts";
import { oneLine, Problem } from "./problem.ts";
import { psCommand } from "./ps.ts";
import { resultCommand } from "./result.ts";
import { routesCommand } from "./routes.ts";
import { serveCommand } from "./serve.ts";
import { submitCommand } from "./submit.ts";
import { terminalOn } from "./terminal.ts";
import { turnCommand } from "./turn.ts";
import { watchCommand } from "./watch.ts";

const terminal = terminalOn(process.stdout, process.stderr);

// Whoever reads our output may leave early (`| head`): that is no failure of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});

const program = new Command("holdfast")
  .description("Keeps the sessions between people, clients and AI agents.")
  .version(VERSION)
  .exitOverride()
  // What stands behind a command's name is that command's, and its subcommand's behind that one's.
  .enablePositionalOptions()
  .configureOutput({
    // The parser's complaints are told below, in one line and with what to do.
    outputError: () => undefined,
  })
  .addCommand(serveCommand(terminal))
  .addCommand(submitCommand(terminal))
  .addCommand(jobsCommand(terminal))
  .addCommand(watchCommand(terminal))
  .addCommand(resultCommand(terminal))
  .addCommand(cancelCommand(terminal))
  .addCommand(answerCommand(terminal))
  .addCommand(turnCommand(terminal))
  .addCommand(conversationsCommand(terminal))
  .addCommand(locksCommand(terminal))
  .addCommand(psCommand(terminal))
  .addCommand(nodesCommand(terminal))
  .addCommand(deliveriesCommand(terminal))
  .addCommand(routesCommand(terminal))
  .addCommand(backupCommand(terminal))
  .addCommand(conformanceCommand(terminal))
  .addCommand(doctorCommand(terminal))
  .addCommand(demoCommand(terminal));

for (const command of program.commands.flatMap((one) => [one, ...one.commands])) {
  command.exitOverride().configureOutput({ outputError: () => undefined });
}

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}

function report(error: unknown): number {
  if (error instanceof CommanderError && !(error instanceof InvalidArgumentError)) {
    // Help and version are told already, and were asked for.
    if (error.exitCode === 0) return 0;
    if (error.code === "commander.help") return 2;
    terminal.remark(`holdfast: ${oneLine(error).replace(/^error: /, "")} See \`holdfast --help\`.`);
    return 2;
  }
  terminal.remark(`holdfast: ${oneLine(error)}`);
  return error instanceof Problem ? error.exitStatus : 1;
}
