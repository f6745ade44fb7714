// Which heads the door answers alone: those that no two programs read alike, though Node's parser lets them
// through.

import { describe, expect, test } from "vitest";
import { headProblem } from "../../../proxy/facts.ts";

interface Head {
  readonly method?: string;
  readonly url?: string;
  readonly httpVersion?: string;
  readonly rawHeaders?: readonly string[];
}

function statusOf({ method = "GET", url = "/", httpVersion = "1.1", rawHeaders }: Head): number {
  const raw = rawHeaders ?? ["Host", "door"];
  const headers: Record<string, string> = {};
  for (let index = 0; index < raw.length; index += 2) {
    const name = (raw[index] ?? "").toLowerCase();
    const value = raw[index + 1] ?? "";
    // As Node joins them: the first Host counts, codings are listed.
    if (name === "host") headers[name] ??= value;
    else headers[name] = headers[name] === undefined ? value : `${headers[name]}, ${value}`;
  }
  return headProblem({ method, url, httpVersion, rawHeaders: raw, headers })?.status ?? 200;
}

describe("a request's head", () => {
  test.each<[string, Head, number]>([
    ["a plain one", {}, 200],
    ["an empty Host", { rawHeaders: ["Host", ""] }, 200],
    ["a Host with a port", { rawHeaders: ["Host", "media.example:8096"] }, 200],
    ["an address of IPv6 with a port", { rawHeaders: ["Host", "[fe80::1]:8096"] }, 200],
    ["an old one without a Host", { httpVersion: "1.0", rawHeaders: [] }, 200],
    ["one in chunks", { rawHeaders: ["Host", "a", "Transfer-Encoding", "Chunked"] }, 200],
    ["no Host", { rawHeaders: [] }, 400],
    ["two Hosts", { rawHeaders: ["Host", "a", "hOST", "a"] }, 400],
    ["a Host with a path", { rawHeaders: ["Host", "a/b"] }, 400],
    ["a Host with a user", { rawHeaders: ["Host", "a@b"] }, 400],
    ["a version that is not ours", { httpVersion: "2.0" }, 400],
    ["another coding", { rawHeaders: ["Host", "a", "Transfer-Encoding", "gzip, chunked"] }, 400],
    [
      "chunked twice",
      {
        rawHeaders: ["Host", "a", "Transfer-Encoding", "chunked", "Transfer-Encoding", "chunked"],
      },
      400,
    ],
    [
      "an old one in chunks",
      { httpVersion: "1.0", rawHeaders: ["Transfer-Encoding", "chunked"] },
      400,
    ],
    ["a target that is no path", { url: "http://door/" }, 400],
    ["a fragment", { url: "/a#b" }, 400],
    ["TRACE", { method: "TRACE" }, 405],
    ["too many headers", { rawHeaders: ["Host", "a", ...Array<string>(1002).fill("x")] }, 431],
  ])("%s", (_name, head, status) => {
    expect(statusOf(head)).toBe(status);
  });
});
