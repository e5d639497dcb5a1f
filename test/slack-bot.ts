/** examples/slack-agent.ts as a process of its own, in front of Slack's double: started, written to, killed. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { SIGNING_SECRET, SlackEvents } from "./slack-app.ts";
import { BOT_TOKEN, type SlackDouble } from "./slack-double.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const FROM_SOURCE = new URL("holdfast-from-source.ts", import.meta.url).href;

export class SlackBot {
  /** What it has printed, line by line. */
  readonly printed: string[];
  readonly events: SlackEvents;
  readonly #child: ChildProcess;
  readonly #errors: Promise<string>;
  readonly #exit: Promise<unknown[]>;

  private constructor(given: {
    child: ChildProcess;
    exit: Promise<unknown[]>;
    errors: Promise<string>;
    printed: string[];
    events: SlackEvents;
  }) {
    this.#child = given.child;
    this.#exit = given.exit;
    this.#errors = given.errors;
    this.printed = given.printed;
    this.events = given.events;
  }

  /** @param file its store */
  static async start(double: SlackDouble, file: string): Promise<SlackBot> {
    const child = spawn(process.execPath, ["--import", FROM_SOURCE, "examples/slack-agent.ts"], {
      cwd: ROOT,
      env: {
        ...process.env,
        SLACK_BOT_TOKEN: BOT_TOKEN,
        SLACK_SIGNING_SECRET: SIGNING_SECRET,
        SLACK_API_URL: double.apiUrl,
        DB: file,
        PORT: "0",
      },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 60_000,
      killSignal: "SIGKILL",
    });
    const exit = once(child, "exit");
    const errors = text(child.stderr);
    const printed: string[] = [];
    const listening = Promise.withResolvers<number>();
    createInterface(child.stdout).on("line", (line) => {
      printed.push(line);
      const port = /port: (\d+)/.exec(line)?.[1];
      if (port !== undefined) listening.resolve(Number(port));
    });
    exit.then(async () => listening.reject(new Error(`The bot ended before it listened: ${await errors}`)));
    const port = await listening.promise;
    return new SlackBot({ child, exit, errors, printed, events: new SlackEvents(port, double) });
  }

  /** As the kernel does it. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#exit;
  }

  /** As an operator does it; fails unless it ends well. */
  async stop(): Promise<void> {
    this.#child.kill("SIGTERM");
    const [status] = await this.#exit;
    assert.equal(status, 0, await this.#errors);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}
