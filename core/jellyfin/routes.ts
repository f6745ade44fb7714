// The table of Jellyfin's routes: for every request path, what it is and what it needs. This is the
// project's central table (design, section 4): who must answer, whether the request may be sent again,
// whose word is final, what it changes and what it ends.
// It promises a row for every route of Jellyfin 12.0 that changes something, for every reading route
// that is more than a plain question, and one default each for what it does not know.

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
 * - `final`     401, 403 and 404 are shown as they are: password, PIN, QuickConnect
 * - `doubt401`  a 401 for a known token is one replica's opinion
 * - `doubt404`  so is a 401, and a 404 is shown only when every ready replica that may have it said so
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
  | "systemInfo"
  | "sessions";

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
  /** It may be repeated all the same when its query and body open no live stream (`mayOpenLiveStream`). */
  readonly opensLiveStream: boolean;
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

/** Every row, in the order of the table. */
export const routes: readonly Route[] = [];

/**
 * Finds the row of a request. Letter case, percent-encoding, doubled and trailing slashes and dot segments
 * are read as Jellyfin reads them (paths.ts). Never throws.
 *
 * `path` is the request target or its path part; `baseSegments` the door's BaseUrl from `baseSegmentsOf`. A
 * path outside of the base is matched as it stands: Jellyfin answers it with a redirect.
 */
export declare function matchRoute(
  method: string,
  path: string,
  baseSegments?: readonly string[],
): RouteMatch;
