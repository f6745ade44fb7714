// A contender that proxies nothing: Node's own HTTP server answering the small request from memory. It
// shows how much of a Node proxy's cost is Node.
//
// Usage: node node-server.ts PORT

import { createServer } from "node:http";

const body = JSON.stringify({ Overview: "x".repeat(1_000) });
const length = Buffer.byteLength(body);

const server = createServer((_request, response) => {
  response.writeHead(200, { "content-type": "application/json", "content-length": length });
  response.end(body);
});
server.keepAliveTimeout = 120_000;
server.listen(Number(process.argv[2]), "127.0.0.1", 4_096);
