// A refresh of an item asked of the cluster is a refresh on every server, as the one who asked, once each; on one
// that is away, when it is back.

import { beforeAll, expect, test } from "vitest";
import { pairBehindDoor } from "../support/front.ts";
import { doorSees } from "../support/household.ts";
import type { StandIn } from "../support/jellyfin/start.ts";
import { until, Viewer } from "../support/viewer.ts";

const { pair, door } = await pairBehindDoor();

beforeAll(async () => {
  await doorSees(door, 2);
});

const refreshes = async (server: StandIn, item: string) =>
  await server.requests({ method: "POST", path: `/Items/${item}/Refresh` });

test("a refresh is done once on every server with the caller's own token there, and a refused one nowhere else", async () => {
  const root = await Viewer.enter(door.url, { name: "root" });
  const kid = await Viewer.enter(door.url, { name: "kid" });
  await root.knownAt([pair.a, pair.b]);
  await kid.knownAt([pair.a, pair.b]);
  const item = await root.item();

  const path = `/Items/${item}/Refresh?metadataRefreshMode=FullRefresh&api_key=${root.token}`;
  expect((await root.call("POST", path)).status).toBe(204);
  for (const server of [pair.a, pair.b]) {
    await until(5000, `the refresh at ${server.name}`, async () =>
      (await refreshes(server, item)).some(({ status }) => status === 204),
    );
  }
  expect((await kid.call("POST", `/Items/${item}/Refresh`)).status).toBe(403);
  await new Promise((resolve) => setTimeout(resolve, 500));

  for (const server of [pair.a, pair.b]) {
    const done = (await refreshes(server, item)).filter(({ status }) => status === 204);
    expect(done).toHaveLength(1);
    expect(done[0]?.search).toContain("metadataRefreshMode=FullRefresh");
  }
  // Each server has seen a token of its own: what one of them gave is never shown to another.
  const [atA] = await refreshes(pair.a, item);
  const [atB] = await refreshes(pair.b, item);
  expect(atA?.token).not.toBe(atB?.token);
  const elsewhere = (await root.home()) === "a" ? atB : atA;
  expect(elsewhere?.search).not.toContain(root.token);
});

test("a server that is away when a refresh is asked for does it once when it is back", async () => {
  const root = await Viewer.enter(door.url, { name: "root" });
  await root.knownAt([pair.a, pair.b]);
  const item = await root.item();
  const [home, other] = await root.homeAmong(pair);
  await other.kill9();
  await doorSees(door, 1);
  const path = `/Items/${item}/Refresh?metadataRefreshMode=FullRefresh`;
  // Asked twice, it is still one refresh.
  for (let times = 0; times < 2; times++) expect((await root.call("POST", path)).status).toBe(204);
  expect((await refreshes(home, item)).length).toBeGreaterThan(0);
  await other.launch();
  await until(10_000, "the refresh where it was away", async () =>
    (await refreshes(other, item)).some(({ status }) => status === 204),
  );
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(await refreshes(other, item)).toHaveLength(1);
});
