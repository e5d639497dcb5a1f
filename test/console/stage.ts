/**
 * The console as somebody has it before them: built from the sources, served by a process of its own, looked at in
 * Chromium through a proxy that can be cut. Whatever is waited for has 30 s.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { build } from "vite";
import { connect, type Session } from "../../src/client/index.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { chromiumPath } from "./chromium.ts";
import { CuttableProxy } from "./cuttable-proxy.ts";

export const DEADLINE_MS = 30_000;
const ROOT = fileURLToPath(new URL("../../console", import.meta.url));
const SERVER = fileURLToPath(new URL("server-process.ts", import.meta.url));

export type Token = "alices" | "olgas" | "ottos" | "mallorys";

/** Builds the console as `npm run build` does, elsewhere. */
export async function buildConsole(outDir: string): Promise<void> {
  await build({ root: ROOT, logLevel: "error", build: { outDir, emptyOutDir: true } });
}

class ServerProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly port: number;

  private constructor(child: ChildProcess, port: number) {
    this.#child = child;
    this.port = port;
  }

  static async start(file: string, directory: string, ...how: "bare"[]): Promise<ServerProcess> {
    const child = spawn(process.execPath, [SERVER, file, directory, ...how], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = (await Promise.race([
      once(createInterface({ input: child.stdout }), "line"),
      once(child, "exit").then(([code]) => Promise.reject(new Error(`The server ended with ${code}.`))),
    ])) as [string];
    return new ServerProcess(child, Number(line));
  }

  /** At once, as a crash does. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill();
  }
}

export class Stage implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #browser: Browser;
  readonly #file: string;
  readonly #console: string;
  readonly proxy: CuttableProxy;
  #server: ServerProcess;

  private constructor(parts: {
    stack: AsyncDisposableStack;
    browser: Browser;
    proxy: CuttableProxy;
    file: string;
    console: string;
    server: ServerProcess;
  }) {
    this.#stack = parts.stack;
    this.#browser = parts.browser;
    this.#file = parts.file;
    this.#console = parts.console;
    this.#server = parts.server;
    this.proxy = parts.proxy;
  }

  static async open(): Promise<Stage> {
    await using stack = new AsyncDisposableStack();
    const folder = stack.use(await temporaryFolder());
    const console = path.join(folder.path, "console");
    const file = path.join(folder.path, "test.db");
    await buildConsole(console);
    const proxy = stack.use(await CuttableProxy.listen());
    const server = stack.use(await ServerProcess.start(file, console));
    proxy.target = server.port;
    assert.ok(chromiumPath !== undefined, "Chromium is needed: apt-get install chromium, or set HOLDFAST_CHROMIUM.");
    const browser = await chromium.launch({ executablePath: chromiumPath, args: ["--disable-dev-shm-usage"] });
    stack.defer(() => browser.close());
    return new Stage({ stack: stack.move(), browser, proxy, file, console, server });
  }

  get url(): string {
    return `http://127.0.0.1:${this.proxy.port}`;
  }

  /** Starts another server, which offers no more than jobs. @returns its address */
  async bare(): Promise<string> {
    const { port } = this.#stack.use(await ServerProcess.start(`${this.#file}.bare`, this.#console, "bare"));
    return `http://127.0.0.1:${port}`;
  }

  /** A page that is not logged in. `faults` has what it throws, logs as an error, and what its policy forbids. */
  async page(options: BrowserContextOptions = {}): Promise<{ page: Page; faults: string[] }> {
    const context = await this.#browser.newContext(options);
    this.#stack.defer(() => context.close());
    const page = await context.newPage();
    page.setDefaultTimeout(DEADLINE_MS);
    const faults: string[] = [];
    page.on("pageerror", (error) => faults.push(String(error)));
    page.on("dialog", (dialog) => {
      faults.push(`dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on("console", (message) => {
      // That a server is away, or refuses, browsers log by themselves.
      const isRefusal = /^Failed to load resource|^WebSocket connection to/.test(message.text());
      if (message.type() === "error" && !isRefusal) faults.push(message.text());
    });
    return { page, faults };
  }

  /** A page of somebody who is logged in, and live. */
  async enter(
    token: Token,
    where = "",
    options: BrowserContextOptions = {},
  ): Promise<{ page: Page; faults: string[] }> {
    const opened = await this.page(options);
    await opened.page.goto(`${this.url}/console/${where}`);
    await login(opened.page, token);
    await live(opened.page);
    return opened;
  }

  /** A program that is connected as well. */
  async session(token: Token, client = { name: "tests", version: "1" }): Promise<Session> {
    const session = await connect(`ws://127.0.0.1:${this.#server.port}/arcp`, { token, client });
    this.#stack.defer(() => session.close({ timeoutMs: 500 }));
    return session;
  }

  async ask(token: Token, method: string, target: string, body?: unknown): Promise<Record<string, unknown>> {
    const response = await fetch(`http://127.0.0.1:${this.#server.port}/v1${target}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: body === undefined ? null : JSON.stringify(body),
    });
    assert.ok(response.ok, `${method} ${target}: ${response.status} ${await response.clone().text()}`);
    return (await response.json()) as Record<string, unknown>;
  }

  /** Submits over HTTP, so that the job belongs to no page. */
  async submit(token: Token, agent: string, input: unknown, budget?: string): Promise<string> {
    const lease = budget === undefined ? {} : { "cost.budget": [budget] };
    const body = { agent, input, lease_request: { "agent.delegate": ["*"], "tool.call": ["*"], ...lease } };
    return String((await this.ask(token, "POST", "/jobs", body))["job_id"]);
  }

  /** Ends the server as a crash does; nobody answers until it is started again. */
  async crash(): Promise<void> {
    this.proxy.target = 0;
    await this.#server.kill();
    this.proxy.cut();
  }

  /** Ends the login of a page, as a logout elsewhere does: the page is not told. */
  async endLogin(page: Page): Promise<void> {
    const { request } = page.context();
    const { csrf_token: csrfToken } = await (await request.get(`${this.url}/v1/whoami`)).json();
    const ended = await request.post(`${this.url}/v1/logout`, { headers: { "x-csrf-token": csrfToken } });
    assert.equal(ended.status(), 200);
  }

  async restart(): Promise<void> {
    this.#server = this.#stack.use(await ServerProcess.start(this.#file, this.#console));
    this.proxy.target = this.#server.port;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

export async function login(page: Page, token: Token): Promise<void> {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
}

/** Waits until the page's session is connected. */
export const live = (page: Page): Promise<void> => page.locator('.pill[data-state="connected"]').waitFor();

/** Waits until somebody sees that text. */
export const sees = (page: Page, text: string | RegExp): Promise<void> =>
  page.locator("main").getByText(text).filter({ visible: true }).first().waitFor();

/** Says something to the talker, in the room that the page shows. */
export async function says(page: Page, text: string, onBusy = "enqueue"): Promise<void> {
  await page.getByRole("combobox", { name: "Agent" }).selectOption("talker");
  await page.getByRole("combobox", { name: "While it is busy" }).selectOption(onBusy);
  await page.getByLabel("Message").fill(text);
  await page.getByRole("button", { name: "Send" }).click();
}
