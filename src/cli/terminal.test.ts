import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { eventLine } from "./event-line.ts";
import { clean, shortened, terminalOn } from "./terminal.ts";

function captured() {
  const out = new PassThrough();
  const err = new PassThrough();
  const read = (stream: PassThrough) => String(stream.read() ?? "");
  return { terminal: terminalOn(out, err), out: () => read(out), err: () => read(err) };
}

/** Moves the cursor, sets the title, starts a C1 sequence, turns the writing direction, hides a tag. */
const HOSTILE = "a\u001b[2Jb\u001b]0;title\u0007c\u009b31md\u202egnp.exe\u2066e\u200bf\u007fg\u{e0041}h";

test("[CLI-4] escape sequences, C1 controls, direction overrides and invisible characters are stripped", () => {
  assert.equal(clean(HOSTILE), "a[2Jb]0;titlec31mdgnp.exeefgh");
  assert.equal(clean("one\r\ntwo\tthree"), "one two three");
  assert.equal(clean("żółć 日本 👩‍💻"), "żółć 日本 👩‍💻");
});

test("[CLI-4] whichever way text is written, it is stripped", () => {
  const { terminal, out, err } = captured();
  terminal.line(HOSTILE);
  terminal.block(`${HOSTILE}\n${HOSTILE}`);
  terminal.remark(HOSTILE);
  terminal.json({ [HOSTILE]: HOSTILE });
  for (const written of [out(), err()]) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none of them may be there
    assert.doesNotMatch(written, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b\u202e\u2066]|\u{e0041}/u);
  }
});

test("[CLI-2] a JSON line is one line, and means what it was made of", () => {
  const { terminal, out } = captured();
  terminal.json({ message: `${HOSTILE}\n` });
  const lines = out().split("\n");
  assert.equal(lines.length, 2);
  assert.deepEqual(JSON.parse(lines[0] ?? ""), { message: `${HOSTILE}\n` });
});

test("[CLI-10] JSON text keeps its lines, means what it meant, and holds nothing unprintable", () => {
  const { terminal, out } = captured();
  const value = { [HOSTILE]: [HOSTILE, "\n\t"] };
  terminal.jsonText(JSON.stringify(value, null, "\t").replaceAll("\n", "\r\n"));
  const text = out();
  assert.deepEqual(JSON.parse(text), value);
  assert.equal(text.split("\n").length, JSON.stringify(value, null, "\t").split("\n").length + 1);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: none of them may be there
  assert.doesNotMatch(text, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b\u202e\u2066]|\u{e0041}/u);
});

test("[CLI-3] each kind of event is one readable line", () => {
  const line = (kind: string, body: unknown) => eventLine({ seq: 1, kind, body, ts: "2026-01-02T03:04:05.678Z" });
  assert.equal(line("log", { level: "info", message: "hello" }), "03:04:05  log          hello");
  assert.equal(line("log", { level: "warn", message: "oh" }), "03:04:05  log          [warn] oh");
  assert.equal(
    line("progress", { current: 3, total: 12, units: "files", message: "reading" }),
    "03:04:05  progress     3 of 12 files, 25 %: reading",
  );
  assert.equal(line("metric", { name: "lines", value: 3, unit: "lines" }), "03:04:05  metric       lines = 3 lines");
  assert.equal(
    line("tool_result", { call_id: "1", error: { code: "X" } }),
    '03:04:05  tool_result  -> failed: {"code":"X"}',
  );
  assert.equal(line("x-vendor.a.b", [1]), "03:04:05  x-vendor.a.b  [1]");
  assert.equal(line("log", null), "03:04:05  log          []");
});

test("[CLI-4] long text is cut to what fits", () => {
  assert.equal(shortened("abcdef", 4), "abc…");
  assert.equal(shortened("\u001babcd", 4), "abcd");
  assert.equal(shortened("x".repeat(1_000_000), 10).length, 10);
});

test("[CLI-14] a piece goes to a program as it is, to a person without control characters, and bytes not at all", async () => {
  const program = captured();
  for (const piece of [HOSTILE, Uint8Array.of(0x1b, 0xff)]) await program.terminal.raw(piece);
  program.terminal.endRaw();
  assert.equal(program.out(), Buffer.concat([Buffer.from(HOSTILE), Buffer.of(0x1b, 0xff)]).toString());

  const out = Object.assign(new PassThrough(), { isTTY: true });
  const person = terminalOn(out, new PassThrough());
  await person.raw(`${HOSTILE}\n`);
  await person.raw("");
  await person.raw("end");
  person.endRaw();
  assert.equal(String(out.read()), `${clean(HOSTILE)}\nend\n`);
  await assert.rejects(person.raw(Uint8Array.of(1)), /> FILE/);
});

test("[CLI-14] a reader that is slow is waited for", async () => {
  const out = new PassThrough({ highWaterMark: 4 });
  const { raw } = terminalOn(out, new PassThrough());
  let room = false;
  const written = raw("more than four").then(() => {
    room = true;
  });
  await new Promise(setImmediate);
  assert.equal(room, false);
  out.resume();
  await written;
});
