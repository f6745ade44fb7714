// Request bodies too large to keep: streamed to one replica as they come, through undici. Such a request
// cannot be repeated once its first byte has gone.

import { Readable } from "node:stream";
import type { ResponseHead } from "../../core/jellyfin/wire.ts";
import type { HeldReply } from "../client.ts";
import type { LaneOutcome } from "./relay.ts";

export interface Upload {
  readonly method: string;
  readonly path: string;
  /** Name, value, name, value …, Content-Length included where it is known. */
  readonly headers: readonly string[];
  readonly body: AsyncIterable<Buffer>;
  readonly connectLimitMs: number;
  /** An answer larger than this is a failure: what answers an upload is small. */
  readonly answerLimitBytes: number;
  readonly signal: AbortSignal;
}

/** Streams an upload to `origin` and answers with the whole reply in hand. */
export async function upload(origin: string, request: Upload): Promise<LaneOutcome> {
  let hasBegun = false;
  // Imported with the first upload: few doors ever carry one, and its package is a tenth of their memory.
  const { Pool } = await import("undici");
  const pool = new Pool(origin, { connections: 1, connect: { timeout: request.connectLimitMs } });
  try {
    const response = await pool.request({
      method: request.method as "POST",
      path: request.path,
      headers: [...request.headers],
      body: Readable.from(
        watched(request.body, () => {
          hasBegun = true;
        }),
      ),
      signal: request.signal,
      headersTimeout: 0,
      bodyTimeout: 0,
      responseHeaders: "raw",
    });
    const pieces: Buffer[] = [];
    let length = 0;
    for await (const piece of response.body) {
      length += (piece as Buffer).length;
      if (length > request.answerLimitBytes) {
        return { kind: "brokeDuringReply", why: "its answer is too large", sent: false };
      }
      pieces.push(piece as Buffer);
    }
    const raw = response.headers as unknown as readonly (string | Buffer)[];
    const headers = raw.map(String);
    const head: ResponseHead = {
      status: response.statusCode,
      statusText: response.statusText,
      headers: withoutConnectionHeaders(headers),
      contentLength: length,
      hasBody: response.statusCode !== 204 && response.statusCode !== 304,
    };
    const reply: HeldReply = { head, body: Buffer.concat(pieces) };
    return { kind: "answered", reply };
  } catch (error) {
    if (request.signal.aborted) return { kind: "clientLeft" };
    const why =
      error instanceof Error && "code" in error ? String(error.code) : "the upload failed";
    return hasBegun ? { kind: "brokeBeforeReply", why } : { kind: "notConnected", why };
  } finally {
    await pool.close().catch(() => pool.destroy());
  }
}

async function* watched(body: AsyncIterable<Buffer>, onBegun: () => void): AsyncGenerator<Buffer> {
  for await (const piece of body) {
    onBegun();
    yield piece;
  }
}

function withoutConnectionHeaders(headers: readonly string[]): string[] {
  const kept: string[] = [];
  for (let index = 0; index < headers.length; index += 2) {
    const name = headers[index] ?? "";
    switch (name.toLowerCase()) {
      case "connection":
      case "keep-alive":
      case "transfer-encoding":
      case "content-length":
      case "upgrade":
      case "trailer":
      case "proxy-authenticate":
        break;
      default:
        kept.push(name, headers[index + 1] ?? "");
    }
  }
  return kept;
}
