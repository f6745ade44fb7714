// Users with two ids: whose word an alias is, and ids put in place of others.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { swapIds, swapIdsIn } from "../../../core/cluster/id-swap.ts";
import {
  openOwnKey,
  ownKeyContext,
  ownKeyText,
  readOwnKey,
} from "../../../core/cluster/own-keys.ts";
import { aliasNoteId, aliasText, readAlias } from "../../../core/cluster/user-aliases.ts";
import { createSeal } from "../../../core/service/seal.ts";
import type { Note } from "../../../core/store/store.ts";

const seal = createSeal("a cluster key of some length");
const stranger = createSeal("another cluster's key altogether");
const ann = "0123456789abcdef0123456789abcdef";
const annDashed = "01234567-89ab-cdef-0123-456789abcdef";
const here = "fedcba9876543210fedcba9876543210";
const hereDashed = "fedcba98-7654-3210-fedc-ba9876543210";
const ids = new Map([[ann, here]]);

describe("an id in a text", () => {
  test.each([
    ["a path", `/Users/${ann}/Views`, `/Users/${here}/Views`],
    ["with dashes", `/Users/${annDashed}`, `/Users/${hereDashed}`],
    ["in capitals", `?userId=${ann.toUpperCase()}&x=1`, `?userId=${here}&x=1`],
    ["JSON", `{"Id":"${ann}","Of":"${ann}"}`, `{"Id":"${here}","Of":"${here}"}`],
    ["a longer number", `${ann}0`, `${ann}0`],
    ["the end of a longer number", `a${ann}`, `a${ann}`],
    ["another id", here, here],
    ["nothing", "", ""],
  ])("%s", (_name, text, expected) => {
    expect(swapIds(text, ids)).toBe(expected);
    expect(swapIdsIn(Buffer.from(text), ids).toString()).toBe(expected);
  });

  test("stays as long as it was, whatever surrounds it, and comes back", () => {
    const back = new Map([[here, ann]]);
    const piece = fc.oneof(fc.string(), fc.constant(ann), fc.constant(annDashed));
    fc.assert(
      fc.property(fc.array(piece), (pieces) => {
        const text = pieces.join(" ");
        const swapped = swapIds(text, ids);
        expect(swapped.length).toBe(text.length);
        expect(swapIds(swapped, back)).toBe(text);
        const bytes = Buffer.from(text);
        expect(swapIdsIn(swapIdsIn(bytes, ids), back).equals(bytes)).toBe(true);
      }),
    );
  });
});

describe("an alias", () => {
  const views = { ["1".repeat(32)]: "2".repeat(32) };
  const alias = { replica: "b", userId: ann, here, views };
  const note = (value: string, id = aliasNoteId("b", ann), replica = "b"): Note => ({
    ...{ kind: "userAlias", id, replica, value, expiresAtMs: 0 },
  });

  test("is believed as this cluster wrote it", () => {
    expect(readAlias(note(aliasText(alias, seal)), seal)).toEqual(alias);
  });

  test.each([
    ["of another cluster", note(aliasText(alias, stranger))],
    ["moved to another replica", note(aliasText(alias, seal), aliasNoteId("a", ann), "a")],
    ["moved to another user", note(aliasText(alias, seal), aliasNoteId("b", here))],
    ["with another id in it", note(aliasText(alias, seal).replace(here, "3".repeat(32)))],
    [
      "with another view in it",
      note(aliasText(alias, seal).replace("2".repeat(32), "4".repeat(32))),
    ],
    ["that is no JSON", note("no JSON")],
    ["with ids that are none", note(aliasText({ ...alias, here: "x" }, seal))],
    ["without a MAC", note(JSON.stringify({ userId: ann, here, views: {} }))],
  ])("%s is not", (_name, forged) => {
    expect(readAlias(forged, seal)).toBeUndefined();
  });
});

describe("a key of the cluster's own", () => {
  const hash = "ab".repeat(32);
  const note = (value: string, id = "a"): Note => ({
    ...{ kind: "ownKey", id, replica: id, value, expiresAtMs: 0 },
  });

  test("is known by a note of this cluster alone", () => {
    expect(readOwnKey(note(ownKeyText("a", hash, seal)), seal)).toBe(hash);
    expect(readOwnKey(note(ownKeyText("a", hash, stranger)), seal)).toBeUndefined();
    expect(readOwnKey(note(ownKeyText("a", hash, seal), "b"), seal)).toBeUndefined();
    expect(readOwnKey(note("{}"), seal)).toBeUndefined();
    expect(readOwnKey(note(""), seal)).toBeUndefined();
  });

  test("is opened by sidecars of the cluster, for the replica that it is of", () => {
    const sealed = seal.seal("the key itself", ownKeyContext("a", hash));
    const value = ownKeyText("a", hash, seal, sealed);
    expect(value).not.toContain("the key itself");
    const opened = (text: string, id: string, by = seal) =>
      openOwnKey({ note: () => note(text, id) }, by, id);
    expect(opened(value, "a")).toBe("the key itself");
    expect(opened(value, "b")).toBeUndefined();
    expect(opened(ownKeyText("b", hash, seal, sealed), "b")).toBeUndefined();
    expect(opened(value, "a", stranger)).toBeUndefined();
    expect(opened(ownKeyText("a", hash, seal), "a")).toBeUndefined();
  });
});
