/** A way to a server that a test can cut: connections that are there break, new ones are refused, until it is mended. */
import { connect, createServer, type Server, type Socket } from "node:net";
import { freePort, type StandIn } from "./jellyfin/start.ts";

export class Way {
  readonly url: string;
  readonly #port: number;
  readonly #to: StandIn;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  private constructor(port: number, to: StandIn) {
    this.#port = port;
    this.#to = to;
    this.url = `http://127.0.0.1:${port}`;
  }

  static async open(to: StandIn): Promise<Way> {
    const way = new Way(await freePort(), to);
    await way.mend();
    return way;
  }

  mend(): Promise<void> {
    const server = createServer((from) => {
      const onward = connect(this.#to.port, "127.0.0.1");
      for (const [socket, other] of [
        [from, onward],
        [onward, from],
      ] as const) {
        this.#sockets.add(socket);
        socket.on("error", () => other.destroy());
        socket.on("close", () => {
          this.#sockets.delete(socket);
          other.destroy();
        });
        socket.pipe(other);
      }
    });
    this.#server = server;
    return new Promise((resolve) => {
      server.listen(this.#port, "127.0.0.1", resolve);
    });
  }

  cut(): void {
    this.#server?.close();
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }
}
