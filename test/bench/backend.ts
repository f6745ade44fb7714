// The server that every contender stands in front of. What is measured (a small JSON, a large file with
// ranges, HLS segments) is answered by one plain nginx from memory and page cache, so that it is cheap,
// steady and the same for all; what a door needs besides (health, identities, sockets) is passed on to
// two small processes that act as two Jellyfins (jellyfin.ts), one behind each of nginx's two ports.

import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { freePort, type Running, start, waitUntil } from "./process.ts";
import { authorization, itemId, moviePath, segmentPath, smallPath } from "./routes.ts";

/** A segment of 6 s at 80 Mbit/s, which is what Jellyfin sends of a video that it does not re-encode. */
export const segmentBytes = 60_000_000;
export const segmentSeconds = 6;

export interface Replica {
  readonly name: "a" | "b";
  /** The nginx in front: every measured path but that of sockets. */
  readonly port: number;
  /** The small Jellyfin itself, where sockets end. */
  readonly controlPort: number;
}

export interface Backend {
  readonly replicas: readonly [Replica, Replica];
  readonly apiKey: string;
  readonly movieBytes: number;
  readonly processes: readonly Running[];
}

/**
 * Writes the files, starts nginx and both Jellyfins, and waits until they answer.
 * @param directory an empty folder of the bench's own
 * @param movieBytes size of the large file
 * @param cpus CPUs to run on, or undefined for any
 */
export async function startBackend(
  directory: string,
  movieBytes: number,
  cpus: string | undefined,
): Promise<Backend> {
  mkdirSync(directory, { recursive: true });
  await writeNoise(join(directory, "movie.mkv"), movieBytes);
  await writeNoise(join(directory, "segment.ts"), segmentBytes);
  const apiKey = randomBytes(16).toString("hex");
  const replicas: [Replica, Replica] = [
    { name: "a", port: await freePort(), controlPort: await freePort() },
    { name: "b", port: await freePort(), controlPort: await freePort() },
  ];
  const processes: Running[] = [];
  for (const replica of replicas) processes.push(startJellyfin(directory, replica, apiKey, cpus));
  const configuration = join(directory, "nginx.conf");
  writeFileSync(configuration, nginxConfiguration(directory, replicas));
  const nginx = start({
    name: "backend nginx",
    command: "nginx",
    args: ["-p", directory, "-c", configuration],
    logFile: join(directory, "nginx.log"),
    cpus,
  });
  processes.push(nginx);
  for (const { port } of replicas) {
    await waitUntil(nginx, "healthy", 10_000, async () => {
      const response = await fetch(`http://127.0.0.1:${port}/health`);
      return (await response.text()) === "Healthy";
    });
  }
  await expectMeasuredPaths(replicas[0], movieBytes);
  return { replicas, apiKey, movieBytes, processes };
}

function startJellyfin(
  directory: string,
  replica: Replica,
  apiKey: string,
  cpus: string | undefined,
): Running {
  const options = { replica: replica.name, port: replica.controlPort, apiKey };
  return start({
    name: `backend jellyfin ${replica.name}`,
    command: process.execPath,
    args: [join(import.meta.dirname, "jellyfin.ts"), JSON.stringify(options)],
    logFile: join(directory, `jellyfin-${replica.name}.log`),
    cpus,
  });
}

/** Not zeros, which memory and caches may treat better than they treat a film. */
async function writeNoise(path: string, bytes: number): Promise<void> {
  const block = randomBytes(4 << 20);
  const file = await open(path, "w");
  try {
    for (let written = 0; written < bytes; written += block.length) {
      await file.write(block, 0, Math.min(block.length, bytes - written));
    }
  } finally {
    await file.close();
  }
}

function nginxConfiguration(directory: string, replicas: readonly Replica[]): string {
  const user = process.getuid?.() === 0 ? "user root;" : "";
  const maps = replicas.map(
    ({ name }) => `
  map $http_authorization $own_${name} { default 0; "~*Token=.?${name}[0-9a-f]{31}" 1; }`,
  );
  const servers = replicas.map(
    ({ name, port, controlPort }) => `
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location /Items/ {
      default_type "application/json; charset=utf-8";
      if ($own_${name} = 0) { return 401; }
      add_header X-Bench-Replica ${name};
      return 200 '${smallBody()}';
    }
    location ~ ^/Videos/[^/]+/stream { default_type video/x-matroska; alias ${directory}/movie.mkv; }
    location ~ ^/Videos/[^/]+/hls1/main/ { default_type video/mp2t; alias ${directory}/segment.ts; }
    location / {
      proxy_pass http://127.0.0.1:${controlPort};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 1h;
    }
  }`,
  );
  return `daemon off;
${user}
worker_processes 1;
pid ${directory}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 16000;
events { worker_connections 8000; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  etag off;
  max_ranges 1;
  open_file_cache max=16;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  map $http_upgrade $connection_upgrade { default upgrade; "" close; }${maps.join("")}${servers.join("")}
}
`;
}

/** About 1 KB: what a client asks for when it opens a film's page is of this kind. */
function smallBody(): string {
  return JSON.stringify({
    Name: "A film of the bench",
    Id: itemId,
    Etag: "9f0c2f0a53d4e1b7",
    Path: "/media/films/A film of the bench (2026)/A film of the bench.mkv",
    Overview: "Nobody knew how long it would go on. ".repeat(19).trim(),
    Container: "mkv",
    RunTimeTicks: 72_000_000_000,
    ProductionYear: 2026,
    UserData: { PlaybackPositionTicks: 0, PlayCount: 0, IsFavorite: false, Played: false },
    Type: "Movie",
    MediaType: "Video",
  });
}

/** A bench that measures error pages measures nothing: the measured paths are tried before it begins. */
async function expectMeasuredPaths(replica: Replica, movieBytes: number): Promise<void> {
  const origin = `http://127.0.0.1:${replica.port}`;
  const own = `${replica.name}${"0".repeat(31)}`;
  const statusOf = async (path: string, method: string, token: string) => {
    const headers = { authorization: authorization("check", token) };
    const response = await fetch(origin + path, { method, headers });
    await response.arrayBuffer();
    return { status: response.status, length: Number(response.headers.get("content-length")) };
  };
  const small = await statusOf(smallPath, "GET", own);
  const foreign = await statusOf(smallPath, "GET", `f${own.slice(1)}`);
  const movie = await statusOf(moviePath(own), "HEAD", own);
  const segment = await statusOf(segmentPath(0, 0, own), "HEAD", own);
  if (small.status !== 200 || foreign.status !== 401 || movie.length !== movieBytes) {
    throw new Error(
      `the backend is not as it should be: ${JSON.stringify({ small, foreign, movie })}`,
    );
  }
  if (segment.length !== segmentBytes) throw new Error("the backend's segment has another length");
}

/** Logs in on one replica, past every contender, and answers the token that only that replica knows. */
export async function logIn(port: number, deviceId: string): Promise<string> {
  const response = await fetch(`http://127.0.0.1:${port}/Users/AuthenticateByName`, {
    method: "POST",
    headers: { authorization: authorization(deviceId), "content-type": "application/json" },
    body: JSON.stringify({ Username: "bench", Pw: "bench" }),
  });
  if (!response.ok) throw new Error(`login on port ${port} was answered ${response.status}`);
  const result: unknown = await response.json();
  if (typeof result === "object" && result !== null && "AccessToken" in result) {
    return String(result.AccessToken);
  }
  throw new Error(`login on port ${port} was answered without a token`);
}
