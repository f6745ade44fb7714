// What differs between servers is counted, so that an upgrade that stopped half way is seen; what is gone or not
// known yet is no difference.

import { expect, test } from "vitest";
import type { Note } from "../../../core/store/store.ts";
import { skewOf } from "../../../proxy/skew.ts";

const member = (replica: string, serverVersion: string) => ({ replica, serverVersion });
const note = (id: string, encoder: string): [string, Note] => {
  const value = JSON.stringify({ encoder });
  return [id, { kind: "replica", id, replica: id, value, expiresAtMs: 0 }];
};

test("servers of one kind are no skew, and what is not known yet is none", () => {
  const members = [member("a", "12.0.0"), member("b", "12.0.0"), member("c", "")];
  const notes = new Map([note("a", "x"), note("b", "x"), note("c", "")]);
  expect(skewOf(members, notes)).toEqual({ versions: 1, encoders: 1 });
  expect(skewOf([], new Map())).toEqual({ versions: 0, encoders: 0 });
});

test("each other version and each other encoder counts, but for servers that are gone", () => {
  const members = [member("a", "12.0.0"), member("b", "12.0.1")];
  const notes = new Map([note("a", "x"), note("b", "y"), note("gone", "z")]);
  expect(skewOf(members, notes)).toEqual({ versions: 2, encoders: 2 });
});
