// The body of a request: kept when it is small enough to be sent again, else streamed once. It promises that
// nothing larger than the limits is ever held, and that a client who asks first is told to go on only when its
// body is wanted.

import type { Job } from "./job.ts";
import type { DoorLimits } from "./parts.ts";

/** Keeps the body when it is small enough to be sent again, else leaves it to be streamed. */
export async function readBody(job: Job, limits: DoorLimits): Promise<"tooLarge" | undefined> {
  const { node } = job.client;
  if (node === undefined) return undefined;
  const { request } = node;
  const declared = request.headers["content-length"];
  if (declared === undefined && request.headers["transfer-encoding"] === undefined)
    return undefined;
  const { bodyLimitBytes, bodyBufferLimitBytes } = limits;
  const length = declared === undefined ? undefined : Number(declared);
  if (length === 0) {
    job.body = emptyBody;
    return undefined;
  }
  if (length !== undefined && length > bodyLimitBytes) {
    return "tooLarge";
  }
  // Only now: what is refused is refused before a byte of its body is sent (RFC 9110, 10.1.1).
  if (request.headers.expect !== undefined && request.httpVersion !== "1.0") {
    node.response.writeContinue();
    job.toldToGoOn = true;
  }
  const pieces: Buffer[] = [];
  let kept = 0;
  const iterator = request.iterator({ destroyOnReturn: false });
  job.bodyIterator = iterator;
  if (length === undefined || length <= bodyBufferLimitBytes) {
    for (;;) {
      const next = await nextPiece(iterator);
      if (next === "gone") {
        job.client.hasLeft = true;
        return undefined;
      }
      if (next === undefined) {
        job.body = pieces.length === 1 ? (pieces[0] ?? emptyBody) : Buffer.concat(pieces);
        return undefined;
      }
      pieces.push(next);
      kept += next.length;
      if (kept > bodyBufferLimitBytes) break;
    }
  }
  job.bodyStream = restOfBody(pieces, iterator, bodyLimitBytes);
  return undefined;
}

const emptyBody = Buffer.alloc(0);

async function nextPiece(iterator: AsyncIterator<Buffer>): Promise<Buffer | undefined | "gone"> {
  try {
    const { done, value } = await iterator.next();
    return done === true ? undefined : value;
  } catch {
    // The client went away in the middle of its body: nobody is left to be told.
    return "gone";
  }
}

/** A body without a declared length turned out to be larger than the limit. */
export class BodyTooLarge extends Error {
  override name = "BodyTooLarge";
  constructor() {
    super("the request's body is too large");
  }
}

/** The same body; tells when it ends by being too large. */
export async function* watchedForSize(
  body: AsyncIterable<Buffer>,
  onTooLarge: () => void,
): AsyncGenerator<Buffer> {
  try {
    yield* body;
  } catch (error) {
    if (error instanceof BodyTooLarge) onTooLarge();
    throw error;
  }
}

async function* restOfBody(
  pieces: readonly Buffer[],
  iterator: AsyncIterator<Buffer>,
  limitBytes: number,
): AsyncGenerator<Buffer> {
  let length = 0;
  for (const piece of pieces) {
    length += piece.length;
    yield piece;
  }
  for (;;) {
    const { done, value } = await iterator.next();
    if (done === true) return;
    length += value.length;
    if (length > limitBytes) throw new BodyTooLarge();
    yield value;
  }
}
