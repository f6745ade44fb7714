// Which heads the door reads itself, and that everything else is left to Node's parser: a head that two
// programs could read differently must never be among the first.

import { describe, expect, test } from "vitest";
import { readPlain } from "../../../proxy/plain.ts";

const lines = "Host: door:8080\r\nAccept: */*\r\nConnection: keep-alive\r\n";
const head = (first: string, headers = lines): string => `${first}\r\n${headers}\r\n`;

describe("a plain head", () => {
  test("tells method, target, and headers in both forms", () => {
    const request = readPlain(head("GET /Items?userId=1 HTTP/1.1"), undefined);
    expect(request).toMatchObject({ method: "GET", url: "/Items?userId=1" });
    expect(request?.block.rawHeaders).toEqual([
      ...["Host", "door:8080", "Accept", "*/*", "Connection", "keep-alive"],
    ]);
    expect(request?.block.headers.accept).toBe("*/*");
    expect(request?.block.closes).toBe(false);
  });

  test("is taken for what the connection said before only where the lines are the same", () => {
    const first = readPlain(head("GET /a HTTP/1.1"), undefined)?.block;
    expect(readPlain(head("HEAD /b HTTP/1.1"), first)?.block).toBe(first);
    const other = readPlain(head("GET /a HTTP/1.1", `${lines}Cookie: a=b\r\n`), first);
    expect(other?.block).not.toBe(first);
    expect(other?.block.headers.cookie).toBe("a=b");
  });

  test("that asks for it closes its connection", () => {
    const closing = head("GET / HTTP/1.1", "Host: door\r\nConnection: Close\r\n");
    expect(readPlain(closing, undefined)?.block.closes).toBe(true);
  });
});

describe("left to Node's parser is", () => {
  const first = "GET / HTTP/1.1";
  test.each([
    ["another method", head("POST / HTTP/1.1")],
    ["another version", head("GET / HTTP/1.0")],
    ["a target that is no path", head("GET http://door/ HTTP/1.1")],
    ["a target with a blank", head("GET /a b HTTP/1.1")],
    ["a target with a fragment", head("GET /a#b HTTP/1.1")],
    ["a target beyond ASCII", head("GET /\xe4 HTTP/1.1")],
    ["a head that is not whole", `${first}\r\n${lines}`],
    ["something behind the head", `${head(first)}G`],
    ["a second head behind the first", head(first) + head(first)],
    ["no Host", head(first, "Accept: */*\r\n")],
    ["two Hosts", head(first, `${lines}Host: other\r\n`)],
    ["a Host that is none", head(first, "Host: a b\r\n")],
    ["any header twice", head(first, `${lines}Accept: text/html\r\n`)],
    ["a length", head(first, `${lines}Content-Length: 0\r\n`)],
    ["a transfer coding", head(first, `${lines}Transfer-Encoding: chunked\r\n`)],
    ["an expectation", head(first, `${lines}Expect: 100-continue\r\n`)],
    ["an upgrade", head(first, "Host: door\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")],
    ["a folded line", head(first, `${lines} more\r\n`)],
    ["a line that ends in LF alone", head(first, `${lines}A: b\nC: d\r\n`)],
    ["a name with a blank before its colon", head(first, `${lines}A : b\r\n`)],
    ["a value with a control character", head(first, `${lines}A: b\0c\r\n`)],
    ["more headers than honest clients send", head(first, lines + many(65))],
  ])("%s", (_, text) => {
    expect(readPlain(text, undefined)).toBeUndefined();
  });
});

function many(count: number): string {
  return Array.from({ length: count }, (_, index) => `X-${index}: y\r\n`).join("");
}
