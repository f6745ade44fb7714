// Metrics as a Prometheus server reads them: what was counted is what is told.

import { describe, expect, test } from "vitest";
import { createMetrics, statusClass } from "../../../core/service/metrics.ts";

async function linesOf(metrics: ReturnType<typeof createMetrics>): Promise<string[]> {
  return (await metrics.text()).body.split("\n");
}

test("what was counted is told, again and again", async () => {
  const metrics = createMetrics("1");
  metrics.lane.bytes.requests["2xx"].add();
  metrics.lane.bytes.requests["2xx"].add(2);
  metrics.retries.brokeBeforeReply.add();
  metrics.segmentMemoryBytes.set(1024);
  metrics.socketsOpen.add(3);
  metrics.socketsOpen.subtract();
  await metrics.text();
  const lines = await linesOf(metrics);
  expect(lines).toContain('jellybloom_requests_total{lane="bytes",status="2xx"} 3');
  expect(lines).toContain('jellybloom_requests_total{lane="message",status="2xx"} 0');
  expect(lines).toContain('jellybloom_retries_total{cause="brokeBeforeReply"} 1');
  expect(lines).toContain("jellybloom_segment_memory_bytes 1024");
  expect(lines).toContain("jellybloom_sockets_open 2");
});

test("durations are told in seconds, in buckets that include the lower ones", async () => {
  const metrics = createMetrics("1");
  for (const ms of [0.5, 1, 40, 90_000]) metrics.lane.message.firstByte.observe(ms);
  const lines = await linesOf(metrics);
  const named = (rest: string) => `jellybloom_first_byte_seconds${rest}`;
  expect(lines).toContain(named('_bucket{lane="message",le="0.001"} 2'));
  expect(lines).toContain(named('_bucket{lane="message",le="0.025"} 2'));
  expect(lines).toContain(named('_bucket{lane="message",le="0.05"} 3'));
  expect(lines).toContain(named('_bucket{lane="message",le="30"} 3'));
  expect(lines).toContain(named('_bucket{lane="message",le="+Inf"} 4'));
  expect(lines).toContain(named('_count{lane="message"} 4'));
  expect(lines).toContain(named('_sum{lane="message"} 90.0415'));
});

test("a replica is in one state at a time, and a removed one is not told any more", async () => {
  const metrics = createMetrics("1");
  metrics.replicaState.set("a", "ready");
  metrics.replicaState.set("b", "dead");
  metrics.replicaState.set("a", "frozen");
  const state = (line: string) =>
    line.startsWith("jellybloom_replica_state{") && line.endsWith(" 1");
  expect((await linesOf(metrics)).filter(state)).toEqual([
    'jellybloom_replica_state{replica="a",state="frozen"} 1',
    'jellybloom_replica_state{replica="b",state="dead"} 1',
  ]);
  metrics.replicaState.remove("b");
  expect((await metrics.text()).body).not.toContain('replica="b"');
});

test("every metric has a help text, and its name says whose it is and its unit", async () => {
  const lines = await linesOf(createMetrics("1"));
  const types = lines.filter((line) => line.startsWith("# TYPE "));
  expect(types.length).toBeGreaterThan(30);
  for (const [, , name = "", type] of types.map((line) => line.split(" "))) {
    expect(lines.some((line) => line.startsWith(`# HELP ${name} `) && line.endsWith("."))).toBe(
      true,
    );
    expect(name).toMatch(/^(jellybloom|process|nodejs)_[a-z_]+$/);
    if (type === "counter") expect(name).toMatch(/_total$/);
    if (type === "histogram") expect(name).toMatch(/_seconds$/);
  }
});

describe("the class of a status", () => {
  test.each([
    [101, "1xx"],
    [206, "2xx"],
    [304, "3xx"],
    [404, "4xx"],
    [503, "5xx"],
  ])("%i is %s", (status, name) => {
    expect(statusClass(status)).toBe(name);
  });
});
