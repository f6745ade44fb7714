// A new password on its way: sealed for one change alone, and not for ever.

import { expect, test } from "vitest";
import { keepSecret, readSecret } from "../../../core/cluster/secret.ts";
import { createSeal } from "../../../core/service/seal.ts";
import { openEmbeddedStore } from "../../../core/store/embedded.ts";

const seal = createSeal("a cluster key for tests only");
const weekMs = 7 * 24 * 3_600_000;

test("a secret lies sealed, opens for its own change alone, and ends after a week", async () => {
  let nowMs = 1_000_000;
  const limits = { changesKept: 10, revokedKeepMs: 1000, callLimitMs: 1000 };
  const store = openEmbeddedStore({ limits, now: () => nowMs });
  await keepSecret(store, seal, "change-1", "a new password", ["a", "b"]);
  const lies = (await store.readSecret("change-1")) ?? "";
  expect(lies).not.toContain("password");
  expect(await readSecret(store, seal, "change-1")).toBe("a new password");
  await store.putSecret("change-2", lies, ["a"], weekMs);
  expect(await readSecret(store, seal, "change-2")).toBeUndefined();
  nowMs += weekMs + 1;
  expect(await readSecret(store, seal, "change-1")).toBeUndefined();
  await store.close();
});
