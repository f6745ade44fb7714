// The table of Jellyfin's routes: for every request path, what it is and what it needs. This is the
// project's central table (design, section 4): who must answer, whether the request may be sent again,
// whose word is final, what it changes and what it ends.
// It promises a row for every route of Jellyfin 12.0 that changes something, for every reading route
// that is more than a plain question, and one default each for what it does not know.

import { pathSegments, segmentsBelow } from "./paths.ts";

/** What a request is about. One kind may have several routes (new spelling, old spelling). */
export type RouteKind =
  // What no user owns.
  | "web"
  | "health"
  | "ping"
  | "clock"
  | "metrics"
  | "publicSystemInfo"
  | "publicUsers"
  | "branding"
  // Plain questions and plain changes.
  | "read"
  | "write"
  | "options"
  | "socket"
  | "systemInfo"
  | "currentUser"
  | "sessions"
  | "displayPreferences"
  | "userConfiguration"
  | "bitrateTest"
  // Media.
  | "image"
  | "stream"
  | "universal"
  | "download"
  | "masterPlaylist"
  | "mainPlaylist"
  | "livePlaylist"
  | "liveList"
  | "segment"
  | "liveSegment"
  | "liveStreamFile"
  | "recordingFile"
  | "subtitle"
  | "subtitlePlaylist"
  | "trickplay"
  | "trickplayPlaylist"
  | "attachment"
  | "font"
  | "playbackInfo"
  | "liveStreamOpen"
  | "liveStreamClose"
  | "stopEncodings"
  // What a viewer did.
  | "playStart"
  | "playProgress"
  | "playStopped"
  | "playPing"
  | "played"
  | "favourite"
  | "rating"
  | "userData"
  | "viewing"
  | "capabilities"
  // Who somebody is.
  | "login"
  | "quickConnectLogin"
  | "quickConnectEnabled"
  | "quickConnectInitiate"
  | "quickConnectState"
  | "quickConnectAuthorize"
  | "logout"
  | "password"
  | "passwordForgotten"
  | "passwordPin"
  | "devices"
  | "apiKeys"
  | "user"
  | "userPolicy"
  | "userImage"
  // Together and at a distance.
  | "sessionCommand"
  | "syncPlay"
  | "syncPlayList"
  // The catalog and the server itself.
  | "playlist"
  | "collection"
  | "metadata"
  | "library"
  | "configuration"
  | "plugin"
  | "task"
  | "television"
  | "recorder"
  | "tuner"
  | "backup"
  | "restart"
  | "shutdown"
  | "startup";

/** How its bytes go (design, section 4: three lanes; a playlist and a segment are special cases of two). */
export type Lane = "message" | "playlist" | "bytes" | "segment" | "socket";

/**
 * What the request is bound to, before the home of its user is asked.
 *
 * - `home`               nothing but its user (then play session, device, cookie)
 * - `anyone`             nobody: any ready replica can answer
 * - `item`               the item in the path (a rendezvous hash when there is no user)
 * - `playSession`        the play named by `PlaySessionId` in query or body, when that play has a pin of its own
 * - `liveStream`         the open live stream named by `LiveStreamId` (query, body) or `streamId` (path)
 * - `liveList`           the list of live segments named by `playlistId`, known to the server that made it
 * - `channel`            the television channel or tuner it may open
 * - `recorder`           the replica that keeps timers and records
 * - `quickConnectSecret` `secret` in query or body
 * - `quickConnectCode`   `code` in the query
 * - `syncPlay`           the group of the caller's session
 * - `targetSession`      `sessionId` in the path: the replica that holds that session's socket
 * - `userName`           `Username` or `EnteredUsername` in the body; a PIN belongs to the flow that was begun
 * - `userInPath`         `userId` in the path, which is also who is meant
 * - `apiKeyLeader`       API keys: the leader's replica
 */
export type BoundTo =
  | "home"
  | "anyone"
  | "item"
  | "playSession"
  | "liveStream"
  | "liveList"
  | "channel"
  | "recorder"
  | "quickConnectSecret"
  | "quickConnectCode"
  | "syncPlay"
  | "targetSession"
  | "userName"
  | "userInPath"
  | "apiKeyLeader";

/**
 * - `yes`        doing it twice is the same as once: it may be sent again, also elsewhere
 * - `ifNotSent`  it may go elsewhere only while none of its bytes was sent
 * - `no`         it is meant for one server or one memory: once, and never to another than the one it is bound to
 */
export type Repeatable = "yes" | "ifNotSent" | "no";

/**
 * - `final`     401, 403 and 404 are shown as they are: login, PIN, QuickConnect
 * - `doubt401`  a 401 for a known token is one replica's opinion; 403 and 404 are shown
 * - `doubt404`  so is a 401, and a 404 is shown only when every ready replica that may have it said so
 *
 * A changed password is `doubt401`: Jellyfin answers a wrong current password with 403, so a 401 there is
 * only about the token (UserController.UpdateUserPassword).
 */
export type AnswerRule = "final" | "doubt401" | "doubt404";

/** Which part of a user's data on items the request means to change. */
export type IntentKind = "none" | "playReport" | "played" | "favourite" | "rating" | "userData";

/**
 * Which tokens end when it succeeds (jellyfin facts: everything that creates or destroys tokens).
 *
 * - `identity`        the caller's own (logout)
 * - `device`          all of the device named by `id` in the query
 * - `userOthers`      all of the user but the caller's (password changed; not when the body says `ResetPassword`)
 * - `user`            all of the user in the path
 * - `userIfDisabled`  all of the user in the path but the caller's, when the body says `IsDisabled`
 * - `apiKey`          the API key in the path
 */
export type Ends =
  | "none"
  | "identity"
  | "device"
  | "userOthers"
  | "user"
  | "userIfDisabled"
  | "apiKey";

/** What of its answer the door has to read. */
export type Gives =
  | "none"
  | "authenticationResult"
  | "quickConnectRequest"
  | "quickConnectEnabled"
  | "playbackInfo"
  | "liveStream"
  | "systemInfo"
  | "sessions"
  | "groups"
  | "passwordReset"
  | "apiKeys";

/**
 * - `refuse`         never through this door
 * - `adminOnly`      only with the token of an administrator, whatever the caller's address
 * - `startupWizard`  refused once the wizard of any replica is complete
 */
export type Guard = "none" | "refuse" | "adminOnly" | "startupWizard";

export type Method = "GET" | "HEAD" | "POST" | "DELETE" | "PUT" | "PATCH" | "OPTIONS";

export interface Route {
  /** `GET` also stands for `HEAD`. */
  readonly methods: readonly Method[];
  /** As in Jellyfin's sources; `{name}` is a parameter, `{*rest}` everything that follows. */
  readonly pattern: string;
  readonly kind: RouteKind;
  readonly lane: Lane;
  /** Jellyfin answers it without any token. */
  readonly anonymous: boolean;
  readonly boundTo: BoundTo;
  /** It needs one order over all replicas: only the leader's replica takes it, and never in failsafe. */
  readonly needsLeader: boolean;
  readonly repeatable: Repeatable;
  /** Whether it may be repeated depends on query and body: ask `repeatableFor` (playback.ts). */
  readonly repeatableDepends: boolean;
  /**
   * What it does lives only in its server's memory, or is worth nothing to anybody who was not told of it, as a
   * token. A server that has died took it along, so after its death (not after mere silence) even a request that is
   * not repeatable may be sent to another.
   */
  readonly diesWithServer: boolean;
  /** The name in the body (any letter case) of what it is bound to, or of what decides `ends`. */
  readonly bodyName: string | undefined;
  readonly answer: AnswerRule;
  readonly intent: IntentKind;
  readonly ends: Ends;
  readonly gives: Gives;
  readonly guard: Guard;
  /** It changes something on the server (for a GET: a side effect such as a started ffmpeg or a new row). */
  readonly changes: boolean;
  /** False for the two defaults. */
  readonly known: boolean;
}

/** Parameters of the path, decoded once, in the client's own letter case. */
export interface RouteParams {
  readonly itemId?: string;
  readonly userId?: string;
  readonly sessionId?: string;
  readonly playlistId?: string;
  readonly segmentId?: string;
  readonly container?: string;
  readonly mediaSourceId?: string;
  readonly streamId?: string;
  readonly index?: string;
  readonly imageType?: string;
  readonly tag?: string;
  readonly command?: string;
  readonly key?: string;
  readonly name?: string;
  readonly collectionId?: string;
  readonly timerId?: string;
  readonly recordingId?: string;
  readonly channelId?: string;
  readonly groupId?: string;
  readonly taskId?: string;
  readonly tunerId?: string;
  readonly pluginId?: string;
  readonly version?: string;
  readonly packageId?: string;
  readonly displayPreferencesId?: string;
  readonly width?: string;
  readonly startPositionTicks?: string;
  readonly newIndex?: string;
  readonly language?: string;
  readonly subtitleId?: string;
  readonly lyricId?: string;
  readonly rest?: string;
}

export interface RouteMatch {
  readonly route: Route;
  readonly params: RouteParams;
}

type Traits = Omit<Route, "methods" | "pattern" | "kind" | "known">;

const plainRead: Traits = {
  lane: "message",
  anonymous: false,
  boundTo: "home",
  needsLeader: false,
  repeatable: "yes",
  repeatableDepends: false,
  diesWithServer: false,
  bodyName: undefined,
  answer: "doubt401",
  intent: "none",
  ends: "none",
  gives: "none",
  guard: "none",
  changes: false,
};

const plainWrite: Traits = { ...plainRead, repeatable: "ifNotSent", changes: true };

function read(pattern: string, kind: RouteKind, traits: Partial<Traits> = {}): Route {
  return { methods: ["GET"], pattern, kind, known: true, ...plainRead, ...traits };
}

function write(
  method: "POST" | "DELETE",
  pattern: string,
  kind: RouteKind,
  traits: Partial<Traits> = {},
): Route {
  return { methods: [method], pattern, kind, known: true, ...plainWrite, ...traits };
}

const post = (pattern: string, kind: RouteKind, traits?: Partial<Traits>): Route =>
  write("POST", pattern, kind, traits);
const remove = (pattern: string, kind: RouteKind, traits?: Partial<Traits>): Route =>
  write("DELETE", pattern, kind, traits);

// Combinations that many rows share.
const again: Partial<Traits> = { repeatable: "yes" };
const ordered: Partial<Traits> = { needsLeader: true };
const orderedAgain: Partial<Traits> = { needsLeader: true, repeatable: "yes" };
const onItem: Partial<Traits> = { answer: "doubt404" };
const shared: Partial<Traits> = { anonymous: true, boundTo: "anyone" };
const picture: Partial<Traits> = { anonymous: true, boundTo: "item", answer: "doubt404" };
const signIn: Partial<Traits> = {
  anonymous: true,
  answer: "final",
  gives: "authenticationResult",
  diesWithServer: true,
};
const played: Partial<Traits> = {
  repeatable: "yes",
  intent: "played",
  answer: "doubt404",
};
const favourite: Partial<Traits> = { repeatable: "yes", intent: "favourite", answer: "doubt404" };
const rating: Partial<Traits> = { repeatable: "yes", intent: "rating", answer: "doubt404" };
const userData: Partial<Traits> = { repeatable: "yes", intent: "userData", answer: "doubt404" };
const playReport: Partial<Traits> = {
  intent: "playReport",
  boundTo: "playSession",
  bodyName: "PlaySessionId",
};
const playReportAgain: Partial<Traits> = { ...playReport, repeatable: "yes" };
const stopReport: Partial<Traits> = { ...playReportAgain, repeatableDepends: true };
/** The device may have heard it before its server died: it is never said twice. */
const command: Partial<Traits> = { boundTo: "targetSession", repeatable: "no" };
const group: Partial<Traits> = { boundTo: "syncPlay", repeatable: "no", diesWithServer: true };
const recorder: Partial<Traits> = { boundTo: "recorder" };
const recorderAgain: Partial<Traits> = { boundTo: "recorder", repeatable: "yes" };
const wizard: Partial<Traits> = { guard: "startupWizard" };
const remoteSearch: Partial<Traits> = { repeatable: "yes", changes: false };
const encodedStream: Partial<Traits> = {
  lane: "bytes",
  anonymous: true,
  boundTo: "playSession",
  answer: "doubt404",
  changes: true,
};
const playlistText: Partial<Traits> = {
  lane: "playlist",
  boundTo: "playSession",
  answer: "doubt404",
};
const encodedSegment: Partial<Traits> = {
  lane: "segment",
  boundTo: "playSession",
  answer: "doubt404",
  changes: true,
};
const liveSegment: Partial<Traits> = {
  lane: "segment",
  anonymous: true,
  boundTo: "liveList",
  changes: true,
};

/** What every viewer and the web client ask without being anybody in particular. */
const openToAll: readonly Route[] = [
  read("/", "web", shared),
  read("/web", "web", shared),
  read("/web/{*rest}", "web", { ...shared, answer: "doubt404" }),
  read("/web/ConfigurationPages", "read"),
  read("/web/ConfigurationPage", "web", shared),
  read("/favicon.ico", "web", shared),
  read("/robots.txt", "web", shared),
  read("/api-docs/{*rest}", "web", shared),
  read("/health", "health", shared),
  read("/metrics", "metrics", { ...shared, guard: "refuse" }),
  read("/metrics/{*rest}", "metrics", { ...shared, guard: "refuse" }),
  read("/System/Ping", "ping", shared),
  post("/System/Ping", "ping", { ...shared, repeatable: "yes", changes: false }),
  // The group's clock: players in a group compare it with the group's commands.
  read("/GetUtcTime", "clock", { anonymous: true, boundTo: "syncPlay" }),
  read("/System/Info/Public", "publicSystemInfo", { ...shared, gives: "systemInfo" }),
  read("/Users/Public", "publicUsers", shared),
  read("/Branding/Configuration", "branding", shared),
  read("/Branding/Css", "branding", shared),
  read("/Branding/Css.css", "branding", shared),
  read("/Branding/Splashscreen", "image", { ...shared, answer: "doubt404" }),
];

/** Signing in and out, and everything that makes or ends a token. */
const identities: readonly Route[] = [
  post("/Users/AuthenticateByName", "login", {
    ...signIn,
    boundTo: "userName",
    bodyName: "Username",
  }),
  post("/Users/{userId}/Authenticate", "login", { ...signIn, boundTo: "userInPath" }),
  // It only returns the stored result, for ten minutes the same token each time.
  post("/Users/AuthenticateWithQuickConnect", "quickConnectLogin", {
    ...signIn,
    boundTo: "quickConnectSecret",
    bodyName: "Secret",
    repeatable: "yes",
  }),
  read("/QuickConnect/Enabled", "quickConnectEnabled", { ...shared, gives: "quickConnectEnabled" }),
  post("/QuickConnect/Initiate", "quickConnectInitiate", {
    ...shared,
    answer: "final",
    gives: "quickConnectRequest",
    diesWithServer: true,
  }),
  // Servers before 12.0 have this spelling, too.
  read("/QuickConnect/Initiate", "quickConnectInitiate", {
    ...shared,
    answer: "final",
    gives: "quickConnectRequest",
    diesWithServer: true,
    repeatable: "ifNotSent",
    changes: true,
  }),
  read("/QuickConnect/Connect", "quickConnectState", {
    anonymous: true,
    boundTo: "quickConnectSecret",
    answer: "final",
    gives: "quickConnectRequest",
  }),
  // A second consent is refused by the server itself (500), and one that died with its server is needed again.
  post("/QuickConnect/Authorize", "quickConnectAuthorize", {
    boundTo: "quickConnectCode",
    answer: "final",
    repeatable: "yes",
  }),
  post("/Sessions/Logout", "logout", { ...again, ends: "identity" }),
  post("/Users/Password", "password", { ends: "userOthers", bodyName: "ResetPassword" }),
  post("/Users/{userId}/Password", "password", { ends: "userOthers", bodyName: "ResetPassword" }),
  post("/Users/ForgotPassword", "passwordForgotten", {
    anonymous: true,
    bodyName: "EnteredUsername",
    boundTo: "userName",
    answer: "final",
    gives: "passwordReset",
  }),
  post("/Users/ForgotPassword/Pin", "passwordPin", {
    anonymous: true,
    boundTo: "userName",
    answer: "final",
  }),
  read("/Devices", "devices"),
  read("/Devices/Info", "devices"),
  read("/Devices/Options", "devices"),
  post("/Devices/Options", "devices", again),
  // A second time is 400: the device is unknown then.
  remove("/Devices", "devices", { ...ordered, ends: "device" }),
  read("/Auth/Keys", "apiKeys", { boundTo: "apiKeyLeader", gives: "apiKeys" }),
  post("/Auth/Keys", "apiKeys", { ...ordered, boundTo: "apiKeyLeader" }),
  remove("/Auth/Keys/{key}", "apiKeys", {
    ...orderedAgain,
    boundTo: "apiKeyLeader",
    ends: "apiKey",
  }),
];

/** Users as accounts. */
const users: readonly Route[] = [
  read("/Users", "read"),
  read("/Users/Me", "currentUser"),
  read("/Users/{userId}", "currentUser"),
  post("/Users", "user", orderedAgain),
  post("/Users/{userId}", "user", orderedAgain),
  post("/Users/New", "user", ordered),
  remove("/Users/{userId}", "user", { ...ordered, ends: "user" }),
  post("/Users/{userId}/Policy", "userPolicy", {
    ...orderedAgain,
    ends: "userIfDisabled",
    bodyName: "IsDisabled",
  }),
  post("/Users/Configuration", "userConfiguration", again),
  post("/Users/{userId}/Configuration", "userConfiguration", again),
  read("/UserImage", "image", { ...picture, boundTo: "anyone" }),
  post("/UserImage", "userImage", again),
  remove("/UserImage", "userImage", again),
  read("/Users/{userId}/Images/{imageType}", "image", { ...picture, boundTo: "anyone" }),
  read("/Users/{userId}/Images/{imageType}/{index}", "image", { ...picture, boundTo: "anyone" }),
  post("/Users/{userId}/Images/{imageType}", "userImage", again),
  post("/Users/{userId}/Images/{imageType}/{index}", "userImage", again),
  remove("/Users/{userId}/Images/{imageType}", "userImage", again),
  remove("/Users/{userId}/Images/{imageType}/{index}", "userImage", again),
  // Reading preferences that are not there yet makes rows of defaults.
  read("/DisplayPreferences/{displayPreferencesId}", "displayPreferences", { changes: true }),
  post("/DisplayPreferences/{displayPreferencesId}", "displayPreferences", again),
  // Reading views makes the items that stand for them and queues their refresh.
  read("/UserViews", "read", { changes: true }),
  read("/Users/{userId}/Views", "read", { changes: true }),
];

/** What a viewer did: reports of playback and marks. */
const userDataChanges: readonly Route[] = [
  // A start counts the play once more each time it is told.
  post("/Sessions/Playing", "playStart", playReport),
  post("/Sessions/Playing/Progress", "playProgress", playReportAgain),
  post("/Sessions/Playing/Ping", "playPing", { boundTo: "playSession", repeatable: "yes" }),
  // A stop without a position counts the play once more and marks it played.
  post("/Sessions/Playing/Stopped", "playStopped", stopReport),
  post("/PlayingItems/{itemId}", "playStart", playReport),
  post("/Users/{userId}/PlayingItems/{itemId}", "playStart", playReport),
  post("/PlayingItems/{itemId}/Progress", "playProgress", playReportAgain),
  post("/Users/{userId}/PlayingItems/{itemId}/Progress", "playProgress", playReportAgain),
  remove("/PlayingItems/{itemId}", "playStopped", stopReport),
  remove("/Users/{userId}/PlayingItems/{itemId}", "playStopped", stopReport),
  // Marked with a date, an item's play count grows each time.
  post("/UserPlayedItems/{itemId}", "played", { ...played, repeatableDepends: true }),
  post("/Users/{userId}/PlayedItems/{itemId}", "played", { ...played, repeatableDepends: true }),
  remove("/UserPlayedItems/{itemId}", "played", played),
  remove("/Users/{userId}/PlayedItems/{itemId}", "played", played),
  post("/UserFavoriteItems/{itemId}", "favourite", favourite),
  post("/Users/{userId}/FavoriteItems/{itemId}", "favourite", favourite),
  remove("/UserFavoriteItems/{itemId}", "favourite", favourite),
  remove("/Users/{userId}/FavoriteItems/{itemId}", "favourite", favourite),
  post("/UserItems/{itemId}/Rating", "rating", rating),
  post("/Users/{userId}/Items/{itemId}/Rating", "rating", rating),
  remove("/UserItems/{itemId}/Rating", "rating", rating),
  remove("/Users/{userId}/Items/{itemId}/Rating", "rating", rating),
  read("/UserItems/{itemId}/UserData", "userData", onItem),
  read("/Users/{userId}/Items/{itemId}/UserData", "userData", onItem),
  post("/UserItems/{itemId}/UserData", "userData", userData),
  post("/Users/{userId}/Items/{itemId}/UserData", "userData", userData),
];

/** Sessions, remote control and watching together. */
const sessions: readonly Route[] = [
  read("/socket", "socket", { lane: "socket", changes: true }),
  read("/Sessions", "sessions", { gives: "sessions" }),
  post("/Sessions/Capabilities", "capabilities", again),
  post("/Sessions/Capabilities/Full", "capabilities", again),
  post("/Sessions/Viewing", "viewing", again),
  post("/Sessions/{sessionId}/Viewing", "sessionCommand", command),
  post("/Sessions/{sessionId}/Playing", "sessionCommand", command),
  post("/Sessions/{sessionId}/Playing/{command}", "sessionCommand", command),
  post("/Sessions/{sessionId}/System/{command}", "sessionCommand", command),
  post("/Sessions/{sessionId}/Command/{command}", "sessionCommand", command),
  post("/Sessions/{sessionId}/Command", "sessionCommand", command),
  post("/Sessions/{sessionId}/Message", "sessionCommand", command),
  post("/Sessions/{sessionId}/User/{userId}", "sessionCommand", command),
  remove("/Sessions/{sessionId}/User/{userId}", "sessionCommand", command),
  read("/SyncPlay/List", "syncPlayList", { gives: "groups" }),
  read("/SyncPlay/{groupId}", "syncPlayList", { boundTo: "syncPlay", gives: "groups" }),
  // A new group lives where its maker is at home; from then on the group is a pin.
  post("/SyncPlay/New", "syncPlay", { diesWithServer: true, gives: "groups" }),
  ...[
    "Join",
    "Leave",
    "SetNewQueue",
    "SetPlaylistItem",
    "RemoveFromPlaylist",
    "MovePlaylistItem",
    "Queue",
    "Unpause",
    "Pause",
    "Stop",
    "Seek",
    "Buffering",
    "Ready",
    "SetIgnoreWait",
    "NextItem",
    "PreviousItem",
    "SetRepeatMode",
    "SetShuffleMode",
    "Ping",
  ].map((verb) =>
    post(
      `/SyncPlay/${verb}`,
      "syncPlay",
      verb === "Join" ? { ...group, bodyName: "GroupId" } : group,
    ),
  ),
];

/** Media: what players fetch. */
const media: readonly Route[] = [
  // Without AutoOpenLiveStream it only answers a question; with it, it opens a tuner.
  read("/Items/{itemId}/PlaybackInfo", "playbackInfo", {
    boundTo: "channel",
    answer: "doubt404",
    gives: "playbackInfo",
    repeatableDepends: true,
    diesWithServer: true,
  }),
  post("/Items/{itemId}/PlaybackInfo", "playbackInfo", {
    boundTo: "channel",
    answer: "doubt404",
    gives: "playbackInfo",
    repeatableDepends: true,
    diesWithServer: true,
  }),
  post("/LiveStreams/Open", "liveStreamOpen", {
    boundTo: "channel",
    bodyName: "ItemId",
    diesWithServer: true,
    gives: "liveStream",
  }),
  // Its count of consumers goes down each time.
  post("/LiveStreams/Close", "liveStreamClose", { boundTo: "liveStream", repeatable: "no" }),
  read("/Playback/BitrateTest", "bitrateTest", { lane: "bytes" }),
  remove("/Videos/ActiveEncodings", "stopEncodings", {
    boundTo: "playSession",
    repeatable: "yes",
  }),
  read("/Videos/{itemId}/stream", "stream", encodedStream),
  read("/Videos/{itemId}/stream.{container}", "stream", encodedStream),
  read("/Audio/{itemId}/stream", "stream", encodedStream),
  read("/Audio/{itemId}/stream.{container}", "stream", encodedStream),
  read("/Audio/{itemId}/universal", "universal", { ...encodedStream, anonymous: false }),
  read("/Items/{itemId}/Download", "download", { lane: "bytes", boundTo: "item", ...onItem }),
  read("/Items/{itemId}/File", "download", { lane: "bytes", boundTo: "item", ...onItem }),
  read("/Videos/{itemId}/master.m3u8", "masterPlaylist", playlistText),
  read("/Audio/{itemId}/master.m3u8", "masterPlaylist", playlistText),
  read("/Videos/{itemId}/main.m3u8", "mainPlaylist", playlistText),
  read("/Audio/{itemId}/main.m3u8", "mainPlaylist", playlistText),
  // It starts ffmpeg and is known only to the server that opened the live stream.
  read("/Videos/{itemId}/live.m3u8", "livePlaylist", {
    lane: "playlist",
    boundTo: "liveStream",
    changes: true,
  }),
  read("/Videos/{itemId}/hls1/{playlistId}/{segmentId}.{container}", "segment", encodedSegment),
  read("/Audio/{itemId}/hls1/{playlistId}/{segmentId}.{container}", "segment", encodedSegment),
  read("/Videos/{itemId}/hls/{playlistId}/stream.m3u8", "liveList", {
    lane: "playlist",
    boundTo: "liveList",
    changes: true,
  }),
  read("/Videos/{itemId}/hls/{playlistId}/{segmentId}.{container}", "liveSegment", liveSegment),
  read("/Audio/{itemId}/hls/{segmentId}/stream.{container}", "liveSegment", liveSegment),
  read("/LiveTv/LiveStreamFiles/{streamId}/stream.{container}", "liveStreamFile", {
    lane: "bytes",
    anonymous: true,
    boundTo: "liveStream",
    changes: true,
  }),
  read("/LiveTv/LiveRecordings/{recordingId}/stream", "recordingFile", {
    lane: "bytes",
    anonymous: true,
    boundTo: "recorder",
  }),
  // Extracted on demand, which takes long the first time.
  read("/Videos/{itemId}/{mediaSourceId}/Subtitles/{index}/Stream.{container}", "subtitle", {
    ...picture,
    changes: true,
  }),
  read(
    "/Videos/{itemId}/{mediaSourceId}/Subtitles/{index}/{startPositionTicks}/Stream.{container}",
    "subtitle",
    { ...picture, changes: true },
  ),
  read("/Videos/{itemId}/{mediaSourceId}/Subtitles/{index}/subtitles.m3u8", "subtitlePlaylist", {
    lane: "playlist",
    boundTo: "item",
    ...onItem,
  }),
  read("/Videos/{itemId}/{mediaSourceId}/Attachments/{index}", "attachment", {
    ...picture,
    changes: true,
  }),
  read("/Videos/{itemId}/Trickplay/{width}/tiles.m3u8", "trickplayPlaylist", {
    lane: "playlist",
    boundTo: "item",
    ...onItem,
  }),
  read("/Videos/{itemId}/Trickplay/{width}/{index}.jpg", "trickplay", {
    boundTo: "item",
    ...onItem,
  }),
  read("/FallbackFont/Fonts/{name}", "font", onItem),
  read("/Items/{itemId}/Images", "read", onItem),
  ...[
    "Items/{itemId}",
    "Artists/{name}",
    "Genres/{name}",
    "MusicGenres/{name}",
    "Persons/{name}",
    "Studios/{name}",
  ].flatMap((owner) => [
    read(`/${owner}/Images/{imageType}`, "image", { ...picture, changes: true }),
    read(`/${owner}/Images/{imageType}/{index}`, "image", { ...picture, changes: true }),
  ]),
  read(
    "/Items/{itemId}/Images/{imageType}/{index}/{tag}/{container}/{maxWidth}/{maxHeight}/{percentPlayed}/{unplayedCount}",
    "image",
    { ...picture, changes: true },
  ),
  read("/Plugins/{pluginId}/{version}/Image", "image", { ...picture, boundTo: "anyone" }),
];

/** Questions about one item, which a replica may not have scanned yet. */
const items: readonly Route[] = [
  // Words that stand where an item's id would.
  ...["Counts", "Filters", "Filters2", "Latest", "Root", "Suggestions"].map((word) =>
    read(`/Items/${word}`, "read"),
  ),
  ...["Latest", "Resume", "Root"].map((word) => read(`/Users/{userId}/Items/${word}`, "read")),
  read("/UserItems/Resume", "read"),
  read("/Artists/AlbumArtists", "read"),
  read("/Artists/InstantMix", "read"),
  read("/MusicGenres/InstantMix", "read"),
  read("/Items/{itemId}", "read", onItem),
  read("/Items/{itemId}/{*rest}", "read", onItem),
  read("/Users/{userId}/Items/{itemId}", "read", onItem),
  read("/Users/{userId}/Items/{itemId}/{*rest}", "read", onItem),
  read("/MediaSegments/{itemId}", "read", onItem),
  read("/Shows/{itemId}/Episodes", "read", onItem),
  read("/Shows/{itemId}/Seasons", "read", onItem),
  read("/Videos/{itemId}/AdditionalParts", "read", onItem),
  read("/Audio/{itemId}/Lyrics", "read", onItem),
  ...["Albums", "Artists", "Movies", "Shows", "Trailers"].map((family) =>
    read(`/${family}/{itemId}/Similar`, "read", onItem),
  ),
  ...["Albums", "Artists", "Playlists", "Songs"].map((family) =>
    read(`/${family}/{itemId}/InstantMix`, "read", onItem),
  ),
  ...["Artists", "Genres", "MusicGenres", "Persons", "Studios", "Years"].map((family) =>
    read(`/${family}/{name}`, "read", onItem),
  ),
  read("/Playlists/{playlistId}", "read", onItem),
  read("/Playlists/{playlistId}/{*rest}", "read", onItem),
  read("/Channels/{channelId}/{*rest}", "read", onItem),
  read("/LiveTv/Channels/{channelId}", "read", onItem),
  read("/LiveTv/Programs/Recommended", "read"),
  read("/LiveTv/Programs/{itemId}", "read", onItem),
];

/** Playlists and collections: one writer, because their ids and their order come from the history. */
const lists: readonly Route[] = [
  post("/Playlists", "playlist", ordered),
  post("/Playlists/{playlistId}", "playlist", orderedAgain),
  post("/Playlists/{playlistId}/Users/{userId}", "playlist", orderedAgain),
  remove("/Playlists/{playlistId}/Users/{userId}", "playlist", orderedAgain),
  // The same entry twice is kept twice.
  post("/Playlists/{playlistId}/Items", "playlist", ordered),
  post("/Playlists/{playlistId}/Items/{itemId}/Move/{newIndex}", "playlist", ordered),
  remove("/Playlists/{playlistId}/Items", "playlist", orderedAgain),
  // A second collection of one name empties the first.
  post("/Collections", "collection", ordered),
  post("/Collections/{collectionId}/Items", "collection", orderedAgain),
  remove("/Collections/{collectionId}/Items", "collection", orderedAgain),
];

/** Changes of what is known about items, and of the items themselves. */
const catalog: readonly Route[] = [
  post("/Items/{itemId}", "metadata", orderedAgain),
  post("/Items/{itemId}/ContentType", "metadata", orderedAgain),
  post("/Items/{itemId}/Refresh", "metadata", orderedAgain),
  remove("/Items/{itemId}", "library", ordered),
  remove("/Items", "library", ordered),
  // Backdrops are appended, and indexes move: none of these is the same twice.
  post("/Items/{itemId}/Images/{imageType}", "metadata", ordered),
  post("/Items/{itemId}/Images/{imageType}/{index}", "metadata", ordered),
  post("/Items/{itemId}/Images/{imageType}/{index}/Index", "metadata", ordered),
  remove("/Items/{itemId}/Images/{imageType}", "metadata", ordered),
  remove("/Items/{itemId}/Images/{imageType}/{index}", "metadata", ordered),
  post("/Items/{itemId}/RemoteImages/Download", "metadata", ordered),
  ...[
    "Movie",
    "Trailer",
    "MusicVideo",
    "Series",
    "BoxSet",
    "MusicArtist",
    "MusicAlbum",
    "Person",
    "Book",
  ].map((type) => post(`/Items/RemoteSearch/${type}`, "read", remoteSearch)),
  post("/Items/RemoteSearch/Apply/{itemId}", "metadata", orderedAgain),
  post("/Items/{itemId}/RemoteSearch/Subtitles/{subtitleId}", "metadata", ordered),
  post("/Videos/{itemId}/Subtitles", "metadata", ordered),
  remove("/Videos/{itemId}/Subtitles/{index}", "metadata", ordered),
  post("/Audio/{itemId}/Lyrics", "metadata", ordered),
  remove("/Audio/{itemId}/Lyrics", "metadata", ordered),
  post("/Audio/{itemId}/RemoteSearch/Lyrics/{lyricId}", "metadata", ordered),
  post("/Videos/MergeVersions", "metadata", orderedAgain),
  remove("/Videos/{itemId}/AlternateSources", "metadata", orderedAgain),
  post("/Library/Refresh", "task", { ...orderedAgain, guard: "adminOnly" }),
  // Sonarr and Radarr tell of new files; each replica scans for itself.
  post("/Library/Series/Added", "library", again),
  post("/Library/Series/Updated", "library", again),
  post("/Library/Movies/Added", "library", again),
  post("/Library/Movies/Updated", "library", again),
  post("/Library/Media/Updated", "library", again),
  // A second library of one name becomes «name2».
  post("/Library/VirtualFolders", "library", ordered),
  remove("/Library/VirtualFolders", "library", ordered),
  post("/Library/VirtualFolders/Name", "library", ordered),
  post("/Library/VirtualFolders/Paths", "library", ordered),
  remove("/Library/VirtualFolders/Paths", "library", ordered),
  post("/Library/VirtualFolders/Paths/Update", "library", orderedAgain),
  post("/Library/VirtualFolders/LibraryOptions", "library", orderedAgain),
];

/** Television: tuners have an owner, timers a recorder. */
const television: readonly Route[] = [
  post("/LiveTv/Programs", "read", { repeatable: "yes", changes: false }),
  post("/LiveTv/Tuners/{tunerId}/Reset", "tuner", { boundTo: "channel", repeatable: "yes" }),
  read("/LiveTv/Timers", "recorder", recorder),
  read("/LiveTv/Timers/Defaults", "recorder", recorder),
  read("/LiveTv/Timers/{timerId}", "recorder", recorder),
  read("/LiveTv/SeriesTimers", "recorder", recorder),
  read("/LiveTv/SeriesTimers/{timerId}", "recorder", recorder),
  read("/LiveTv/Recordings", "recorder", recorder),
  read("/LiveTv/Recordings/{*rest}", "recorder", recorder),
  post("/LiveTv/Timers", "recorder", recorder),
  post("/LiveTv/Timers/{timerId}", "recorder", recorderAgain),
  remove("/LiveTv/Timers/{timerId}", "recorder", recorderAgain),
  post("/LiveTv/SeriesTimers", "recorder", recorder),
  post("/LiveTv/SeriesTimers/{timerId}", "recorder", recorderAgain),
  remove("/LiveTv/SeriesTimers/{timerId}", "recorder", recorderAgain),
  remove("/LiveTv/Recordings/{recordingId}", "recorder", recorder),
  // New ids are random, also when one is supplied.
  post("/LiveTv/TunerHosts", "television", ordered),
  remove("/LiveTv/TunerHosts", "television", orderedAgain),
  post("/LiveTv/ListingProviders", "television", ordered),
  remove("/LiveTv/ListingProviders", "television", orderedAgain),
  post("/LiveTv/ChannelMappings", "television", ordered),
];

/** The server as an installation: configuration, plugins, tasks, its life. */
const administration: readonly Route[] = [
  read("/System/Info", "systemInfo", { gives: "systemInfo" }),
  // What an administrator changes at the leader's server is read there, too (core/jellyfin/gated.ts).
  read("/System/Configuration", "configuration"),
  read("/System/Configuration/{key}", "configuration"),
  read("/Repositories", "configuration"),
  read("/Library/VirtualFolders", "library"),
  read("/Packages", "plugin"),
  read("/Plugins", "plugin"),
  read("/Plugins/{pluginId}/Configuration", "plugin"),
  read("/ScheduledTasks", "task"),
  read("/ScheduledTasks/{taskId}", "task"),
  read("/Backup", "backup"),
  read("/Backup/Manifest", "backup"),
  post("/System/Configuration", "configuration", orderedAgain),
  post("/System/Configuration/{key}", "configuration", orderedAgain),
  post("/System/Configuration/Branding", "configuration", orderedAgain),
  post("/Branding/Splashscreen", "configuration", orderedAgain),
  remove("/Branding/Splashscreen", "configuration", orderedAgain),
  post("/Repositories", "configuration", orderedAgain),
  post("/Packages/Installed/{name}", "plugin", ordered),
  remove("/Packages/Installing/{packageId}", "plugin", orderedAgain),
  post("/Plugins/{pluginId}/{version}/Enable", "plugin", orderedAgain),
  post("/Plugins/{pluginId}/{version}/Disable", "plugin", orderedAgain),
  remove("/Plugins/{pluginId}/{version}", "plugin", ordered),
  remove("/Plugins/{pluginId}", "plugin", ordered),
  post("/Plugins/{pluginId}/Configuration", "plugin", orderedAgain),
  post("/Plugins/{pluginId}/Manifest", "plugin", { repeatable: "yes", changes: false }),
  post("/ScheduledTasks/Running/{taskId}", "task", { ...ordered, guard: "adminOnly" }),
  // Stopping a task that does not run is 500.
  remove("/ScheduledTasks/Running/{taskId}", "task", { ...ordered, guard: "adminOnly" }),
  post("/ScheduledTasks/{taskId}/Triggers", "task", { ...orderedAgain, guard: "adminOnly" }),
  post("/Backup/Create", "backup", { ...ordered, repeatable: "no" }),
  post("/Backup/Restore", "backup", { ...ordered, repeatable: "no" }),
  post("/ClientLog/Document", "write"),
  post("/Environment/ValidatePath", "write", again),
  // Jellyfin lets any caller from its own network restart it (LocalAccessOrRequiresElevation).
  post("/System/Restart", "restart", { ...ordered, repeatable: "no", guard: "adminOnly" }),
  post("/System/Shutdown", "shutdown", { ...ordered, repeatable: "no", guard: "adminOnly" }),
  read("/Startup/Configuration", "startup", wizard),
  // Reading the first user makes it.
  read("/Startup/User", "startup", { ...wizard, changes: true }),
  read("/Startup/FirstUser", "startup", { ...wizard, changes: true }),
  read("/Startup/{*rest}", "startup", wizard),
  post("/Startup/Configuration", "startup", wizard),
  post("/Startup/RemoteAccess", "startup", wizard),
  post("/Startup/User", "startup", wizard),
  post("/Startup/Complete", "startup", wizard),
];

/** Every row of the table. */
export const routes: readonly Route[] = [
  ...openToAll,
  ...identities,
  ...users,
  ...userDataChanges,
  ...sessions,
  ...media,
  ...items,
  ...lists,
  ...catalog,
  ...television,
  ...administration,
];

/** A reading route without a row of its own: to the home, and it may be repeated. */
export const defaultRead: Route = {
  methods: ["GET"],
  pattern: "/{*rest}",
  kind: "read",
  known: false,
  ...plainRead,
};

/** A writing route without a row of its own: to the home, never repeated after a byte of it was sent. */
export const defaultWrite: Route = {
  methods: ["POST", "DELETE", "PUT", "PATCH"],
  pattern: "/{*rest}",
  kind: "write",
  known: false,
  ...plainWrite,
};

/** The question a browser asks before it asks across origins; it is about no user. */
export const defaultOptions: Route = {
  methods: ["OPTIONS"],
  pattern: "/{*rest}",
  kind: "options",
  known: false,
  ...plainRead,
  ...shared,
};

/**
 * Finds the row of a request. Letter case, percent-encoding, doubled and trailing slashes and dot segments
 * are read as Jellyfin reads them (paths.ts). Never throws.
 *
 * `path` is the request target or its path part; `baseSegments` the door's BaseUrl from `baseSegmentsOf`. A
 * path outside of the base is matched as it stands: Jellyfin answers it with a redirect. The prefixes `/emby`
 * and `/mediabrowser` of servers before 12.0 count for nothing (LegacyEmbyRouteRewriteMiddleware).
 */
export function matchRoute(
  method: string,
  path: string,
  baseSegments: readonly string[] = noSegments,
): RouteMatch {
  const slot = slotOf(method);
  if (slot === undefined) return method === "OPTIONS" ? optionsMatch : writeMatch;
  // Most requests but those for media spell one of the paths without parameters as it stands in the table.
  const plain = baseSegments.length === 0 ? plainPaths[slot].get(path) : undefined;
  if (plain !== undefined) return plain;
  const whole = pathSegments(path);
  const segments = segmentsBelow(whole, baseSegments) ?? whole;
  const start = isOldPrefix(segments[0]) ? 1 : 0;
  const found = find(root, slot, segments, start);
  if (found === undefined) return slot === "read" ? readMatch : writeMatch;
  return found.parameters.length === 0 ? found.plain : withParams(found, segments, start);
}

const noSegments: readonly string[] = [];
const noParams: RouteParams = Object.freeze({});
const readMatch: RouteMatch = Object.freeze({ route: defaultRead, params: noParams });
const writeMatch: RouteMatch = Object.freeze({ route: defaultWrite, params: noParams });
const optionsMatch: RouteMatch = Object.freeze({ route: defaultOptions, params: noParams });

/**
 * Longer segments are parameters as a whole: literals have at most 28 letters. It also bounds names with a
 * dot inside: a live segment is called by 32 hex digits and its number.
 */
const literalLengthMax = 64;

function isOldPrefix(segment: string | undefined): boolean {
  if (segment === undefined || (segment.length !== 4 && segment.length !== 12)) return false;
  const lower = segment.toLowerCase();
  return lower === "emby" || lower === "mediabrowser";
}

/** The table keeps a row for each of three ways of asking. */
type Slot = "read" | "post" | "delete";

function slotOf(method: string): Slot | undefined {
  if (method === "GET" || method === "HEAD") return "read";
  if (method === "POST") return "post";
  if (method === "DELETE") return "delete";
  return undefined;
}

/** Where in a segment a parameter lies: between a prefix and a suffix, or on both sides of the last dot. */
interface Parameter {
  readonly name: string;
  /** Index of the path segment. */
  readonly at: number;
  readonly part:
    | "whole"
    | "afterPrefix"
    | "beforeSuffix"
    | "beforeLastDot"
    | "afterLastDot"
    | "rest";
  readonly cut: number;
}

/** The end of a pattern. */
interface Leaf {
  readonly route: Route;
  readonly parameters: readonly Parameter[];
  /** The answer when the pattern has no parameters. */
  readonly plain: RouteMatch;
}

interface Complex {
  readonly shape: "prefix" | "suffix" | "dot";
  /** Lower-case text of the prefix or suffix; empty for `dot`. */
  readonly text: string;
  readonly node: Node;
}

interface Node {
  readonly literals: Map<string, Node>;
  readonly complexes: Complex[];
  parameter: Node | undefined;
  readonly leaves: Partial<Record<Slot, Leaf>>;
  readonly rest: Partial<Record<Slot, Leaf>>;
}

const newNode = (): Node => ({
  literals: new Map(),
  complexes: [],
  parameter: undefined,
  leaves: {},
  rest: {},
});

/**
 * Walks the trie in ASP.NET's order of precedence: literal, then literal with parameters inside, then a
 * whole parameter, then the rest of the path; backwards where a way has no row for this method.
 */
function find(node: Node, slot: Slot, segments: readonly string[], at: number): Leaf | undefined {
  const segment = segments[at];
  if (segment === undefined) return node.leaves[slot] ?? node.rest[slot];
  // Ids and long names can be no literal and are not even folded to lower case.
  if (segment.length <= literalLengthMax && (node.literals.size > 0 || node.complexes.length > 0)) {
    const word = segment.toLowerCase();
    const literal = node.literals.get(word);
    if (literal !== undefined) {
      const found = find(literal, slot, segments, at + 1);
      if (found !== undefined) return found;
    }
    for (const complex of node.complexes) {
      if (!fits(complex, word)) continue;
      const found = find(complex.node, slot, segments, at + 1);
      if (found !== undefined) return found;
    }
  }
  if (node.parameter !== undefined) {
    const found = find(node.parameter, slot, segments, at + 1);
    if (found !== undefined) return found;
  }
  return node.rest[slot];
}

function fits(complex: Complex, word: string): boolean {
  if (complex.shape === "prefix") {
    return word.length > complex.text.length && word.startsWith(complex.text);
  }
  if (complex.shape === "suffix") {
    return word.length > complex.text.length && word.endsWith(complex.text);
  }
  const dot = word.lastIndexOf(".");
  return dot > 0 && dot < word.length - 1;
}

function withParams(leaf: Leaf, segments: readonly string[], start: number): RouteMatch {
  const params: Record<string, string> = {};
  for (const parameter of leaf.parameters) {
    params[parameter.name] = parameterValue(parameter, segments, start + parameter.at);
  }
  return { route: leaf.route, params };
}

function parameterValue(parameter: Parameter, segments: readonly string[], at: number): string {
  const segment = segments[at] ?? "";
  switch (parameter.part) {
    case "whole":
      return segment;
    case "afterPrefix":
      return segment.slice(parameter.cut);
    case "beforeSuffix":
      return segment.slice(0, segment.length - parameter.cut);
    case "beforeLastDot":
      return segment.slice(0, segment.lastIndexOf("."));
    case "afterLastDot":
      return segment.slice(segment.lastIndexOf(".") + 1);
    case "rest":
      return segments.slice(at).join("/");
  }
}

function plant(tree: Node, route: Route): void {
  const parameters: Parameter[] = [];
  let node = tree;
  let isRest = false;
  for (const [at, segment] of route.pattern.split("/").filter(Boolean).entries()) {
    if (segment.startsWith("{*")) {
      parameters.push({ name: segment.slice(2, -1), at, part: "rest", cut: 0 });
      isRest = true;
      break;
    }
    node = step(node, segment, at, parameters);
  }
  const leaf: Leaf = { route, parameters, plain: { route, params: noParams } };
  for (const method of route.methods) {
    const slot = slotOf(method);
    const table = isRest ? node.rest : node.leaves;
    if (slot === undefined || table[slot] !== undefined) {
      throw new Error(`two rows, or no slot, for ${method} ${route.pattern}`);
    }
    table[slot] = leaf;
  }
}

/** One segment of a pattern further down the trie, made where it is new. */
function step(node: Node, segment: string, at: number, parameters: Parameter[]): Node {
  const open = segment.indexOf("{");
  if (open < 0) {
    const word = segment.toLowerCase();
    const known = node.literals.get(word);
    if (known !== undefined) return known;
    const made = newNode();
    node.literals.set(word, made);
    return made;
  }
  const close = segment.indexOf("}");
  const name = segment.slice(open + 1, close);
  if (open === 0 && close === segment.length - 1) {
    parameters.push({ name, at, part: "whole", cut: 0 });
    node.parameter ??= newNode();
    return node.parameter;
  }
  if (open > 0) {
    parameters.push({ name, at, part: "afterPrefix", cut: open });
    return complexNode(node, "prefix", segment.slice(0, open).toLowerCase());
  }
  const after = segment.slice(close + 1);
  if (after.startsWith(".{")) {
    parameters.push({ name, at, part: "beforeLastDot", cut: 0 });
    parameters.push({ name: after.slice(2, -1), at, part: "afterLastDot", cut: 0 });
    return complexNode(node, "dot", "");
  }
  parameters.push({ name, at, part: "beforeSuffix", cut: after.length });
  return complexNode(node, "suffix", after.toLowerCase());
}

function complexNode(node: Node, shape: Complex["shape"], text: string): Node {
  const known = node.complexes.find((each) => each.shape === shape && each.text === text);
  if (known !== undefined) return known.node;
  const made: Complex = { shape, text, node: newNode() };
  node.complexes.push(made);
  return made.node;
}

const root = newNode();
for (const route of routes) plant(root, route);

/** The rows without parameters, by their own spelling and in lower case: what most requests are. */
const plainPaths: Record<Slot, Map<string, RouteMatch>> = {
  read: new Map(),
  post: new Map(),
  delete: new Map(),
};
for (const route of routes) {
  if (route.pattern.includes("{")) continue;
  for (const method of route.methods) {
    const slot = slotOf(method);
    if (slot === undefined) continue;
    const { route: row, params } = matchRoute(method, `${route.pattern}/`);
    const match: RouteMatch = Object.freeze({ route: row, params });
    plainPaths[slot].set(route.pattern, match);
    plainPaths[slot].set(route.pattern.toLowerCase(), match);
  }
}
