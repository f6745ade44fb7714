// Discovery: clients in the local network shout «Who is JellyfinServer?» at UDP port 7359 and remember the
// address in the answer. The door answers with its own, so that no client ever learns a replica's (the
// servers' own discovery is to be off). Format: Emby.Server.Implementations/Udp and AutoDiscoveryHost.

import { createSocket } from "node:dgram";
import { CannotStart, type Service } from "../core/service/lifecycle.ts";
import type { Log } from "../core/service/log.ts";

const question = "who is jellyfinserver?";
const questionLimitBytes = 256;

export interface DiscoveryOptions {
  readonly host: string;
  readonly port: number;
  /** What the cluster is, once a replica has said so; undefined: nobody answers yet, so neither do we. */
  readonly server: () => Promise<{ readonly id: string; readonly name: string } | undefined>;
  readonly publicUrl: string;
  readonly log: Log;
}

export function createDiscovery(options: DiscoveryOptions): Service & { port(): number } {
  const socket = createSocket({ type: "udp4", reuseAddr: true });
  return {
    name: "discovery",
    port: () => socket.address().port,
    start: () =>
      new Promise((resolve, reject) => {
        socket.once("error", (error: NodeJS.ErrnoException) => {
          const place = `${options.host || "*"}:${options.port}`;
          reject(
            new CannotStart(
              `--discovery cannot listen on UDP ${place} (${error.code ?? error.message}); is a Jellyfin` +
                " on this machine answering discovery itself? Switch that off there.",
            ),
          );
        });
        socket.on("message", (message, sender) => {
          if (message.length > questionLimitBytes) return;
          if (!message.toString("utf8").trim().toLowerCase().includes(question)) return;
          void options.server().then((server) => {
            if (server === undefined) return;
            const answer = JSON.stringify({
              Address: options.publicUrl,
              Id: server.id,
              Name: server.name,
              EndpointAddress: null,
            });
            socket.send(answer, sender.port, sender.address);
          });
        });
        socket.bind(
          { port: options.port, ...(options.host !== "" && { address: options.host }) },
          () => {
            socket.on("error", (error) =>
              options.log.warn({ err: error }, "discovery had an error"),
            );
            resolve();
          },
        );
      }),
    stop: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}
