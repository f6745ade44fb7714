// The proxies that are compared, and how each is set up. One worker or one thread each, on one CPU; all
// in front of the same backend. The others write no access log unless `accessLogs` asks for it, which
// is the harder comparison: this proxy always writes its log, keeps its metrics and swaps tokens.

import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "./backend.ts";
import { descriptorLimit, freePort, type Running, start, waitUntil } from "./process.ts";
import { authorization } from "./routes.ts";

export const contenderNames = [
  "nginx",
  "nginx-tuned",
  "haproxy",
  "caddy",
  "http-proxy",
  "node-server",
  "jellybloom",
] as const;
export type ContenderName = (typeof contenderNames)[number];

/** How a contender is called in tables. */
export const titles: Readonly<Record<ContenderName, string>> = {
  nginx: "nginx, default",
  "nginx-tuned": "nginx, tuned",
  haproxy: "HAProxy",
  caddy: "Caddy",
  "http-proxy": "http-proxy",
  "node-server": "Node, no proxy",
  jellybloom: "Jellybloom",
};

export interface Contender {
  readonly contender: ContenderName;
  readonly port: number;
  readonly running: Running;
}

export interface Setup {
  /** The `jellybloom.mjs` under test. */
  readonly entry: string;
  readonly directory: string;
  readonly backend: Backend;
  readonly cpus: string | undefined;
  readonly accessLogs: boolean;
  /** Folder for a CPU profile of this proxy, or undefined for none. */
  readonly profileDirectory: string | undefined;
  /** Sockets end at the small Jellyfins themselves, so that no nginx runs out of descriptors. */
  readonly straight: boolean;
  /** Redis for this proxy, or undefined for the embedded store. */
  readonly redisUrl: string | undefined;
}

/** The program of this working copy. */
export const ownEntry = join(import.meta.dirname, "../../cli/jellybloom.mjs");

/** Starts one contender and waits until it answers. The caller ends it. */
export async function startContender(name: ContenderName, setup: Setup): Promise<Contender> {
  const port = await freePort();
  const directory = join(setup.directory, `${name}-${port}`);
  mkdirSync(directory, { recursive: true });
  const command = await commandOf(name, port, directory, setup);
  const running = start({
    name: titles[name],
    logFile: join(directory, "output.log"),
    cpus: setup.cpus,
    ...command,
  });
  const path = name === "node-server" ? "/" : "/health";
  await waitUntil(running, "answering", 20_000, async () => {
    const response = await fetch(
      `http://127.0.0.1:${command.readyPort ?? port}${command.readyPath ?? path}`,
    );
    await response.arrayBuffer();
    return response.ok;
  });
  return { contender: name, port, running };
}

interface Command {
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Where to ask whether it is ready, when that is not the address under test. */
  readonly readyPort?: number;
  readonly readyPath?: string;
}

async function commandOf(
  name: ContenderName,
  port: number,
  directory: string,
  setup: Setup,
): Promise<Command> {
  const [first, second] = setup.backend.replicas.map((replica) =>
    setup.straight ? replica.controlPort : replica.port,
  );
  const upstreamPort = Number(first);
  const script = (file: string) => join(import.meta.dirname, file);
  const write = (file: string, text: string) => {
    const path = join(directory, file);
    writeFileSync(path, text);
    return path;
  };
  switch (name) {
    case "nginx":
    case "nginx-tuned": {
      const tuned = name === "nginx-tuned";
      const text = nginxConfiguration(directory, port, upstreamPort, tuned, setup.accessLogs);
      return { command: "nginx", args: ["-p", directory, "-c", write("nginx.conf", text)] };
    }
    case "haproxy": {
      const text = haproxyConfiguration(port, upstreamPort, setup.accessLogs);
      return { command: "haproxy", args: ["-db", "-f", write("haproxy.cfg", text)] };
    }
    case "caddy":
      return {
        command: "caddy",
        args: [
          "run",
          "--adapter",
          "caddyfile",
          "--config",
          write("Caddyfile", caddyConfiguration(directory, port, upstreamPort, setup.accessLogs)),
        ],
        // Caddy keeps its files under the home folder, and uses every core unless told otherwise.
        env: {
          GOMAXPROCS: "1",
          HOME: directory,
          XDG_DATA_HOME: directory,
          XDG_CONFIG_HOME: directory,
        },
      };
    case "http-proxy":
      return {
        command: process.execPath,
        args: [script("node-proxy.ts"), String(port), String(upstreamPort)],
      };
    case "node-server":
      return { command: process.execPath, args: [script("node-server.ts"), String(port)] };
    case "jellybloom":
      return jellybloomCommand(port, upstreamPort, Number(second), setup);
  }
}

async function jellybloomCommand(
  port: number,
  portA: number,
  portB: number,
  setup: Setup,
): Promise<Command> {
  const adminPort = await freePort();
  const args = [
    setup.entry,
    "up",
    ...["--listen", `127.0.0.1:${port}`],
    ...["--admin", `127.0.0.1:${adminPort}`],
    ...["--replica", `a=http://127.0.0.1:${portA}`],
    ...["--replica", `b=http://127.0.0.1:${portB}`],
    ...["--api-key", setup.backend.apiKey],
    // The bench logs in on b and is served by a, so that every request needs its token swapped.
    ...["--prefer", "a"],
    ...["--cluster-key", randomBytes(32).toString("hex")],
    ...(setup.redisUrl === undefined ? [] : ["--redis", setup.redisUrl]),
  ];
  const profile =
    setup.profileDirectory === undefined
      ? {}
      : { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${setup.profileDirectory}` };
  return {
    command: process.execPath,
    args,
    env: profile,
    readyPort: adminPort,
    readyPath: "/jellybloom/ready",
  };
}

function nginxConfiguration(
  directory: string,
  port: number,
  upstreamPort: number,
  tuned: boolean,
  accessLogs: boolean,
): string {
  const user = process.getuid?.() === 0 ? "user root;" : "";
  // nginx resets waiting connections when less than a sixteenth of these is free.
  const sockets = Math.floor(descriptorLimit() * 1.2);
  const upstream = tuned
    ? `
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_buffers 8 256k;
      proxy_busy_buffers_size 512k;
      proxy_max_temp_file_size 0;
      proxy_set_header Connection "";`
    : `
      proxy_pass http://127.0.0.1:${upstreamPort};`;
  return `daemon off;
${user}
worker_processes 1;
pid ${directory}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile ${descriptorLimit()};
events { worker_connections ${sockets}; }
http {
  access_log ${accessLogs ? `${directory}/access.log` : "off"};
  keepalive_requests 1000000000;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  upstream backend { server 127.0.0.1:${upstreamPort}; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / {${upstream}
    }
    location /socket {
      proxy_pass http://127.0.0.1:${upstreamPort};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_read_timeout 1h;
    }
  }
}
`;
}

function haproxyConfiguration(port: number, upstreamPort: number, accessLogs: boolean): string {
  const connections = Math.floor((descriptorLimit() - 200) / 2);
  return `global
  nbthread 1
  maxconn ${connections}
  ${accessLogs ? "log stdout format raw local0" : ""}
defaults
  mode http
  ${accessLogs ? "log global\n  option httplog" : ""}
  http-reuse always
  timeout connect 5s
  timeout client 5m
  timeout server 5m
  timeout tunnel 1h
frontend door
  bind 127.0.0.1:${port} backlog 4096
  default_backend servers
backend servers
  server a 127.0.0.1:${upstreamPort}
`;
}

function caddyConfiguration(
  directory: string,
  port: number,
  upstreamPort: number,
  accessLogs: boolean,
): string {
  const log = accessLogs ? `log {\n    output file ${directory}/access.log\n  }` : "";
  return `{
  admin off
  auto_https off
}
:${port} {
  bind 127.0.0.1
  ${log}
  reverse_proxy 127.0.0.1:${upstreamPort}
}
`;
}

/** One GET through a contender, so that a measurement begins only when what it measures is a success. */
export async function tryGet(
  port: number,
  path: string,
  deviceId: string,
  token: string,
): Promise<{ readonly status: number; readonly replica: string }> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    headers: { authorization: authorization(deviceId, token) },
    signal: AbortSignal.timeout(5_000),
  });
  await response.arrayBuffer();
  return { status: response.status, replica: response.headers.get("x-bench-replica") ?? "" };
}
