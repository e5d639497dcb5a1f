/** A client of one line out and one line in, each over a connection of its own: for the service and the echo alike. */
import { connect } from "node:net";

export class LineClient {
  readonly #port: number;
  readonly #token: string;

  constructor(port: number, token: string) {
    this.#port = port;
    this.#token = token;
  }

  line(command: string, payload?: object): string {
    return `${JSON.stringify({ command, auth: this.#token, payload })}\n`;
  }

  /** Resolves with the answer when the server has closed. */
  send(line: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: "127.0.0.1", port: this.#port, noDelay: true });
      const chunks: Buffer[] = [];
      socket.on("data", (chunk: Buffer) => chunks.push(chunk));
      socket.once("error", reject);
      socket.once("close", () => resolve(Buffer.concat(chunks).toString()));
      socket.write(line);
    });
  }
}
