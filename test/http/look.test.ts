// What parts of a cluster that run as processes of their own refuse when they start: a door whose servers know no
// proxy, a sidecar whose server is another household's; and the examination that they make when they are asked.

import { afterAll, beforeAll, expect, test } from "vitest";
import { runCli } from "../support/cli.ts";
import { runCommand } from "../support/command.ts";
import { CLUSTER_KEY, type Part, startSidecar } from "../support/door.ts";
import { freePort, type StandIn, startPair, startStandIn } from "../support/jellyfin/start.ts";
import { type RedisServer, startRedis } from "../support/redis.ts";
import { emptyFolder, eventually } from "./sidecar-cluster.ts";

const media = emptyFolder();
let a: StandIn;
let b: StandIn;
let stopPair: () => Promise<void>;
let redis: RedisServer;
const sidecars: Part[] = [];

beforeAll(async () => {
  ({ a, b, stop: stopPair } = await startPair({ mediaDir: media.path }));
  redis = await startRedis();
  for (const replica of [a, b]) sidecars.push(await startSidecar({ replica, redis: redis.url }));
});

afterAll(async () => {
  for (const sidecar of sidecars) await sidecar.stop();
  await redis.stop();
  await stopPair();
  media.remove();
});

async function proxy(host: string) {
  return await runCommand(
    [
      ...["proxy", "--listen", `${host}:${await freePort()}`, "--admin", "127.0.0.1:0"],
      ...["--redis", redis.url, "--cluster-key", CLUSTER_KEY, "--log-format", "json"],
    ],
    4000,
  );
}

test("a door that others can reach does not open before servers that know no proxy, and says what to set", async () => {
  await eventually(async () => (await proxy("0.0.0.0")).exitCode === 2, 15_000);
  const { said } = await proxy("0.0.0.0");
  expect(said).toMatch(/The known proxies of server [ab] lack the door \(they are empty\)/);
  expect(said).not.toContain(a.apiKey);
}, 30_000);

test("the same door on loopback is told so and opens", async () => {
  const { exitCode, said } = await proxy("127.0.0.1");
  expect(exitCode).toBeNull();
  expect(said).toMatch(/The known proxies of server a lack the door/);
  expect(said).toContain("the door is open");
});

test("a sidecar whose server is not a copy of the others' does not start", async () => {
  const stranger = await startStandIn({ name: "c", mediaDir: media.path, apiKey: a.apiKey });
  try {
    const { exitCode, said } = await runCommand([
      ...["sidecar", "--name", "c", "--jellyfin", stranger.url, "--api-key", a.apiKey],
      ...["--listen", "127.0.0.1:0", "--redis", redis.url, "--cluster-key", CLUSTER_KEY],
    ]);
    expect(exitCode).toBe(2);
    expect(said).toMatch(/The servers have different ids/);
    expect(said).toMatch(/seed c from a/);
  } finally {
    await stranger.stop();
  }
}, 30_000);

test("any sidecar examines all servers when it is asked with the cluster key", async () => {
  const admin = sidecars[1]?.admin ?? "";
  const asked = await runCli(["doctor", "--admin", admin, "--cluster-key", CLUSTER_KEY, "--json"]);
  const told = JSON.parse(asked.out) as { asked: { name: string }[] };
  expect(told.asked.map(({ name }) => name).sort()).toEqual(["a", "b"]);
  expect(asked.code).toBe(1);
  const wrong = await runCli(["doctor", "--admin", admin, "--cluster-key", "x".repeat(32)]);
  expect(wrong).toMatchObject({ code: 2, out: "" });
});
