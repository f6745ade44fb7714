// A television tuner on the network: an M3U list of two channels, each an endless MPEG-TS stream made from the test
// film at the speed of life. It counts how many streams it was asked for at one time, which no server can hide.

import { type ChildProcess, spawn } from "node:child_process";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export class Tuner {
  /** Streams open now, and the most that ever were. */
  open = 0;
  most = 0;
  readonly url: string;
  readonly #server: Server;
  readonly #senders: Set<ChildProcess>;

  private constructor(server: Server, url: string, senders: Set<ChildProcess>) {
    this.#server = server;
    this.url = url;
    this.#senders = senders;
  }

  static async start(film: string): Promise<Tuner> {
    const senders = new Set<ChildProcess>();
    const server = createServer((request, response) => {
      if (request.url === "/tuner.m3u") {
        response.end("#EXTM3U\n#EXTINF:-1,One\nchannel/1.ts\n#EXTINF:-1,Two\nchannel/2.ts\n");
      } else tuner.#send(film, response);
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const { port } = server.address() as AddressInfo;
    const tuner = new Tuner(server, `http://127.0.0.1:${port}/tuner.m3u`, senders);
    return tuner;
  }

  #send(film: string, response: ServerResponse): void {
    this.open += 1;
    this.most = Math.max(this.most, this.open);
    response.writeHead(200, { "content-type": "video/mp2t" });
    const sender = spawn(
      "ffmpeg",
      [
        ...["-nostdin", "-v", "error", "-re", "-stream_loop", "-1", "-i", film],
        ...["-c", "copy", "-f", "mpegts", "pipe:1"],
      ],
      { stdio: ["ignore", "pipe", "ignore"] },
    );
    this.#senders.add(sender);
    sender.stdout.pipe(response);
    response.once("close", () => {
      this.open -= 1;
      this.#senders.delete(sender);
      sender.kill("SIGKILL");
    });
  }

  stop(): void {
    for (const sender of this.#senders) sender.kill("SIGKILL");
    this.#server.close();
    this.#server.closeAllConnections();
  }
}
