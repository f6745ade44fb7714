// What a media request plays: pure readings of stream, playlist and segment URLs, and the arithmetic
// of byte ranges with which a broken body is continued from another replica.

export interface PlaybackQuery {
  readonly playSessionId: string | undefined;
  readonly deviceId: string | undefined;
  readonly mediaSourceId: string | undefined;
  readonly liveStreamId: string | undefined;
  readonly tag: string | undefined;
  readonly secret: string | undefined;
  readonly code: string | undefined;
  readonly userId: string | undefined;
  /** `static=true` in any letter case: the file itself, not an encode. */
  readonly isStatic: boolean;
}
export declare function readPlaybackQuery(rawQuery: string): PlaybackQuery;
/** First value of a query parameter by name (any letter case), decoded; undefined when absent. */
export declare function queryValue(rawQuery: string, name: string): string | undefined;
export interface SegmentRequest {
  readonly itemId: string;
  readonly playlistId: string;
  /** -1 is the init segment of fMP4. */
  readonly number: number;
  readonly container: string;
}
export declare function segmentOf(params: {
  readonly itemId?: string;
  readonly playlistId?: string;
  readonly segmentId?: string;
  readonly container?: string;
}): SegmentRequest | undefined;
/** Same bytes, same key: path and query without the token, name order and letter case. */
export declare function segmentKey(path: string, rawQuery: string, userAgent: string): string;
/** True when a PlaybackInfo request may open a live stream, and so may not be sent twice. */
export declare function mayOpenLiveStream(rawQuery: string, body: string): boolean;

export interface ByteRange {
  readonly first: number | undefined;
  readonly last: number | undefined;
  readonly suffixLength: number | undefined;
}
export interface ContentRange {
  readonly first: number;
  readonly last: number;
  /** undefined: `*`. */
  readonly total: number | undefined;
}
export declare function parseRange(value: string | undefined): ByteRange | undefined;
export declare function parseContentRange(value: string | undefined): ContentRange | undefined;
export interface ReplyHead {
  readonly status: number;
  readonly contentLength: number | undefined;
  readonly contentRange: string | undefined;
  readonly lastModified: string | undefined;
  readonly contentEncoding?: string | undefined;
}
export interface Continuation {
  /** Value of the `Range` header to ask with. */
  readonly range: string;
  readonly first: number;
  readonly last: number;
  readonly total: number;
  readonly lastModified: string | undefined;
}
/** What to ask another replica for after `sentBytes` of this body; undefined when it cannot be continued. */
export declare function continuation(
  original: ReplyHead,
  sentBytes: number,
): Continuation | undefined;
/** null when the reply goes on with the same file at the right byte, else why not. */
export declare function continues(reply: ReplyHead, expected: Continuation): string | null;
