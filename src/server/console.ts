/**
 * The console: the files that its build left in `dist/console`, under `/console/` (SRV-26). They are read once, at
 * the first request, and served from memory by their exact names, so no path leads anywhere else; what has a hash in
 * its name is kept by browsers for good, the rest is asked for again and mostly answered 304. No script runs there
 * but these files' (Content-Security-Policy).
 */
import { createHash } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import type { Site } from "./site.ts";

export const CONSOLE_PATH = "/console";

/** More than the console ever is: a wrong directory is not read into memory. */
const MAX_FILES = 500;
const MAX_BYTES = 32 * 1024 * 1024;

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".map": "application/json",
  ".webmanifest": "application/manifest+json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
  ".txt": "text/plain; charset=utf-8",
};
const COMPRESSED: ReadonlySet<string> = new Set([
  ".html",
  ".js",
  ".css",
  ".json",
  ".map",
  ".svg",
  ".webmanifest",
  ".txt",
]);

/** As Vite names what it builds: `assets/index-B1x_9aZ0.js`. */
const HASHED = /^assets\/.*-[\w-]{8}\.\w+$/;

const HEADERS: Readonly<Record<string, string>> = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

interface File {
  type: string;
  etag: string;
  cacheControl: string;
  content: Buffer;
  gzipped: Buffer | undefined;
}

const NOT_BUILT = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Holdfast</title>
<h1>The console is not built</h1>
<p>This copy of Holdfast has no <code>dist/console</code>. Build it with <code>npm run build</code> in the repository, or
install the published package, which brings it.</p></html>
`;

/** Where the build leaves the console: beside the compiled server, or, for one that runs from its sources, in dist. */
const BUILT = ["../console/", "../../dist/console/"].map((relative) =>
  fileURLToPath(new URL(relative, import.meta.url)),
);

/** @param directory where the console was built @default dist/console */
export function consoleSite(directory?: string): Site {
  let loading: Promise<ReadonlyMap<string, File>> | undefined;
  const files = async () => {
    loading ??= load(directory === undefined ? BUILT : [directory]);
    const loaded = await loading.catch((error: unknown) => {
      loading = undefined;
      throw error;
    });
    // It may be built while we run.
    if (!loaded.has("index.html")) loading = undefined;
    return loaded;
  };
  return {
    covers: (target) => target === CONSOLE_PATH || target.startsWith(`${CONSOLE_PATH}/`),
    async answer(request, response, target) {
      if (request.method !== "GET" && request.method !== "HEAD") {
        plain(request, response, 405, "Only GET and HEAD are possible here.\n", { allow: "GET, HEAD" });
      } else if (target === CONSOLE_PATH) {
        plain(request, response, 308, "", { location: `${CONSOLE_PATH}/` });
      } else {
        respond(request, response, await files(), target.slice(CONSOLE_PATH.length + 1));
      }
    },
  };
}

function respond(
  request: IncomingMessage,
  response: ServerResponse,
  files: ReadonlyMap<string, File>,
  name: string,
): void {
  const index = files.get("index.html");
  if (index === undefined) {
    plain(request, response, 404, NOT_BUILT, { "content-type": TYPES[".html"] ?? "" });
    return;
  }
  // A path of the page's own: its router knows it. What looks like a file and is none is not there.
  const file = files.get(name) ?? (path.posix.extname(name) === "" ? index : undefined);
  if (file === undefined) {
    plain(request, response, 404, "No such file.\n");
    return;
  }
  const zipped = file.gzipped !== undefined && acceptsGzip(request) ? file.gzipped : undefined;
  const etag = zipped === undefined ? `"${file.etag}"` : `"${file.etag}-gzip"`;
  const headers = { ...HEADERS, etag, "cache-control": file.cacheControl, vary: "Accept-Encoding" };
  if (hasAlready(request, file.etag)) {
    response.writeHead(304, headers).end();
    return;
  }
  const content = zipped ?? file.content;
  response.writeHead(200, {
    ...headers,
    "content-type": file.type,
    "content-length": content.length,
    ...(zipped === undefined ? {} : { "content-encoding": "gzip" }),
  });
  response.end(request.method === "HEAD" ? undefined : content);
}

function plain(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  content: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, {
    ...HEADERS,
    "content-type": "text/plain; charset=utf-8",
    "cache-control": "no-store",
    "content-length": Buffer.byteLength(content),
    ...headers,
  });
  response.end(request.method === "HEAD" ? undefined : content);
}

const acceptsGzip = (request: IncomingMessage): boolean =>
  /(^|[,\s])gzip\s*(;\s*q=(?!0(\.0*)?\s*(,|$))|,|$)/i.test(String(request.headers["accept-encoding"] ?? ""));

/** Whether the browser's copy is this one; of either encoding, since both are the same file. */
function hasAlready(request: IncomingMessage, etag: string): boolean {
  const tags = (request.headers["if-none-match"] ?? "").split(",").map((tag) => tag.trim().replace(/^W\//, ""));
  return tags.includes("*") || tags.includes(`"${etag}"`) || tags.includes(`"${etag}-gzip"`);
}

const compress = promisify(gzip);

/** The files of the first of these directories that has an `index.html`, by their paths with slashes. */
async function load(directories: readonly string[]): Promise<ReadonlyMap<string, File>> {
  for (const directory of directories) {
    const isThere = await stat(path.join(directory, "index.html")).catch(() => undefined);
    if (isThere !== undefined) return await readAll(directory);
  }
  return new Map();
}

async function readAll(directory: string): Promise<ReadonlyMap<string, File>> {
  const files = new Map<string, File>();
  let bytes = 0;
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = path.join(entry.parentPath, entry.name);
    const content = await readFile(file);
    bytes += content.length;
    if (files.size >= MAX_FILES || bytes > MAX_BYTES) {
      throw new Error(`${directory} holds more than a console: over ${MAX_FILES} files or ${MAX_BYTES} bytes`);
    }
    const name = path.relative(directory, file).replaceAll(path.sep, "/");
    const extension = path.extname(name);
    files.set(name, {
      type: TYPES[extension] ?? "application/octet-stream",
      etag: createHash("sha256").update(content).digest("base64url").slice(0, 27),
      cacheControl: HASHED.test(name) ? "public, max-age=31536000, immutable" : "no-cache",
      content,
      gzipped: COMPRESSED.has(extension) ? await compress(content) : undefined,
    });
  }
  return files;
}
