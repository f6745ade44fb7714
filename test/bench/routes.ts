// What the bench asks for: the paths of its measured requests and the words of its one login. They are
// requests as Jellyfin's clients make them, because a proxy that knows Jellyfin treats them by kind.

export const userId = "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";
export const itemId = "f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1";
const playSessionId = "c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2";

/** Two spellings of the header that every client of Jellyfin sends: before and after it has a token. */
export function authorization(deviceId: string, token?: string): string {
  const device = `MediaBrowser Client="Jellyfin Web", Device="Bench", DeviceId="${deviceId}", Version="12.0.0"`;
  return token === undefined ? device : `${device}, Token="${token}"`;
}

/** The small request: one item's JSON, about 1 KB. */
export const smallPath = `/Items/${itemId}?userId=${userId}`;

/** Direct play of the whole file. */
export function moviePath(token: string): string {
  return `/Videos/${itemId}/stream.mkv?static=true&mediaSourceId=${itemId}&ApiKey=${token}`;
}

/** One segment of a video that is sent as HLS. */
export function segmentPath(viewer: number, segment: number, token: string): string {
  const play = playSessionId.slice(0, -2) + viewer.toString(16).padStart(2, "0");
  const query = `DeviceId=bench-${viewer}&MediaSourceId=${itemId}&PlaySessionId=${play}&ApiKey=${token}`;
  return `/Videos/${itemId}/hls1/main/${segment}.ts?${query}&runtimeTicks=${segment * 60_000_000}`;
}

export function socketPath(deviceId: string, token: string): string {
  return `/socket?ApiKey=${token}&deviceId=${deviceId}`;
}
