/**
 * A file as ASP.NET's PhysicalFileResult sends it: ranges, Last-Modified and no ETag. The rules are those of
 * FileResultHelper and RangeHelper in ASP.NET Core: more than one range means the whole file, If-Range counts only by
 * date, an unsatisfiable range is 416 with the length, and the conditional headers are weighed before the range.
 */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import type { IncomingHttpHeaders, ServerResponse } from "node:http";
import { extname } from "node:path";

const TYPES: Record<string, string> = {
  ".mp4": "video/mp4",
  ".mkv": "video/x-matroska",
  ".ts": "video/mp2t",
  ".webm": "video/webm",
  ".jpg": "image/jpeg",
  ".png": "image/png",
  ".srt": "application/x-subrip",
  ".html": "text/html",
  ".js": "text/javascript",
  ".bin": "application/octet-stream",
};

export function contentTypeOf(path: string): string {
  return TYPES[extname(path).toLowerCase()] ?? "application/octet-stream";
}

export type ByteRange = { readonly first: number; readonly last: number };

/**
 * The one range a Range header asks for: a range, "whole" where the header is ignored, or "unsatisfiable".
 * @param length the file's length in bytes.
 */
export function chooseRange(
  header: string | undefined,
  length: number,
): ByteRange | "whole" | "unsatisfiable" {
  if (header === undefined || header.includes(",")) return "whole";
  // Any unit's name will do, as for ASP.NET's RangeHelper (tried: "lines=0-1" gives two bytes).
  const match = /^\s*[\w-]+\s*=\s*(\d*)\s*-\s*(\d*)\s*$/.exec(header);
  if (match === null || (match[1] === "" && match[2] === "")) return "whole";
  if (length === 0) return "unsatisfiable";
  const [, from = "", to = ""] = match;
  if (from === "") {
    const suffix = Number(to);
    if (suffix === 0) return "unsatisfiable";
    return { first: Math.max(0, length - suffix), last: length - 1 };
  }
  const first = Number(from);
  if (to !== "" && Number(to) < first) return "whole";
  if (first >= length) return "unsatisfiable";
  return { first, last: to === "" ? length - 1 : Math.min(Number(to), length - 1) };
}

/** What the conditional headers decide, with ASP.NET's order: 412 outweighs 304 outweighs going on. */
function precondition(headers: IncomingHttpHeaders, modifiedMs: number): 200 | 304 | 412 {
  const unmodifiedSince = Date.parse(headers["if-unmodified-since"] ?? "");
  if (!Number.isNaN(unmodifiedSince) && unmodifiedSince < modifiedMs) return 412;
  const modifiedSince = Date.parse(headers["if-modified-since"] ?? "");
  if (!Number.isNaN(modifiedSince) && modifiedSince >= modifiedMs) return 304;
  return 200;
}

/** An If-Range with a date older than the file voids the range; an If-Range with an ETag has nothing to compare. */
function rangeStillValid(headers: IncomingHttpHeaders, modifiedMs: number): boolean {
  const ifRange = headers["if-range"];
  if (typeof ifRange !== "string" || /^(W\/)?"/.test(ifRange)) return true;
  const date = Date.parse(ifRange);
  return Number.isNaN(date) || modifiedMs <= date;
}

/**
 * Sends a file. Resolves when the head is written and the body is on its way (or there is none); a file that is not
 * there is "missing" and nothing was sent. A client that leaves closes the file.
 */
export async function sendFile(
  headers: IncomingHttpHeaders,
  method: string,
  response: ServerResponse,
  path: string,
  options: { type?: string; ranges?: boolean; extra?: Record<string, string> } = {},
): Promise<"sent" | "missing"> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined || !info.isFile()) return "missing";
  const modifiedMs = Math.floor(info.mtimeMs / 1000) * 1000;
  const reply: Record<string, string | number> = {
    "content-type": options.type ?? contentTypeOf(path),
    "last-modified": new Date(modifiedMs).toUTCString(),
    ...options.extra,
  };
  const ranges = options.ranges ?? true;
  if (ranges) reply["accept-ranges"] = "bytes";
  const state = precondition(headers, modifiedMs);
  if (state !== 200) {
    response.writeHead(state, reply).end();
    return "sent";
  }
  const range =
    ranges && rangeStillValid(headers, modifiedMs)
      ? chooseRange(headers.range, info.size)
      : "whole";
  if (range === "unsatisfiable") {
    reply["content-range"] = `bytes */${info.size}`;
    reply["content-length"] = 0;
    response.writeHead(416, reply).end();
    return "sent";
  }
  const first = range === "whole" ? 0 : range.first;
  const last = range === "whole" ? info.size - 1 : range.last;
  reply["content-length"] = last - first + 1;
  if (range !== "whole") reply["content-range"] = `bytes ${first}-${last}/${info.size}`;
  response.writeHead(range === "whole" ? 200 : 206, reply);
  if (method === "HEAD" || last < first) {
    response.end();
    return "sent";
  }
  const file = createReadStream(path, { start: first, end: last, highWaterMark: 256 * 1024 });
  file.on("error", () => response.destroy());
  response.on("close", () => file.destroy());
  file.pipe(response);
  return "sent";
}
