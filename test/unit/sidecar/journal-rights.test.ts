/** Whose login has ended may not have done again what no server has agreed to. */
import { expect, test } from "vitest";
import type { Identity } from "../../../core/cluster/identity.ts";
import type { Intent } from "../../../core/cluster/journal.ts";
import { rightsTo } from "../../../sidecar/journal/rights.ts";

const kid = "1".repeat(32);
const token = { hash: "", sealed: "" };

function askedBy(
  part: Pick<Identity, "kind" | "tokens">,
  policy: Record<string, unknown> = {},
): Promise<string> {
  const identity = { userId: kid, ...part } as Identity;
  const users = [{ Id: kid, Name: "kid", Policy: { EnableUserPreferenceAccess: true, ...policy } }];
  const hands = {
    replica: "a",
    memory: {
      identities: new Map([["key", identity]]),
      onNote: () => undefined,
      onReload: () => undefined,
      notes: () => [],
    },
    client: {
      callWithKey: async () => ({ outcome: "answered", status: 200, text: JSON.stringify(users) }),
    },
  } as unknown as Parameters<typeof rightsTo>[1];
  const intent = { kind: "userConfiguration", userId: kid, identityKey: "key", facts: {} };
  return rightsTo(intent as unknown as Intent, hands);
}

test.each<[string, Pick<Identity, "kind" | "tokens">, string]>([
  ["a login", { kind: "user", tokens: { a: token } }, "may"],
  ["a login that has ended", { kind: "user", tokens: {} }, "may not"],
  ["an API key", { kind: "apiKey", tokens: { a: token } }, "may"],
  ["an API key that was taken away", { kind: "apiKey", tokens: {} }, "may not"],
])("%s: %s", async (_who, part, expected) => {
  expect(await askedBy(part)).toBe(expected);
});

test.each<[Record<string, unknown>, string]>([
  [{ EnableRemoteAccess: true, AccessSchedules: [] }, "may"],
  [{ EnableRemoteAccess: false }, "may not"],
  [{ AccessSchedules: [{ DayOfWeek: "Everyday", StartHour: 8, EndHour: 20 }] }, "may not"],
  [{ IsDisabled: true }, "may not"],
])("a login of a user with %j: %s", async (policy, expected) => {
  expect(await askedBy({ kind: "user", tokens: { a: token } }, policy)).toBe(expected);
});
