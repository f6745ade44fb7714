// The young generation's limit: as a decision, and with V8 itself in a process that keeps much alive for a while.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { youngLimit } from "../../../core/service/young.ts";

test("growth ends at the limit, is said once, and is allowed again when V8 has given back", () => {
  let size = 0;
  const said: boolean[] = [];
  const look = youngLimit(64, { size: () => size, mayGrow: (may) => void said.push(may) });
  for (size of [16, 32, 63, 64, 64, 80, 5, 5, 64]) look();
  expect(said).toEqual([false, true, false]);
});

test.each([
  [16, true],
  [1024, false],
])("V8 keeps to %i MiB: %s", (limitMiB, keeps) => {
  const module = fileURLToPath(new URL("../../../core/service/young.ts", import.meta.url));
  const script = `
    const { youngLimit, ownYoungHeap } = await import(${JSON.stringify(module)});
    const look = youngLimit(${limitMiB} * 2 ** 20);
    const kept = new Array(150_000);
    for (let round = 0; round < 3_000_000; round++) {
      kept[round % kept.length] = { round, text: "x" + round };
      if (round % 5000 === 0) look();
    }
    console.log(ownYoungHeap.size() / 2 ** 20);`;
  const args = ["--input-type=module", "-e", script];
  const size = Number(execFileSync(process.execPath, args, { encoding: "utf8", timeout: 30_000 }));
  // One step of growth may fall between two looks.
  expect(size <= limitMiB * 2 && size > 0).toBe(true);
  expect(size <= 32).toBe(keeps);
});
