// Libraries that have drifted apart are seen, said and put right: a server that lacks films is scanned, but never while
// its media are not whole.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runCommand } from "../support/command.ts";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "../support/door.ts";
import { type StandIn, startPair } from "../support/jellyfin/start.ts";
import { asAdmin, startsOf } from "../support/task-household.ts";
import { until, Viewer } from "../support/viewer.ts";

const root = mkdtempSync(join(tmpdir(), "jellybloom-drift-"));
const films = ["One", "Two", "Three", "Four", "Five", "Six"];
const scan = "RefreshLibrary";
let pair: { a: StandIn; b: StandIn; stop: () => Promise<void> };
let door: DoorProcess;

beforeAll(async () => {
  for (const film of films) {
    mkdirSync(join(root, "media", "films", film), { recursive: true });
    writeFileSync(join(root, "media", "films", film, `${film}.bin`), film);
  }
  pair = await startPair({ mediaDir: join(root, "media") });
  // What tasks make is looked at seldom: a watch that begins sees it at once.
  const [one, two] = await idsAt(pair.b);
  await pair.b.control("derive", { item: one, segments: true });
  await pair.b.control("derive", { item: two, chapterPictures: true });
  door = await startDoor({
    replicas: [pair.a, pair.b],
    apiKey: pair.a.apiKey,
    data: join(root, "data"),
    args: ["--cluster-key", CLUSTER_KEY, "--library-check-interval", "300ms", "--prefer", "a"],
  });
});

afterAll(async () => {
  await door?.stop();
  await pair?.stop();
  rmSync(root, { recursive: true, force: true });
});

async function leader(): Promise<string> {
  const { said } = await status();
  return /leader: (\w+)/.exec(said)?.[1] ?? "";
}

const status = () => runCommand(["status", "--admin", door.admin, "--cluster-key", CLUSTER_KEY]);

async function metric(): Promise<number> {
  const text = await (await fetch(`${door.admin}/metrics`)).text();
  return Number(/^jellybloom_library_drift_items (\d+)/m.exec(text)?.[1] ?? Number.NaN);
}

async function idsAt(server: StandIn): Promise<string[]> {
  const reply = await asAdmin(server, "GET", "/Items?recursive=true&includeItemTypes=Movie");
  const { Items } = (await reply.json()) as { Items: { Id: string }[] };
  return Items.map(({ Id }) => Id);
}

test("what tasks have made on one server only is told, starts no scan, and is gone when the other has made it", async () => {
  const before = await Promise.all([pair.a, pair.b].map((server) => startsOf(server, scan)));
  const sentence =
    /[ab] has other trickplay, chapter pictures or segments for 2 items of Movies, since \d\d:\d\d/;
  const told = async () => sentence.test((await status()).said.replaceAll(/\s+/g, " "));
  await until(8000, "it is told", told);
  expect(await metric()).toBe(0);
  const [one, two] = await idsAt(pair.a);
  await pair.a.control("derive", { item: one, segments: true });
  await pair.a.control("derive", { item: two, chapterPictures: true });
  await until(10_000, "it is told no more", async () => !(await told()));
  const after = await Promise.all([pair.a, pair.b].map((server) => startsOf(server, scan)));
  expect(after).toEqual(before);
});

test("a server that lacks films is told of, not scanned while its media are away, and scanned when they are whole", async () => {
  const follower = (await leader()) === "a" ? pair.b : pair.a;
  expect(await metric()).toBe(0);
  // Its media are away, as far as the server sees, and its rows of three films are lost.
  await follower.control("fail", { path: "/Environment/DirectoryContents", status: 404 });
  for (const id of (await idsAt(follower)).slice(0, 3)) {
    expect((await asAdmin(follower, "DELETE", `/Items/${id}`)).status).toBe(204);
  }
  const before = (await startsOf(follower, scan)).length;
  await until(5000, "the drift is measured", async () => (await metric()) === 3);
  await until(5000, "the status says why it is not scanned", async () => {
    const { said, exitCode } = await status();
    const text = said.replaceAll(/\s+/g, " ");
    const sentence = new RegExp(
      `${follower.name} lacks 3 items of Movies, since \\d\\d:\\d\\d \\(it is not scanned: .* cannot be reached\\)`,
    );
    return exitCode === 1 && sentence.test(text);
  });
  expect(await startsOf(follower, scan)).toHaveLength(before);
  // The mount is back.
  await follower.control("clear");
  await until(10_000, "its films are there again", async () => {
    return (await idsAt(follower)).length === films.length;
  });
  await until(5000, "nothing drifts any more", async () => (await metric()) === 0);
  expect((await startsOf(follower, scan)).length).toBe(before + 1);
  expect((await status()).said).not.toContain("lacks");
  await until(2000, "a sentence in the log", () =>
    door.log().includes(`the libraries of ${follower.name} are the leader's again`),
  );
});

test("lists that were changed in a server's own page, and not at the door, become what the writer has", async () => {
  const writer = (await leader()) === "a" ? pair.a : pair.b;
  const follower = writer === pair.a ? pair.b : pair.a;
  const users = (await (await asAdmin(writer, "GET", "/Users")).json()) as {
    Id: string;
    Name: string;
  }[];
  const kid = users.find(({ Name }) => Name === "kid")?.Id ?? "";
  const [one = "", two = ""] = await idsAt(writer);
  const made = await asAdmin(writer, "POST", "/Playlists", {
    ...{ Name: "By hand", Ids: [two, one], UserId: kid, MediaType: "Video" },
  });
  const { Id: playlist } = (await made.json()) as { Id: string };
  const best = "/Collections?name=Best";
  const { Id: collection } = (await (
    await asAdmin(writer, "POST", `${best}&ids=${one}`)
  ).json()) as {
    Id: string;
  };
  await asAdmin(follower, "POST", `${best}&ids=${two}`);
  const itemsAt = async (path: string) => {
    const reply = await asAdmin(follower, "GET", path);
    if (!reply.ok) return [];
    return ((await reply.json()) as { Items: { Id: string }[] }).Items.map(({ Id }) => Id);
  };
  await until(15_000, "the playlist and the collection at the other server", async () => {
    const entries = await itemsAt(`/Playlists/${playlist}/Items?userId=${kid}`);
    const members = await itemsAt(`/Items?parentId=${collection}&userId=${kid}`);
    return entries.join() === `${two},${one}` && members.join() === one;
  });
  // Their login is what the name is put right by: only they may change it.
  const viewer = await Viewer.enter(door.url, { name: "kid" });
  await viewer.knownAt([pair.a, pair.b]);
  const own = await Viewer.enter(follower.url, { name: "kid" });
  const renamed = await own.call("POST", `/Playlists/${playlist}`, { body: { Name: "Renamed" } });
  expect(renamed.status).toBe(204);
  await until(15_000, "the writer's name of it at the other server", async () => {
    const reply = await asAdmin(follower, "GET", `/Items/${playlist}?userId=${kid}`);
    return ((await reply.json()) as { Name: string }).Name === "By hand";
  });
});
