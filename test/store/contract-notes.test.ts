// The contract of core/store/store.ts, second part: pins that move, notes, and the leader's lease, as promises
// that every store keeps: in memory, in a file, in Redis.

import { describe, expect, test } from "vitest";
import {
  epochLimit,
  type NoteKind,
  noteIdLimitCharacters,
  noteKinds,
  noteLimitCharacters,
  notesLimit,
  type Store,
} from "../../core/store/store.ts";
import { applied, backends, follower, sleep, sorted, worldsOf } from "./worlds.ts";

const hundred = Array.from({ length: 100 }, (_unused, index) => index);

describe.each(backends())("a store $name", (backend) => {
  const open = worldsOf(backend);

  async function openStore(): Promise<Store> {
    return (await open()).store;
  }

  /** What followers are told while `deed` runs, and of what came after it. */
  async function told(store: Store, deed: () => Promise<void>) {
    const start = await store.load();
    await deed();
    const end = await store.load();
    const following = follower(store, start.position);
    while (following.position !== end.position) await sleep(5);
    await following.stop();
    expect(applied(start, following.changes)).toEqual(sorted(end));
    return following.changes;
  }

  describe("of pins that move", () => {
    const claim = {
      kind: "syncPlay",
      id: "group",
      replica: "a",
      owner: "o",
      ttlMs: 60_000,
      expectedEpoch: 0,
    } as const;

    test("makes, moves and keeps a pin for who knows its epoch, whose number grows with each replica", async () => {
      const store = await openStore();
      const changes = await told(store, async () => {
        const made = await store.movePin(claim);
        expect(made).toMatchObject({
          granted: true,
          pin: { kind: "syncPlay", id: "group", replica: "a", epoch: { number: 1, owner: "o" } },
        });
        const moved = await store.movePin({
          ...claim,
          replica: "b",
          owner: "p",
          expectedEpoch: 1,
        });
        expect(moved).toMatchObject({
          granted: true,
          pin: { replica: "b", epoch: { number: 2, owner: "p" } },
        });
        expect((await store.load()).pins).toEqual([moved.pin]);
      });
      expect(changes).toMatchObject([
        { type: "pin", pin: { replica: "a", epoch: { number: 1 } } },
        { type: "pin", pin: { replica: "b", epoch: { number: 2 } } },
      ]);
    });

    test("refuses who knows another epoch, and says how the pin is", async () => {
      const store = await openStore();
      const { pin } = await store.movePin(claim);
      const changes = await told(store, async () => {
        for (const expectedEpoch of [0, 2, 7]) {
          expect(await store.movePin({ ...claim, replica: "b", expectedEpoch })).toEqual({
            granted: false,
            pin,
          });
        }
      });
      expect(changes).toEqual([]);
    });

    test("lets one of a hundred movers win", async () => {
      const { store, other } = await open();
      await store.movePin(claim);
      const answers = await Promise.all(
        hundred.map((index) =>
          (index % 2 === 0 ? store : other).movePin({
            ...claim,
            replica: `r${index}`,
            expectedEpoch: 1,
          }),
        ),
      );
      const winner = answers.findIndex((answer) => answer.granted);
      expect(answers.filter((answer) => answer.granted)).toHaveLength(1);
      for (const { pin } of answers) {
        expect(pin).toMatchObject({ replica: `r${winner}`, epoch: { number: 2 } });
      }
    });

    test("counts on from the mover's number where the pin is not known, so that it never falls", async () => {
      const store = await openStore();
      const answer = await store.movePin({ ...claim, expectedEpoch: 7 });
      expect(answer).toMatchObject({ granted: true, pin: { epoch: { number: 8 } } });
    });

    test("takes over what claimPin began", async () => {
      const store = await openStore();
      await store.claimPin(claim);
      expect(await store.movePin({ ...claim, replica: "b", expectedEpoch: 1 })).toMatchObject({
        granted: true,
        pin: { replica: "b", epoch: { number: 2 } },
      });
      expect(await store.claimPin(claim)).toMatchObject({ replica: "b", epoch: { number: 2 } });
    });

    test("prolongs a pin under the same epoch, and tells nobody when it is hardly longer", async () => {
      const store = await openStore();
      const { pin } = await store.movePin(claim);
      const again = { ...claim, owner: "restarted", expectedEpoch: 1 };
      expect(await told(store, async () => void (await store.movePin(again)))).toEqual([]);
      const changes = await told(store, async () => {
        const longer = await store.movePin({ ...again, ttlMs: 120_000 });
        expect(longer).toMatchObject({ granted: true, pin: { epoch: pin.epoch } });
        expect(longer.pin.expiresAtMs).toBeGreaterThan(pin.expiresAtMs + 50_000);
      });
      expect(changes).toMatchObject([{ type: "pin", pin: { epoch: pin.epoch } }]);
    });

    test("never ends while it is prolonged, and ends when it is not", async () => {
      const store = await openStore();
      await store.movePin({ ...claim, ttlMs: 300 });
      for (let times = 0; times < 5; times += 1) {
        await sleep(120);
        const { granted, pin } = await store.movePin({ ...claim, ttlMs: 300, expectedEpoch: 1 });
        expect({ granted, number: pin.epoch.number }).toEqual({ granted: true, number: 1 });
      }
      await sleep(350);
      expect((await store.load()).pins).toEqual([]);
      expect((await store.movePin({ ...claim, replica: "b" })).granted).toBe(true);
    });

    test("is dropped by who knows its epoch alone, and may be claimed again at once", async () => {
      const store = await openStore();
      const { pin } = await store.movePin(claim);
      expect(await told(store, () => store.dropPin("syncPlay", "group", 2))).toEqual([]);
      expect(await told(store, () => store.dropPin("syncPlay", "another", 1))).toEqual([]);
      expect(await told(store, () => store.dropPin("channel", "group", 1))).toEqual([]);
      expect((await store.load()).pins).toEqual([pin]);
      expect(await told(store, () => store.dropPin("syncPlay", "group", 1))).toEqual([
        { type: "pin", pin: { ...pin, expiresAtMs: 0 } },
      ]);
      expect((await store.load()).pins).toEqual([]);
      expect(await store.claimPin({ ...claim, replica: "b" })).toMatchObject({ replica: "b" });
    });
  });

  describe("of notes", () => {
    const note = { kind: "session", id: "a:1", replica: "a", value: '{"device":"tv"}' } as const;

    test("keeps the last that was written, for all, under its kind and id", async () => {
      const { store, other, reopen } = await open();
      const changes = await told(store, async () => {
        await store.putNote(note, 0);
        await other.putNote({ ...note, value: "[2]" }, 60_000);
        await store.putNote({ ...note, kind: "play" }, 0);
        await store.putNote({ ...note, id: "a:2", replica: "" }, 0);
      });
      expect(changes).toMatchObject([
        { type: "note", note: { ...note, expiresAtMs: 0 } },
        { type: "note", note: { ...note, value: "[2]" } },
        { type: "note", note: { ...note, kind: "play" } },
        { type: "note", note: { id: "a:2", replica: "" } },
      ]);
      const { notes } = sorted(await store.load());
      expect(notes).toMatchObject([
        { kind: "play", id: "a:1", expiresAtMs: 0 },
        { kind: "session", id: "a:1", value: "[2]" },
        { kind: "session", id: "a:2" },
      ]);
      const leftMs = (notes[1]?.expiresAtMs ?? 0) - (await store.time());
      expect(leftMs).toBeGreaterThan(50_000);
      expect(leftMs).toBeLessThanOrEqual(60_000);
      expect(sorted(await (await reopen()).load()).notes).toEqual(notes);
    });

    test("tells nobody of the same value again, but of another replica, value or end", async () => {
      const store = await openStore();
      await store.putNote(note, 60_000);
      const put = (changed: object, ttlMs: number) =>
        told(store, () => store.putNote({ ...note, ...changed }, ttlMs));
      expect(await put({}, 60_000)).toEqual([]);
      expect(await put({}, 70_000)).toEqual([]);
      expect(await put({}, 90_000)).toHaveLength(1);
      expect(await put({}, 20_000)).toHaveLength(1);
      expect(await put({}, 0)).toHaveLength(1);
      expect(await put({}, 0)).toEqual([]);
      expect(await put({}, 60_000)).toHaveLength(1);
      expect(await put({ replica: "b" }, 60_000)).toHaveLength(1);
      expect(await put({ replica: "b", value: "[3]" }, 60_000)).toHaveLength(1);
    });

    test("ends after its time, and never while it is written again in time", async () => {
      const store = await openStore();
      await store.putNote(note, 300);
      await store.putNote({ ...note, id: "a:2" }, 300);
      for (let times = 0; times < 5; times += 1) {
        await sleep(120);
        await store.putNote(note, 300);
        expect((await store.load()).notes.some(({ id }) => id === "a:1")).toBe(true);
      }
      expect((await store.load()).notes.map(({ id }) => id)).toEqual(["a:1"]);
      await sleep(350);
      expect((await store.load()).notes).toEqual([]);
      expect(await told(store, () => store.putNote(note, 60_000))).toHaveLength(1);
    });

    test("stays as it is for who writes only where there is none", async () => {
      const store = await openStore();
      const ifAbsent = { ifAbsent: true };
      expect(await told(store, () => store.putNote(note, 150, ifAbsent))).toHaveLength(1);
      const later = { ...note, value: "[2]" };
      expect(await told(store, () => store.putNote(later, 0, ifAbsent))).toEqual([]);
      await sleep(200);
      expect(await told(store, () => store.putNote(later, 0, ifAbsent))).toHaveLength(1);
    });

    test("is dropped alone, with all that tell of its replica, or with all of its kind", async () => {
      const store = await openStore();
      for (const replica of ["a", "b"]) {
        for (const id of ["1", "2"]) {
          for (const kind of ["session", "play"] as const) {
            await store.putNote({ kind, id: `${replica}:${id}`, replica, value: "[]" }, 60_000);
          }
        }
      }
      const left = async () =>
        sorted(await store.load()).notes.map(({ kind, id }) => `${kind} ${id}`);
      const ofOne = await told(store, () => store.dropNotes({ kind: "session", id: "a:1" }));
      expect(ofOne).toEqual([
        {
          type: "note",
          note: { kind: "session", id: "a:1", replica: "a", value: "", expiresAtMs: 0 },
        },
      ]);
      expect(await told(store, () => store.dropNotes({ kind: "session", id: "a:1" }))).toEqual([]);
      const wrongReplica = { kind: "session", id: "a:2", replica: "b" } as const;
      expect(await told(store, () => store.dropNotes(wrongReplica))).toEqual([]);
      expect(
        await told(store, () => store.dropNotes({ kind: "session", replica: "b" })),
      ).toHaveLength(2);
      expect(await left()).toEqual(["play a:1", "play a:2", "play b:1", "play b:2", "session a:2"]);
      expect(
        await told(store, () => store.dropNotes({ ...wrongReplica, replica: "a" })),
      ).toHaveLength(1);
      expect(await told(store, () => store.dropNotes({ kind: "play" }))).toHaveLength(4);
      expect(await left()).toEqual([]);
    });

    test("keeps odd characters as they are, also where they look like something else", async () => {
      const store = await openStore();
      const odd =
        "\u0000 \u001f\" \\ / \u007f ' % {} [] : é 😀 \u2028 \ufeff null ; DROP TABLE notes; --";
      for (const kind of noteKinds) {
        await store.putNote({ kind, id: odd, replica: odd, value: odd }, 0);
      }
      const { notes } = await store.load();
      expect(notes.map(({ kind }) => kind).sort()).toEqual([...noteKinds].sort());
      for (const { id, replica, value } of notes)
        expect([id, replica, value]).toEqual([odd, odd, odd]);
      for (const kind of noteKinds) await store.dropNotes({ kind, replica: odd });
      expect((await store.load()).notes).toEqual([]);
    });

    test("is refused when it is too long, empty, of no kind or without an end, and nothing is changed", async () => {
      const store = await openStore();
      const longest = "x".repeat(noteLimitCharacters);
      const longestId = "i".repeat(noteIdLimitCharacters);
      await store.putNote({ ...note, id: longestId, value: longest }, 0);
      const changes = await told(store, async () => {
        const refused: [object, number][] = [
          [{ value: `${longest}x` }, 0],
          [{ id: `${longestId}i` }, 0],
          [{ value: "" }, 0],
          [{ kind: "anything" as NoteKind }, 0],
          [{ kind: "__proto__" as NoteKind }, 0],
          [{}, -1],
          [{}, Number.NaN],
          [{}, Number.POSITIVE_INFINITY],
        ];
        for (const [changed, ttlMs] of refused) {
          await expect(store.putNote({ ...note, ...changed }, ttlMs)).rejects.toBeInstanceOf(
            RangeError,
          );
        }
      });
      expect(changes).toEqual([]);
      expect((await store.load()).notes).toMatchObject([{ id: longestId, value: longest }]);
    });

    test("is refused when there are as many of its kind as are kept, until one is gone", async () => {
      const store = await openStore();
      const one = (index: number) => ({ ...note, id: `a:${index}` });
      for (let start = 0; start < notesLimit; start += 500) {
        const some = Array.from({ length: 500 }, (_unused, index) => one(start + index));
        await Promise.all(some.map((each) => store.putNote(each, start === 0 ? 60_000 : 0)));
      }
      await expect(store.putNote(one(notesLimit), 0)).rejects.toBeInstanceOf(RangeError);
      await store.putNote({ ...one(7), value: "[7]" }, 2000);
      await store.putNote({ ...one(notesLimit), kind: "play" }, 0);
      expect((await store.load()).notes).toHaveLength(notesLimit + 1);
      await store.dropNotes({ kind: "session", id: "a:6" });
      await store.putNote(one(notesLimit), 0);
      await expect(store.putNote(one(notesLimit + 1), 0)).rejects.toBeInstanceOf(RangeError);
      await sleep(2100);
      await store.putNote(one(notesLimit + 1), 0);
    }, 30_000);
  });

  describe("of the lease", () => {
    const claim = (owner: string, changed: object = {}) => ({
      replica: `replica of ${owner}`,
      gateUrl: `http://${owner}:1`,
      owner,
      ttlMs: 60_000,
      above: 0,
      ...changed,
    });

    test("grants it to one of a hundred, and tells all who it is", async () => {
      const { store, other } = await open();
      const answers = await Promise.all(
        hundred.map((index) => (index % 2 === 0 ? store : other).holdLease(claim(`o${index}`))),
      );
      const winner = answers.findIndex((answer) => answer.held);
      expect(answers.filter((answer) => answer.held)).toHaveLength(1);
      const lease = {
        epoch: { number: 1, owner: `o${winner}` },
        replica: `replica of o${winner}`,
        gateUrl: `http://o${winner}:1`,
      };
      const late = await other.holdLease(claim("late"));
      expect(late).toEqual({ held: false, lease, retryAfterMs: expect.any(Number) });
      const { retryAfterMs } = late as { retryAfterMs: number };
      expect(retryAfterMs).toBeGreaterThan(50_000);
      expect(retryAfterMs).toBeLessThanOrEqual(60_000);
      expect((await store.load()).lease).toEqual(lease);
    });

    test("is held under one epoch as long as it is renewed, which is told to nobody", async () => {
      const { store, other } = await open();
      const first = await store.holdLease(claim("o", { ttlMs: 400 }));
      const changes = await told(store, async () => {
        for (let times = 0; times < 6; times += 1) {
          await sleep(120);
          expect(await store.holdLease(claim("o", { ttlMs: 400 }))).toEqual(first);
          expect((await other.holdLease(claim("p"))).held).toBe(false);
        }
      });
      expect(changes).toEqual([]);
    });

    test("falls to the next when it is not renewed, under the next number, which followers are told", async () => {
      const { store, other } = await open();
      const changes = await told(store, async () => {
        await store.holdLease(claim("o", { ttlMs: 150 }));
        await sleep(200);
        expect(await other.holdLease(claim("p", { ttlMs: 150 }))).toMatchObject({
          held: true,
          lease: { epoch: { number: 2, owner: "p" } },
        });
        await sleep(200);
        const again = await store.holdLease(claim("o"));
        // A holder whose time was over learns it at this call; then it may ask like any other.
        const late = again.held ? again : await store.holdLease(claim("o"));
        expect(late).toMatchObject({ held: true, lease: { epoch: { number: 3, owner: "o" } } });
      });
      expect(changes).toMatchObject([
        { type: "lease", lease: { epoch: { number: 1, owner: "o" } } },
        { type: "lease", lease: { epoch: { number: 2, owner: "p" } } },
        { type: "lease", lease: { epoch: { number: 3, owner: "o" } } },
      ]);
    });

    test("is given back by its owner alone; then the next gets it at once", async () => {
      const { store, other } = await open();
      await store.holdLease(claim("o"));
      await store.releaseLease("p");
      expect((await other.holdLease(claim("p"))).held).toBe(false);
      const changes = await told(store, async () => {
        await store.releaseLease("o");
        await store.releaseLease("o");
      });
      expect(changes).toEqual([
        {
          type: "lease",
          lease: { epoch: { number: 1, owner: "o" }, replica: "", gateUrl: "" },
        },
      ]);
      expect(await other.holdLease(claim("p"))).toMatchObject({
        held: true,
        lease: { epoch: { number: 2, owner: "p" } },
      });
      await store.releaseLease("o");
      expect((await store.load()).lease?.replica).toBe("replica of p");
    });

    test("has a number above the one that the claimer names, also while it is held", async () => {
      const store = await openStore();
      const number = async (above: number) => {
        const answer = await store.holdLease(claim("o", { above }));
        return answer.held ? answer.lease.epoch.number : undefined;
      };
      expect(await number(6)).toBe(7);
      expect(await number(6)).toBe(7);
      expect(await number(0)).toBe(7);
      expect(await number(7)).toBe(8);
      expect(await number(epochLimit - 2)).toBe(epochLimit - 1);
    });

    test("names its holder as it is now", async () => {
      const store = await openStore();
      await store.holdLease(claim("o"));
      const moved = await store.holdLease(claim("o", { gateUrl: "http://elsewhere" }));
      expect(moved).toMatchObject({
        held: true,
        lease: { gateUrl: "http://elsewhere", epoch: { number: 2 } },
      });
    });

    test("refuses a number that no epoch has, and a lease without a time", async () => {
      const store = await openStore();
      const bad = [
        { above: -1 },
        { above: 0.5 },
        { above: Number.NaN },
        { above: epochLimit },
        { above: Number.MAX_SAFE_INTEGER },
        { ttlMs: 0 },
        { ttlMs: -5 },
        { ttlMs: 1.5 },
      ];
      for (const changed of bad) {
        await expect(store.holdLease(claim("o", changed))).rejects.toBeInstanceOf(RangeError);
      }
      expect((await store.load()).lease).toBeUndefined();
    });

    test("goes on counting when the store is opened again", async () => {
      const { store, reopen } = await open();
      await store.holdLease(claim("o", { ttlMs: 200 }));
      const again = await reopen();
      await sleep(250);
      expect(await again.holdLease(claim("p"))).toMatchObject({
        held: true,
        lease: { epoch: { number: 2, owner: "p" } },
      });
    });
  });
});
