// What the cluster key promises: nothing sealed opens elsewhere, nothing proven holds twice.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createSeal, proofHeaderName } from "../../core/service/seal.ts";

const key = "a cluster key of some length";
const seal = createSeal(key);

describe("sealed text", () => {
  test("opens to what was sealed, whatever the characters", () => {
    const text = fc.string({ unit: "grapheme" });
    fc.assert(
      fc.property(text, text, (plaintext, context) => {
        expect(seal.open(seal.seal(plaintext, context), context)).toBe(plaintext);
      }),
    );
  });

  test("is opened by another process with the same cluster key", () => {
    expect(createSeal(key).open(seal.seal("token", "context"), "context")).toBe("token");
  });

  test("does not open in another context or under another key", () => {
    const sealed = seal.seal("token", "token\nkey\n1\na");
    expect(seal.open(sealed, "token\nkey\n2\na")).toBeUndefined();
    expect(seal.open(sealed, "token\nkey\n1\nb")).toBeUndefined();
    expect(createSeal(`${key}!`).open(sealed, "token\nkey\n1\na")).toBeUndefined();
  });

  test("does not open when any one character of it was changed or cut", () => {
    const sealed = seal.seal("some token", "context");
    for (let index = 0; index < sealed.length; index += 1) {
      const other = sealed[index] === "A" ? "Q" : "A";
      const changed = sealed.slice(0, index) + other + sealed.slice(index + 1);
      expect(seal.open(changed, "context")).toBeUndefined();
      expect(seal.open(sealed.slice(0, index), "context")).toBeUndefined();
    }
  });

  test("is different each time and does not contain the plaintext", () => {
    const first = seal.seal("plaintext", "context");
    expect(first).not.toBe(seal.seal("plaintext", "context"));
    expect(Buffer.from(first.slice(3), "base64url").toString("latin1")).not.toContain("plaintext");
  });

  test("never throws on text that was never sealed", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(seal.open(text, "context")).toBeUndefined();
        expect(seal.open(`v1.${text}`, "context")).toBeUndefined();
      }),
    );
  });
});

describe("a cluster key", () => {
  test("of fewer than 16 characters is refused without being shown", () => {
    expect(() => createSeal("fifteen-letters")).toThrow(/at least 16/);
    expect(() => createSeal("fifteen-letters")).not.toThrow(/fifteen-letters/);
    expect(() => createSeal("sixteen--letters")).not.toThrow();
  });
});

describe("a MAC", () => {
  test("holds for its parts and for no others, wherever they are divided", () => {
    const mac = seal.mac("ab", "c");
    expect(seal.verifyMac(mac, "ab", "c")).toBe(true);
    for (const parts of [["a", "bc"], ["abc"], ["ab", "c", ""], ["c", "ab"], []]) {
      expect(seal.verifyMac(mac, ...parts)).toBe(false);
    }
    expect(createSeal(`${key}!`).verifyMac(mac, "ab", "c")).toBe(false);
    expect(seal.verifyMac("", "ab", "c")).toBe(false);
  });

  test("is not a proof, though both are made over the same parts", () => {
    const request = { method: "POST", path: "/x", body: "" };
    const proof = seal.proof(request, 1000, "0123456789abcdef");
    const mac = seal.mac("POST", "/x", "", "1000", "0123456789abcdef");
    expect(proof.split(".").at(-1)).not.toBe(mac.split(".").at(-1));
  });
});

describe("a proof", () => {
  const request = { method: "POST", path: "/mint?x=1", body: '{"a":1}' };
  const nonce = (number: number): string => `nonce-of-a-test-${number}`;
  const verifierAt = (clock: { nowMs: number }, noncesKept = 100) =>
    seal.createProofVerifier({ windowMs: 30_000, noncesKept, now: () => clock.nowMs });

  test("holds once", () => {
    const verifier = verifierAt({ nowMs: 1_000_000 });
    const proof = seal.proof(request, 1_000_000, nonce(1));
    expect(verifier.verify(proof, request)).toBeNull();
    expect(verifier.verify(proof, request)).toBe("the proof was used before");
  });

  test("made by proofHeaders holds now, also over bytes", () => {
    const verifier = seal.createProofVerifier({ windowMs: 30_000, noncesKept: 9, now: Date.now });
    const headers = seal.proofHeaders("post", "/mint", "body");
    const bytes = { method: "POST", path: "/mint", body: Buffer.from("body") };
    expect(verifier.verify(headers[proofHeaderName], bytes)).toBeNull();
  });

  test.each([
    ["method", { ...request, method: "DELETE" }],
    ["path", { ...request, path: "/mint?x=2" }],
    ["body", { ...request, body: '{"a":2}' }],
    ["body and path together", { ...request, path: '/mint?x=1{"a', body: '":1}' }],
  ])("does not hold for another %s", (_what, other) => {
    const verifier = verifierAt({ nowMs: 1_000_000 });
    const reason = "the proof is not one of this request under this cluster key";
    expect(verifier.verify(seal.proof(request, 1_000_000, nonce(1)), other)).toBe(reason);
  });

  test("does not hold when its time or nonce was changed, or under another key", () => {
    const verifier = verifierAt({ nowMs: 1_000_000 });
    const proof = seal.proof(request, 1_000_000, nonce(1));
    expect(verifier.verify(proof.replace("1000000", "1000001"), request)).toMatch(/is not one/);
    expect(verifier.verify(proof.replace(nonce(1), nonce(2)), request)).toMatch(/is not one/);
    const foreign = createSeal(`${key}!`).proof(request, 1_000_000, nonce(1));
    expect(verifier.verify(foreign, request)).toMatch(/is not one/);
  });

  test("does not hold before or after its window", () => {
    const verifier = verifierAt({ nowMs: 1_000_000 });
    const at = (timeMs: number) => seal.proof(request, timeMs, nonce(timeMs));
    expect(verifier.verify(at(969_999), request)).toBe(
      "the proof is 30001 ms old and may be 30000",
    );
    expect(verifier.verify(at(1_030_001), request)).toMatch(/30001 ms ahead/);
    expect(verifier.verify(at(970_000), request)).toBeNull();
    expect(verifier.verify(at(1_030_000), request)).toBeNull();
  });

  test("cannot be used again at any later time, also when it was made ahead of the clock", () => {
    const clock = { nowMs: 1_000_000 };
    const verifier = verifierAt(clock);
    const proof = seal.proof(request, 1_030_000, nonce(1));
    expect(verifier.verify(proof, request)).toBeNull();
    for (; clock.nowMs < 1_070_000; clock.nowMs += 1000) {
      expect(verifier.verify(proof, request)).not.toBeNull();
    }
  });

  test("is refused while too many are remembered, and accepted when they may be forgotten", () => {
    const clock = { nowMs: 1_000_000 };
    const verifier = verifierAt(clock, 2);
    const next = (number: number) => seal.proof(request, clock.nowMs, nonce(number));
    expect(verifier.verify(next(1), request)).toBeNull();
    expect(verifier.verify(next(2), request)).toBeNull();
    expect(verifier.verify(next(3), request)).toBe("too many proofs came within the window");
    clock.nowMs += 60_001;
    expect(verifier.verify(next(4), request)).toBeNull();
  });

  test("that is none is refused without a throw", () => {
    const verifier = verifierAt({ nowMs: 1_000_000 });
    expect(verifier.verify(undefined, request)).toBe("the request carries no proof");
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(verifier.verify(text, request)).not.toBeNull();
      }),
    );
  });
});
