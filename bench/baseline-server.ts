/**
 * Baseline B: what a hand-rolled server would do at its best. No validation, no tokens, no deduplication, no
 * stored replies: it builds and stringifies the same envelopes, inserts each event into a SQLite file (WAL,
 * synchronous NORMAL, transactions of up to 256) and writes them corked. A subscriber gets the same strings,
 * a resume reads the rows back. Prints its URL as the first line.
 */
import "./probe.ts";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { DatabaseSync } from "node:sqlite";
import type { Duplex } from "node:stream";
import { ulid } from "ulid";
import { type WebSocket, WebSocketServer } from "ws";
import { sleep, systemClock } from "../src/clock.ts";

const BATCH = 256;
const HIGH_WATER_BYTES = 256 * 1024;

const [, , file] = process.argv;
if (file === undefined) throw new Error("usage: baseline-server.ts FILE");

const db = new DatabaseSync(file);
db.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;");
db.exec("CREATE TABLE events (session TEXT, seq INTEGER, envelope TEXT, PRIMARY KEY (session, seq)) WITHOUT ROWID");
const insert = db.prepare("INSERT INTO events VALUES (?, ?, ?)");
const select = db.prepare("SELECT seq, envelope FROM events WHERE session = ? AND seq > ? ORDER BY seq LIMIT ?");

interface Request {
  id: string;
  type: string;
  trace_id?: string;
  payload: {
    agent: string;
    job_id: string;
    nonce: string;
    input: { n: number; bytes: number; delay_ms?: number };
    resume?: { session_id: string; last_event_seq: number };
  };
}

/** One connection and where its stream stands. */
interface Peer {
  ws: WebSocket;
  socket: Duplex;
  sessionId: string;
  seq: number;
}

interface Stored {
  peer: Peer;
  seq: number;
  frame: string;
}

/** Who gets a job's events. */
const followers = new Map<string, Set<Peer>>();
/** The newest number of each session, for one that comes back. */
const numbers = new Map<string, number>();
let results: Stored[] = [];

const now = (): string => new Date(systemClock.wall()).toISOString();
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const reply = (peer: Peer, fields: object): void =>
  peer.ws.send(JSON.stringify({ arcp: "1.1", id: ulid(), session_id: peer.sessionId, ...fields }));

const server = createServer();
const wss = new WebSocketServer({ server, path: "/arcp", perMessageDeflate: false });
wss.on("connection", (ws, request) => {
  const peer: Peer = { ws, socket: request.socket, sessionId: `sess_${ulid()}`, seq: 0 };
  ws.on("message", (data) => receive(peer, JSON.parse(String(data)) as Request));
  ws.on("close", () => {
    numbers.set(peer.sessionId, peer.seq);
    for (const peers of followers.values()) peers.delete(peer);
  });
});

function receive(peer: Peer, message: Request): void {
  switch (message.type) {
    case "session.hello": {
      const { resume } = message.payload;
      if (resume !== undefined) {
        peer.sessionId = resume.session_id;
        peer.seq = numbers.get(resume.session_id) ?? 0;
      }
      reply(peer, {
        type: "session.welcome",
        payload: {
          runtime: { name: "baseline", version: "0" },
          resume_token: ulid(),
          resume_window_sec: 600,
          capabilities: { encodings: ["json"], features: [], agents: [] },
        },
      });
      if (resume !== undefined) void replay(peer, resume.last_event_seq);
      return;
    }
    case "session.ping":
      reply(peer, { type: "session.pong", payload: { ping_nonce: message.payload.nonce, received_at: now() } });
      return;
    case "job.submit":
      if (message.payload.agent === "echo") echo(peer, message);
      else void burst(peer, message);
      return;
    case "job.subscribe": {
      const { job_id } = message.payload;
      followers.get(job_id)?.add(peer);
      reply(peer, { type: "job.subscribed", job_id, payload: { job_id } });
    }
  }
}

function accept(peer: Peer, request: Request, jobId: string): object {
  const ids = { session_id: peer.sessionId, job_id: jobId, trace_id: request.trace_id };
  reply(peer, { type: "job.accepted", ...ids, payload: { job_id: jobId, agent: request.payload.agent, lease: {} } });
  return ids;
}

function envelope(peer: Peer, ids: object, type: string, payload: object): string {
  peer.seq += 1;
  return JSON.stringify({
    arcp: "1.1",
    id: `${peer.sessionId}.${peer.seq}`,
    type,
    ...ids,
    event_seq: peer.seq,
    payload,
  });
}

/** The answers of one turn of the event loop are inserted together, then sent. */
function echo(peer: Peer, request: Request): void {
  const ids = accept(peer, request, `job_${ulid()}`);
  const frame = envelope(peer, ids, "job.result", { final_status: "success", result: request.payload.input });
  results.push({ peer, seq: peer.seq, frame });
  if (results.length === 1) setImmediate(flushResults);
  else if (results.length === BATCH) flushResults();
}

function flushResults(): void {
  const batch = results;
  results = [];
  if (batch.length === 0) return;
  db.exec("BEGIN");
  for (const { peer, seq, frame } of batch) insert.run(peer.sessionId, seq, frame);
  db.exec("COMMIT");
  const sockets = new Set(batch.map(({ peer }) => peer.socket));
  for (const socket of sockets) socket.cork();
  for (const { peer, frame } of batch) peer.ws.send(frame);
  for (const socket of sockets) socket.uncork();
}

async function burst(peer: Peer, request: Request): Promise<void> {
  const { n, bytes, delay_ms } = request.payload.input;
  const jobId = `job_${ulid()}`;
  const peers = new Set([peer]);
  followers.set(jobId, peers);
  const ids = accept(peer, request, jobId);
  if (delay_ms !== undefined) await sleep(systemClock, delay_ms);
  const message = "x".repeat(bytes);
  for (let at = 0; at <= n; at += BATCH) {
    const first = peer.seq + 1;
    const frames: string[] = [];
    for (let index = at; index < Math.min(at + BATCH, n); index += 1) {
      frames.push(envelope(peer, ids, "job.event", { kind: "log", ts: now(), body: { level: "info", message } }));
    }
    if (at + BATCH > n) frames.push(envelope(peer, ids, "job.result", { final_status: "success", result: { n } }));
    db.exec("BEGIN");
    for (const [index, frame] of frames.entries()) insert.run(peer.sessionId, first + index, frame);
    db.exec("COMMIT");
    for (const follower of peers) write(follower, frames);
    for (const follower of peers) await room(follower);
    await nextTurn();
  }
  followers.delete(jobId);
}

async function replay(peer: Peer, afterSeq: number): Promise<void> {
  let after = afterSeq;
  while (peer.ws.readyState === peer.ws.OPEN) {
    const rows = select.all(peer.sessionId, after, BATCH) as { seq: number; envelope: string }[];
    const last = rows.at(-1);
    if (last === undefined) return;
    write(
      peer,
      rows.map((row) => row.envelope),
    );
    after = last.seq;
    await room(peer);
    await nextTurn();
  }
}

function write({ ws, socket }: Peer, frames: readonly string[]): void {
  socket.cork();
  for (const frame of frames) ws.send(frame);
  socket.uncork();
}

/** Resolves when a peer has read enough, or is gone. */
async function room({ ws, socket }: Peer): Promise<void> {
  while (ws.readyState === ws.OPEN && ws.bufferedAmount > HIGH_WATER_BYTES) {
    await new Promise<void>((resolve) => {
      const done = (): void => {
        socket.off("drain", done).off("close", done);
        resolve();
      };
      socket.on("drain", done).on("close", done);
    });
  }
}

server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => {
  console.log(`ws://127.0.0.1:${(server.address() as AddressInfo).port}/arcp`);
});
process.on("SIGTERM", () => process.exit(0));
