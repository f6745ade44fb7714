/**
 * What the mark in a server's data rests on (sidecar/truth.ts), and what the doctor reads of a server: the options of a
 * device that does not exist, the server's clock, its logs. A real server keeps one more row that nobody sees.
 */
import { afterAll, expect, test } from "vitest";
import { contractServers } from "./servers.ts";

const { a, leave } = await contractServers();
afterAll(leave);

const id = "jellybloom-contract-device";
const path = `/Devices/Options?id=${id}`;

test("a device that does not exist has options when it is given some, and is in no list", async () => {
  const unknown = await a.admin("GET", `/Devices/Options?id=${id}-unknown`);
  expect(unknown.status).toBe(404);
  const text = JSON.stringify({
    jellybloom: "a",
    count: 7,
    cursor: { generation: "g", number: 5 },
  });
  expect((await a.admin("POST", path, { CustomName: text })).status).toBe(204);
  const told = await a.admin("GET", path);
  expect(told.status).toBe(200);
  expect(told.json()).toMatchObject({ DeviceId: id, CustomName: text });
  expect((await a.admin("POST", path, { CustomName: "8" })).status).toBe(204);
  expect((await a.admin("GET", path)).json()).toMatchObject({ CustomName: "8" });
  expect((await a.admin("GET", "/Devices")).text).not.toContain(id);
});

test("only an administrator's key reads and writes them", async () => {
  expect((await a.call("GET", path)).status).toBe(401);
  expect((await a.call("POST", path, { body: { CustomName: "9" } })).status).toBe(401);
  expect((await a.admin("GET", path)).json()).toMatchObject({ CustomName: "8" });
});

test("the server tells its clock to anybody", async () => {
  const told = (await a.call("GET", "/GetUtcTime")).json() as { ResponseTransmissionTime: string };
  expect(Math.abs(Date.parse(told.ResponseTransmissionTime) - Date.now())).toBeLessThan(60_000);
});

test("its logs are listed with size and time, and one that is not there is 404", async () => {
  const logs = (await a.admin("GET", "/System/Logs")).json() as Record<string, unknown>[];
  for (const log of logs) {
    expect(log).toMatchObject({ Name: expect.any(String), Size: expect.any(Number) });
  }
  expect((await a.admin("GET", "/System/Logs/Log?name=nothing-of-this-name.log")).status).toBe(404);
});
