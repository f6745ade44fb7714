// A contender: the `http-proxy` package in a Node process of its own, with an agent that keeps its
// connections alive, and nothing else: no logs, no metrics, no identities.
//
// Usage: node node-proxy.ts PORT TARGET-PORT

import { Agent, createServer } from "node:http";
import httpProxy from "http-proxy";

const [port, targetPort] = process.argv.slice(2);
const proxy = httpProxy.createProxyServer({
  target: `http://127.0.0.1:${targetPort}`,
  agent: new Agent({ keepAlive: true, maxSockets: 256, maxFreeSockets: 256 }),
});
proxy.on("error", (_error, _request, response) => {
  // A client that leaves is not worth a line; whoever is still there is told that it failed.
  if ("writeHead" in response && !response.headersSent) response.writeHead(502);
  response.end();
});

const server = createServer((request, response) => proxy.web(request, response));
server.on("upgrade", (request, socket, head) => proxy.ws(request, socket, head));
server.keepAliveTimeout = 120_000;
server.listen(Number(port), "127.0.0.1", 4_096);
