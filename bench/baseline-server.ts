/**
 * Baseline B: what a hand-rolled server would do at its best. No validation, no sessions, no resume: it
 * builds and stringifies the same envelopes, inserts each into a SQLite file (WAL, synchronous NORMAL,
 * transactions of up to 256) and writes them corked. Prints its URL as the first line.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { DatabaseSync } from "node:sqlite";
import type { Duplex } from "node:stream";
import { ulid } from "ulid";
import { type WebSocket, WebSocketServer } from "ws";
import { systemClock } from "../src/clock.ts";

const BATCH = 256;
const HIGH_WATER_BYTES = 256 * 1024;

const [, , file] = process.argv;
if (file === undefined) throw new Error("usage: baseline-server.ts FILE");

const db = new DatabaseSync(file);
db.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;");
db.exec("CREATE TABLE events (session TEXT, seq INTEGER, envelope TEXT, PRIMARY KEY (session, seq)) WITHOUT ROWID");
const insert = db.prepare("INSERT INTO events VALUES (?, ?, ?)");

interface Request {
  id: string;
  type: string;
  trace_id?: string;
  payload: { agent: string; input: { n: number; bytes: number } };
}

const server = createServer();
const wss = new WebSocketServer({ server, path: "/arcp", perMessageDeflate: false });
wss.on("connection", (ws, request) => {
  const sessionId = `sess_${ulid()}`;
  const state = { seq: 0 };
  const send = (fields: object) =>
    ws.send(JSON.stringify({ arcp: "1.1", id: ulid(), session_id: sessionId, ...fields }));
  ws.on("message", (data) => {
    const message = JSON.parse(String(data)) as Request;
    switch (message.type) {
      case "session.hello":
        send({
          type: "session.welcome",
          payload: {
            runtime: { name: "baseline", version: "0" },
            resume_token: ulid(),
            resume_window_sec: 600,
            capabilities: { encodings: ["json"], features: [], agents: [] },
          },
        });
        break;
      case "job.submit":
        void run(ws, request.socket, sessionId, state, message, send);
        break;
    }
  });
});

async function run(
  ws: WebSocket,
  socket: Duplex,
  sessionId: string,
  state: { seq: number },
  request: Request,
  send: (fields: object) => void,
): Promise<void> {
  const { n, bytes } = request.payload.input;
  const jobId = `job_${ulid()}`;
  const ids = { session_id: sessionId, job_id: jobId, trace_id: request.trace_id };
  send({ type: "job.accepted", ...ids, payload: { job_id: jobId, agent: request.payload.agent, lease: {} } });
  const message = "x".repeat(bytes);
  const envelope = (type: string, payload: object): string => {
    state.seq += 1;
    return JSON.stringify({
      arcp: "1.1",
      id: `${sessionId}.${state.seq}`,
      type,
      ...ids,
      event_seq: state.seq,
      payload,
    });
  };
  for (let at = 0; at <= n; at += BATCH) {
    const frames: string[] = [];
    for (let index = at; index < Math.min(at + BATCH, n); index += 1) {
      frames.push(
        envelope("job.event", {
          kind: "log",
          ts: new Date(systemClock.wall()).toISOString(),
          body: { level: "info", message },
        }),
      );
    }
    if (at + BATCH > n) frames.push(envelope("job.result", { final_status: "success", result: { n } }));
    db.exec("BEGIN");
    const first = state.seq - frames.length + 1;
    for (const [index, frame] of frames.entries()) insert.run(sessionId, first + index, frame);
    db.exec("COMMIT");
    socket.cork();
    for (const frame of frames) ws.send(frame);
    socket.uncork();
    while (ws.bufferedAmount > HIGH_WATER_BYTES) await new Promise((resolve) => socket.once("drain", resolve));
    await new Promise((resolve) => setImmediate(resolve));
  }
}

server.listen(0, "127.0.0.1", () => {
  console.log(`ws://127.0.0.1:${(server.address() as AddressInfo).port}/arcp`);
});
process.on("SIGTERM", () => process.exit(0));
