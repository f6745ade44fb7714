// What is kept of what a device says of itself, and what of a note is believed.

import { describe, expect, test } from "vitest";
import {
  capabilitiesNoteValue,
  heardBy,
  readCapabilities,
  sessionAsked,
  withoutSession,
} from "../../../core/cluster/capabilities.ts";

const full = "/Sessions/Capabilities/Full";
const short = "/Sessions/Capabilities";

/** Written down and read again. */
function kept(pattern: string, query: string, body?: unknown) {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const value = capabilitiesNoteValue(pattern, query, text, "a");
  return value === undefined ? undefined : readCapabilities(value);
}

describe("what a device says of itself", () => {
  test("a whole description is repeated with the fields that Jellyfin reads, in any letter case", () => {
    const known = kept(full, "", {
      playableMediaTypes: ["Video"],
      SupportedCommands: "DisplayMessage,Mute",
      SupportsMediaControl: true,
      DeviceProfile: { MaxStreamingBitrate: 1 },
      AccessToken: "secret",
    });
    expect(known?.replica).toBe("a");
    expect(known?.request).toEqual({
      path: full,
      body: {
        PlayableMediaTypes: ["Video"],
        SupportedCommands: ["DisplayMessage", "Mute"],
        SupportsMediaControl: true,
        DeviceProfile: { MaxStreamingBitrate: 1 },
      },
    });
  });

  test("a short description is repeated as a query, without the token that was in it", () => {
    const query = "playableMediaTypes=Video,Audio&supportsMediaControl=True&api_key=secret";
    const path = kept(short, query)?.request.path ?? "";
    expect(path).toBe(`${short}?PlayableMediaTypes=Video%2CAudio&SupportsMediaControl=true`);
  });

  test("what is said for another session is known by its id in the query, in any letter case", () => {
    expect(sessionAsked("ID=ABC&x=1")).toBe("abc");
    expect(sessionAsked("iD=abc&id=def")).toBe("abc");
    expect(sessionAsked("id=%20&x=1")).toBeUndefined();
    expect(withoutSession("Id=abc&playableMediaTypes=Video")).toBe("playableMediaTypes=Video");
  });

  test("a link with a query is not kept, since a token could be in it", () => {
    const known = kept(full, "", {
      IconUrl: "http://it/i.png?api_key=secret",
      AppStoreUrl: "http://it",
    });
    expect(known?.request.body).toEqual({ AppStoreUrl: "http://it" });
  });

  test.each([
    ["about another session", full, "id=0123", { SupportsMediaControl: true }],
    ["that is no object", full, "", [1]],
    ["without a body", full, "", undefined],
    ["longer than a note", full, "", { DeviceProfile: { Name: "x".repeat(70_000) } }],
  ])("nothing is kept of one %s", (_, pattern, query, body) => {
    expect(kept(pattern, query, body)).toBeUndefined();
  });
});

describe("a note", () => {
  test("tells who heard it last", () => {
    const value = capabilitiesNoteValue(short, "supportsMediaControl=true", undefined, "a") ?? "";
    expect(readCapabilities(heardBy(value, "b") ?? "")?.replica).toBe("b");
  });

  test.each([
    "",
    "null",
    "[]",
    "{",
    '{"replica":1,"body":{}}',
    '{"replica":"a"}',
    '{"replica":"a","body":[]}',
  ])("of another shape is not believed: %s", (value) => {
    expect(readCapabilities(value)).toBeUndefined();
  });

  test("cannot name a path, a parameter or a command that is not a word", () => {
    const value = JSON.stringify({
      replica: "a",
      path: "/System/Shutdown",
      query: { path: "/x", SupportedCommands: ["Mute", "a&b=c", "\r\nX: y", 7] },
    });
    expect(readCapabilities(value)?.request.path).toBe(`${short}?SupportedCommands=Mute`);
  });
});
