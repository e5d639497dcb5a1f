/**
 * Started by stdio.test.ts: a child that is nothing but a wire. What comes on its standard input goes out
 * on a TCP connection and the other way round, so that a test holds both ends of a connection that really
 * goes through a process.
 */
import { connect } from "node:net";

const port = Number(process.argv[2]);
const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
socket.on("error", () => process.exit(1));
process.stdin.pipe(socket);
socket.pipe(process.stdout);
socket.on("close", () => process.exit(0));
