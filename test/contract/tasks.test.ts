/**
 * What we believe of scheduled tasks and of the folders of libraries, beyond what system.test.ts says: what a malformed
 * trigger does, what running and cancelling look like from outside, and what a server tells of folders that are and are
 * not there. A real server is left as it was found: its own triggers are put back.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { readTriggers, type Trigger } from "../../core/jellyfin/triggers.ts";
import { startStandIn } from "../support/jellyfin/start.ts";
import { makeMedia } from "../support/media.ts";
import { contractServers, eventually, isReal } from "./servers.ts";

const { a, leave } = await contractServers();
afterAll(leave);

const cleanUpKey = "DeleteCacheFiles";

interface Task {
  readonly Id: string;
  readonly Key: string;
  readonly State: string;
  readonly Triggers: Trigger[];
  readonly LastExecutionResult?: { readonly StartTimeUtc: string; readonly EndTimeUtc: string };
}

async function taskOf(key: string): Promise<Task> {
  const tasks = (await a.admin("GET", "/ScheduledTasks")).json() as Task[];
  const found = tasks.find((task) => task.Key === key);
  if (found === undefined) throw new Error(`there is no task ${key}`);
  return found;
}

describe("triggers", () => {
  test("every server's own are sound as we read them", async () => {
    const tasks = (await a.admin("GET", "/ScheduledTasks")).json() as Task[];
    for (const { Key, Triggers } of tasks) {
      expect(readTriggers(Triggers), Key).toEqual({ triggers: Triggers });
    }
  });

  test("of every kind are taken and told as they were sent", async () => {
    const { Id, Triggers } = await taskOf(cleanUpKey);
    const path = `/ScheduledTasks/${Id}/Triggers`;
    a.later(() => a.admin("POST", path, Triggers));
    const sent: Trigger[] = [
      { Type: "DailyTrigger", TimeOfDayTicks: 108_000_000_000, MaxRuntimeTicks: 36_000_000_000 },
      { Type: "WeeklyTrigger", TimeOfDayTicks: 0, DayOfWeek: "Saturday" },
      { Type: "IntervalTrigger", IntervalTicks: 864_000_000_000 },
      { Type: "StartupTrigger" },
    ];
    expect((await a.admin("POST", path, sent)).status).toBe(204);
    expect((await taskOf(cleanUpKey)).Triggers).toEqual(sent);
    expect((await a.admin("POST", path, Triggers)).status).toBe(204);
  });

  // A sound list sent at once after it repairs the file, so a real server starts again afterwards.
  test("that are malformed are answered with 400", async () => {
    const { Id, Triggers } = await taskOf(cleanUpKey);
    const path = `/ScheduledTasks/${Id}/Triggers`;
    a.later(() => a.admin("POST", path, Triggers));
    for (const malformed of [[{ Type: "DailyTrigger" }], [{ Type: "IntervalTrigger" }]]) {
      expect((await a.admin("POST", path, malformed)).status).toBe(400);
      expect((await a.admin("POST", path, Triggers)).status).toBe(204);
    }
    expect((await taskOf(cleanUpKey)).Triggers).toEqual(Triggers);
  });

  test.skipIf(isReal)(
    "that are malformed lie in the file, and the server does not start again",
    async () => {
      const media = await makeMedia();
      const server = await startStandIn({ name: "broken", mediaDir: media.folder });
      try {
        const { Id } = await taskOf(cleanUpKey);
        const reply = await fetch(`${server.url}/ScheduledTasks/${Id}/Triggers`, {
          method: "POST",
          headers: {
            authorization: `MediaBrowser Token="${server.apiKey}"`,
            "content-type": "application/json",
          },
          body: '[{"Type":"DailyTrigger"}]',
        });
        expect(reply.status).toBe(400);
        const id = Id.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
        const file = join(server.dataDir, "config", "ScheduledTasks", `${id}.js`);
        expect(JSON.parse(readFileSync(file, "utf8"))).toEqual([{ Type: "DailyTrigger" }]);
        await expect(server.restart()).rejects.toThrow();
      } finally {
        await server.stop();
      }
    },
  );
});

test("a run leaves a result with another end than before, by which it is known to have been", async () => {
  const { Id, LastExecutionResult } = await taskOf(cleanUpKey);
  expect((await a.admin("POST", `/ScheduledTasks/Running/${Id}`)).status).toBe(204);
  await eventually(async () => {
    const task = await taskOf(cleanUpKey);
    const { EndTimeUtc } = task.LastExecutionResult ?? {};
    const isNew = EndTimeUtc !== undefined && EndTimeUtc !== LastExecutionResult?.EndTimeUtc;
    return task.State === "Idle" && isNew ? true : undefined;
  }, 15_000);
});

describe("the folders of libraries", () => {
  test("are told, and what lies in them; the paths of items lie below", async () => {
    const folders = (await a.admin("GET", "/Library/VirtualFolders")).json() as {
      Name: string;
      Locations: string[];
    }[];
    const locations = folders.flatMap(({ Locations }) => Locations);
    expect(locations.length).toBeGreaterThan(0);
    const items = (
      await a.admin("GET", "/Items?recursive=true&isFolder=false&fields=Path&startIndex=0&limit=5")
    ).json().Items as { Path?: string }[];
    expect(items.length).toBeGreaterThan(0);
    const paths = items.flatMap(({ Path }) => (Path === undefined ? [] : [Path]));
    expect(paths.some((path) => locations.some((folder) => path.startsWith(folder)))).toBe(true);
    const query = new URLSearchParams({
      path: locations[0] ?? "",
      includeFiles: "true",
      includeDirectories: "true",
    });
    const reply = await a.admin("GET", `/Environment/DirectoryContents?${query}`);
    expect(reply.status).toBe(200);
    for (const entry of reply.json() as { Name: string; Type: string }[]) {
      expect(entry).toMatchObject({ Name: expect.any(String), Path: expect.any(String) });
      expect(["File", "Directory"]).toContain(entry.Type);
    }
  });

  test("that are not there are no empty list", async () => {
    const query = new URLSearchParams({ path: "/no/such/folder", includeFiles: "true" });
    const reply = await a.admin("GET", `/Environment/DirectoryContents?${query}`);
    expect(reply.status).not.toBe(200);
    const body = { Path: "/no/such/folder", IsFile: false };
    expect((await a.admin("POST", "/Environment/ValidatePath", body)).status).toBe(404);
  });
});
