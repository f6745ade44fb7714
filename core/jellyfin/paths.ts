// How Jellyfin would read a request's path. A door that decides by path must see the path as the
// server behind it will, or a guarded route could be reached under another spelling: so this reads
// percent-encoding, dot segments and letter case as Kestrel and ASP.NET routing do. It only reads:
// what is forwarded is the client's own spelling. It never throws, whatever the text.

const slash = 47;
const percent = 37;
const dot = 46;
const questionMark = 63;
const hash = 35;

/**
 * Splits a path into its segments, decoded and without empty ones.
 *
 * `path` is a request target or its path part: origin form or absolute form; anything from `?` on is
 * ignored. A `#` has no place in a request target (RFC 9112 section 3.2) and counts as any other letter.
 * A trailing slash and doubled slashes make no segment. Percent-encoding is decoded once as UTF-8, except
 * `%2F`; what cannot be decoded stays as it is. `.` and `..` are taken out after decoding. (Kestrel's
 * PathDecoder, RFC 3986 section 5.2.4.)
 */
export function pathSegments(path: string): string[] {
  let start = 0;
  const length = path.length;
  if (length > 0 && path.charCodeAt(0) !== slash) start = startOfPath(path);
  const segments: string[] = [];
  let encoded = false;
  let from = start;
  let at = start;
  for (; at <= length; at++) {
    const code = at < length ? path.charCodeAt(at) : questionMark;
    if (code === percent) {
      encoded = true;
    } else if (code === slash || code === questionMark) {
      if (at > from) {
        const raw = path.slice(from, at);
        const segment = encoded ? decodeSegment(raw) : raw;
        if (isDots(segment)) return withoutDots(path.slice(start));
        segments.push(segment);
      }
      if (code !== slash) break;
      from = at + 1;
      encoded = false;
    }
  }
  return segments;
}

/**
 * The segments of a path below `baseSegments` (lower case, from `baseSegmentsOf`), or undefined when the
 * path lies outside of it. Letter case does not matter (BaseUrlRedirectionMiddleware, ASP.NET Map).
 */
export function segmentsBelow(
  segments: string[],
  baseSegments: readonly string[],
): string[] | undefined {
  if (baseSegments.length === 0) return segments;
  if (segments.length < baseSegments.length) return undefined;
  for (let index = 0; index < baseSegments.length; index++) {
    if (segments[index]?.toLowerCase() !== baseSegments[index]) return undefined;
  }
  return segments.slice(baseSegments.length);
}

/** A configured BaseUrl (`/jellyfin`, or empty) as lower-case segments, to be made once. */
export function baseSegmentsOf(basePath: string): readonly string[] {
  return pathSegments(basePath).map((segment) => segment.toLowerCase());
}

/** The path without its BaseUrl: `/jellyfin/Users` and `/jellyfin` give `/Users`; undefined when outside. */
export function withoutBase(path: string, basePath: string): string | undefined {
  if (basePath === "") return path;
  if (path.length < basePath.length) return undefined;
  if (path.slice(0, basePath.length).toLowerCase() !== basePath.toLowerCase()) return undefined;
  if (path.length === basePath.length) return "/";
  const next = path.charCodeAt(basePath.length);
  if (next === slash) return path.slice(basePath.length);
  if (next === questionMark || next === hash) return `/${path.slice(basePath.length)}`;
  return undefined;
}

/** Decodes percent-encoding as Kestrel does for paths: `%2F` and what is not UTF-8 stay as they are. */
export function decodeSegment(text: string): string {
  if (text.indexOf("%") < 0) return text;
  const guarded = text.replace(/%(?=2f)/gi, "%25");
  try {
    return decodeURIComponent(guarded);
  } catch {
    // Text that is malformed in one place is still decoded in the others, as the server does.
    return text.replace(/(?:%[0-9a-f]{2})+/gi, (run) => (/%2f/i.test(run) ? run : decodeRun(run)));
  }
}

/**
 * Decodes a name or value of a query string: `+` is a space, percent-encoding is UTF-8, and what cannot
 * be decoded stays as it is (ASP.NET QueryFeature, Uri.UnescapeDataString).
 */
export function decodeQueryText(text: string): string {
  const spaced = text.indexOf("+") < 0 ? text : text.replaceAll("+", " ");
  if (spaced.indexOf("%") < 0) return spaced;
  try {
    return decodeURIComponent(spaced);
  } catch {
    // Text that is malformed in one place is still decoded in the others, as the server does.
    return spaced.replace(/(?:%[0-9a-f]{2})+/gi, decodeRun);
  }
}

function decodeRun(run: string): string {
  try {
    return decodeURIComponent(run);
  } catch {
    // A run of bytes that is not UTF-8 is kept in its encoded form.
    return run;
  }
}

/** Where the path of an absolute-form target (`http://host/path`) begins; 0 for anything else. */
function startOfPath(target: string): number {
  const scheme = target.indexOf("://");
  if (scheme < 0) return 0;
  const path = target.indexOf("/", scheme + 3);
  return path < 0 ? target.length : path;
}

function isDots(segment: string): boolean {
  return segment.charCodeAt(0) === dot && (segment === "." || segment === "..");
}

/**
 * The segments of a path with `.` and `..` in it, which no client of Jellyfin sends. An empty segment, too,
 * is taken out by a `..` behind it (RFC 3986 section 5.2.4): `/metrics//..` is `/metrics/`.
 */
function withoutDots(path: string): string[] {
  const end = path.indexOf("?");
  const kept: string[] = [];
  for (const raw of (end < 0 ? path : path.slice(0, end)).split("/").slice(1)) {
    const segment = decodeSegment(raw);
    if (segment === "..") kept.pop();
    else if (segment !== ".") kept.push(segment);
  }
  return kept.filter((segment) => segment !== "");
}
