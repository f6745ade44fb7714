/** The journal's word on a list: what its changes make of it, each counted once, in the journal's order. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Effect, Placed } from "../../../core/cluster/journal.ts";
import { FileLedger, MemoryLedger } from "../../../sidecar/journal/ledger.ts";
import {
  changedList,
  inServersOrder,
  type ListChange,
} from "../../../sidecar/journal/list-steps.ts";
import { type ListState, ListWords, readListState } from "../../../sidecar/journal/list-word.ts";

const listId = "0123456789abcdef0123456789abcdef";

/** Films are letters here. */
const idOf = (letter: string): string => letter.charCodeAt(0).toString(16).padStart(32, "0");
const idsOf = (letters: string): string[] => [...letters].map(idOf);
const lettersOf = (ids: readonly string[] = []): string =>
  ids.map((id) => String.fromCharCode(Number.parseInt(id, 16))).join("");

let lastNumber = 0;
interface Told extends Partial<Omit<ListState, "change">> {
  readonly of?: string;
  readonly userId?: string;
  readonly number?: number;
}

/** `holds`: what its writer knew of the list. */
function effect(
  holds: string,
  change: (Omit<ListChange, "ids"> & { readonly ids: string }) | undefined,
  { of = `intent ${lastNumber}`, userId = "kid", number, ...state }: Told = {},
): Placed<Effect> {
  lastNumber = number ?? lastNumber + 1;
  return {
    ...{ number: lastNumber, atMs: lastNumber * 1000 },
    entry: {
      ...{ type: "effect", id: `${of}.0`, of, ofNumber: 1, kind: "playlist", replica: "a" },
      ...{ userId, itemId: listId },
      payload: {
        ...{ list: "playlist", name: "Mix", items: idsOf(holds), ...state },
        ...(change !== undefined && { change: { ...change, ids: idsOf(change.ids) } }),
      },
    },
  };
}

function deletion(id: string): Placed<Effect> {
  const { entry, ...place } = effect("", undefined, { of: "deletion" });
  return { ...place, entry: { ...entry, kind: "itemGone", itemId: id, payload: { ids: [id] } } };
}

const appended = (holds: string, ids: string, told: Told = {}) =>
  effect(holds, { what: "appended", ids }, told);

function heard(...effects: readonly Placed<Effect>[]): ListWords {
  const words = new ListWords(new MemoryLedger());
  for (const one of effects) words.note(one);
  return words;
}

const itemsIn = (words: ListWords): string => lettersOf(words.of(listId)?.state.items);

describe("a change", () => {
  test.each([
    ["appends", "ab", "", { what: "appended", ids: "ca" }, "abca"],
    ["appends in the middle", "ab", "", { what: "appended", ids: "c", position: 1 }, "acb"],
    [
      "of equal content is in the order that its writer told",
      "ab",
      "cba",
      { what: "appended", ids: "c" },
      "cba",
    ],
    ["of other content is in the journal's", "ab", "cb", { what: "appended", ids: "c" }, "abc"],
    ["appends beyond the end", "ab", "", { what: "appended", ids: "c", position: 9 }, "abc"],
    ["takes every entry of an item out", "abab", "", { what: "removed", ids: "a" }, "bb"],
    ["fills up what was made", "x", "ab", { what: "created", ids: "" }, "xab"],
    ["makes it no second time", "ab", "ab", { what: "created", ids: "" }, "ab"],
    ["sets the whole content", "abc", "x", { what: "replaced", ids: "ba" }, "ba"],
    ["sets no content at all", "abc", "x", { what: "replaced", ids: "" }, ""],
    ["orders", "abc", "cab", { what: "moved", ids: "" }, "cab"],
    ["orders what its writer knew of", "abx", "bac", { what: "moved", ids: "" }, "bax"],
    ["orders each of several alike", "aab", "baa", { what: "moved", ids: "" }, "baa"],
    ["of its name leaves it", "ab", "b", { what: "updated", ids: "" }, "ab"],
    ["of who may see it leaves it", "ab", "b", { what: "shared", ids: "" }, "ab"],
    ["takes out what is gone", "abc", "b", { what: "appended", ids: "d", gone: "ac" }, "bd"],
  ] as const)("%s", (_name, items, theirs, change, expected) => {
    const gone = "gone" in change ? idsOf(change.gone) : [];
    const asked = { ...change, ids: idsOf(change.ids), gone };
    expect(lettersOf(changedList(idsOf(items), idsOf(theirs), asked))).toBe(expected);
  });
});

describe("what was appended by changes that ran side by side", () => {
  test.each([
    ["is in their server's order", "abxy", "xy", "abyx", "abyx"],
    ["is last where their server has more by now", "abx", "x", "abxab", "abx"],
    ["of one film is as often there", "aaxa", "xa", "aaaxa", "aaax"],
    ["is all as its server has it, where that has no more", "abxy", "xy", "yxba", "yxba"],
    ["leaves what came before in its order", "abxy", "xy", "yxbaz", "abyx"],
    ["is there where its server has it not", "abxy", "xy", "aby", "abyx"],
    ["is there where its server has nothing", "abxy", "xy", "", "abxy"],
  ])("%s", (_name, items, among, theirs, expected) => {
    const ordered = inServersOrder(idsOf(items), idsOf(among), idsOf(theirs));
    expect(lettersOf(ordered)).toBe(expected);
  });

  test("is known as long as it may have", () => {
    const words = heard(effect("a", { what: "created", ids: "" }));
    const began = lastNumber;
    words.note(appended("ab", "b", { of: "b" }));
    words.noteSaid(listId, "c", { what: "appended", ids: idsOf("c") }, []);
    expect(lettersOf(words.appendedSince(listId, began))).toBe("bc");
    expect(lettersOf(words.appendedSince(listId, lastNumber))).toBe("c");
    words.note(appended("abc", "c", { of: "c" }));
    expect(lettersOf(words.appendedSince(listId, began))).toBe("bc");
  });
});

describe("the journal's word", () => {
  test("counts what two servers told of without knowing of each other, in the journal's order", () => {
    const made = effect("a", { what: "created", ids: "" });
    const words = heard(made, appended("ab", "b"), appended("ac", "c"), appended("ac", "c"));
    expect(itemsIn(words)).toBe("abcc");
  });

  test("counts an intent once, though two servers told of it", () => {
    const made = effect("a", { what: "created", ids: "" });
    const words = heard(
      made,
      appended("ab", "b", { of: "same" }),
      appended("ab", "b", { of: "same" }),
    );
    expect(itemsIn(words)).toBe("ab");
  });

  test("counts nothing again that is read again", () => {
    const told = [
      effect("a", { what: "created", ids: "" }),
      appended("ab", "b"),
      appended("abb", "b"),
    ];
    expect(itemsIn(heard(...told, ...told))).toBe("abb");
  });

  test("begins with what is told of a list of which nothing is known", () => {
    expect(itemsIn(heard(appended("abc", "c"), appended("abcd", "d")))).toBe("abcd");
  });

  test("is what is told where the whole list is", () => {
    const words = heard(
      appended("abc", "c"),
      effect("x", undefined, { of: "" }),
      appended("xd", "d"),
    );
    expect(itemsIn(words)).toBe("xd");
  });

  test("is what is told whole only where nothing was said of it since that was read", () => {
    const words = heard(effect("a", { what: "created", ids: "" }), appended("ab", "b"));
    const shared = { settings: { isOpen: true, shares: [] } };
    words.note(effect("ab", { what: "shared", ids: "" }, shared));
    words.note(effect("a", undefined, { of: "", asOf: lastNumber - 1 }));
    expect(itemsIn(words)).toBe("ab");
    words.note(effect("x", undefined, { of: "", asOf: lastNumber }));
    // Who may see it stays where that could not be read.
    expect(words.of(listId)?.state).toMatchObject({ items: idsOf("x"), ...shared });
    const number = lastNumber;
    words.note(deletion(listId));
    words.note(effect("x", undefined, { of: "", asOf: number }));
    expect(words.of(listId)?.isGone).toBe(true);
  });

  test("knows whose a list is from who made it, and not from who only changed it", () => {
    const words = heard(appended("ab", "b", { userId: "root" }));
    expect(words.of(listId)).toMatchObject({ ownerId: "", userId: "root" });
    words.note(effect("ab", undefined, { of: "", userId: "kid" }));
    expect(words.of(listId)?.ownerId).toBe("kid");
  });

  test("takes who may see it, and not a name, from who shared it", () => {
    const made = effect("a", { what: "created", ids: "" }, { name: "First" });
    const settings = { isOpen: true, shares: [] };
    const shared = effect("a", { what: "shared", ids: "" }, { name: "Older", settings });
    expect(heard(made, shared).of(listId)?.state).toMatchObject({ name: "First", settings });
  });

  test("takes a name from who changed it, and not from who only knew an older one", () => {
    const made = effect("a", { what: "created", ids: "" }, { name: "First" });
    const renamed = effect("a", { what: "updated", ids: "" }, { name: "Second" });
    const words = heard(made, renamed, appended("ab", "b", { name: "First" }));
    expect(words.of(listId)?.state.name).toBe("Second");
  });

  test("keeps whose list it is, whoever changes it", () => {
    const words = heard(
      effect("a", { what: "created", ids: "" }),
      appended("ab", "b", { userId: "root" }),
    );
    expect(words.of(listId)).toMatchObject({ ownerId: "kid", userId: "root" });
  });

  test("of two people's lists under one id is the writer's", () => {
    const mine = effect("a", { what: "created", ids: "" });
    const theirs = { userId: "root" };
    const late = effect("b", { what: "created", ids: "" }, { ...theirs, isWriters: false });
    expect(itemsIn(heard(mine, late))).toBe("a");
    const writers = effect("b", { what: "created", ids: "" }, { ...theirs, isWriters: true });
    const words = heard(mine, late, writers);
    expect([itemsIn(words), words.of(listId)?.ownerId]).toEqual(["b", "root"]);
  });

  test("of a list that was deleted is that, until it is made anew", () => {
    const made = effect("ab", { what: "created", ids: "" });
    const words = heard(made, deletion(listId), appended("abc", "c"));
    expect([words.of(listId)?.isGone, words.isGoneItem(listId)]).toEqual([true, true]);
    words.note(effect("x", { what: "created", ids: "" }));
    expect([words.of(listId)?.isGone, itemsIn(words)]).toEqual([false, "x"]);
    expect(words.isGoneItem(listId)).toBe(false);
    // Never known here, and told late.
    expect(heard(deletion(listId), appended("ab", "b")).of(listId)).toBeUndefined();
  });

  test("holds each member of a collection once", () => {
    const list = { list: "collection" } as const;
    const words = heard(
      appended("ab", "b", list),
      appended("ab", "b", list),
      appended("ba", "c", list),
    );
    expect(itemsIn(words)).toBe("abc");
  });

  test("with what was told here and is not read yet is what the next change is told with", () => {
    const words = heard(effect("a", { what: "created", ids: "" }));
    const change = { what: "appended", ids: idsOf("b") } as const;
    words.noteSaid(listId, "mine", change, []);
    // Told once more, because the store did not answer.
    words.noteSaid(listId, "mine", change, []);
    expect(lettersOf(words.withSaid(listId, "")?.state.items)).toBe("ab");
    // It is told once more as it was.
    expect(lettersOf(words.withSaid(listId, "mine")?.state.items)).toBe("a");
    words.note(appended("ab", "b", { of: "mine" }));
    expect([lettersOf(words.withSaid(listId, "")?.state.items), itemsIn(words)]).toEqual([
      "ab",
      "ab",
    ]);
  });

  test("after a loss is what is told next", () => {
    const words = heard(appended("abc", "c"));
    words.noteLoss(lastNumber);
    expect(words.of(listId)).toBeUndefined();
    words.note(appended("xd", "d"));
    expect(itemsIn(words)).toBe("xd");
  });

  test("outlives the process, and is remembered as of late then", () => {
    const folder = mkdtempSync(join(tmpdir(), "jellybloom-words-"));
    try {
      const first = new FileLedger(folder, "a");
      const told = [effect("a", { what: "created", ids: "" }), appended("ab", "b", { of: "b" })];
      const before = new ListWords(first);
      for (const one of told) before.note(one);
      const word = before.of(listId);
      first.close();
      const second = new FileLedger(folder, "a");
      const words = new ListWords(second);
      expect(words.of(listId)).toEqual(word);
      for (const one of told) words.note(one);
      words.note(appended("abb", "b", { of: "b" }));
      expect(itemsIn(words)).toBe("ab");
      expect(words.since((lastNumber - 1) * 1000, 10)).toEqual([listId]);
      expect(words.since((lastNumber + 1) * 1000, 10)).toEqual([]);
      words.noteLoss(lastNumber);
      expect(new ListWords(second).of(listId)).toBeUndefined();
      second.close();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

test("what makes no sense in an effect is no list", () => {
  const state = { list: "playlist", name: "Mix", items: [listId] };
  expect(readListState(state)).toEqual(state);
  for (const bad of [
    undefined,
    [],
    { ...state, list: "other" },
    { ...state, name: "" },
    { ...state, items: "all" },
    { ...state, items: [listId, "../../Users"] },
  ]) {
    expect(readListState(bad)).toBeUndefined();
  }
  const change = { what: "appended", ids: [listId], position: -3, gone: "none" };
  const read = { what: "appended", ids: [listId], position: 0 };
  expect(readListState({ ...state, change })).toEqual({ ...state, change: read });
});
