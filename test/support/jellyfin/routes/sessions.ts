/** Sessions, remote control and playback reports: SessionController and PlaystateController. */
import type { UserRow } from "../database.ts";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { EMPTY_ID, parseId } from "../ids.ts";
import { type Item, itemDto } from "../library.ts";
import { containsUser, idlePlayState, type Session } from "../sessions.ts";
import { actingUser, field, required } from "./accounts.ts";

export function addSessionRoutes(routes: Routes): void {
  routes.add("GET", "/Sessions", "user", listSessions);
  addCapabilityRoutes(routes);
  addRemoteControlRoutes(routes);
  addReportRoutes(routes);
  addLegacyReportRoutes(routes);
}

function listSessions(ask: Exchange): void {
  const { sessions, database } = ask.world;
  const { caller } = ask;
  const controllable = ask.query("controllableByUserId");
  const deviceId = ask.query("deviceId")?.toLowerCase();
  const within = Number(ask.query("activeWithinSeconds") ?? 0);
  let found = controllable === undefined ? sessions.visibleTo(caller) : sessions.all();
  if (controllable !== undefined) {
    const user = database.users.get(actingUser(ask, controllable) ?? "");
    const others = caller.isApiKey || user?.policy.EnableRemoteControlOfOtherUsers === true;
    found = found.filter(
      (session) =>
        sessions.dto(session).SupportsRemoteControl === true &&
        (others || session.userId === undefined || containsUser(session, caller.userId)),
    );
  }
  if (deviceId) found = found.filter((session) => session.deviceId.toLowerCase() === deviceId);
  if (within > 0)
    found = found.filter((session) => session.lastActivity >= Date.now() - within * 1000);
  ask.reply(found.map((session) => sessions.dto(session)));
}

/** RequestHelpers.GetSession: the caller's own session, made if there is none. */
export function ownSession(ask: Exchange, userId = ask.caller.userId): Session {
  const user = userId === undefined ? undefined : ask.world.database.users.get(userId);
  return ask.world.sessions.touch(ask.caller, user, ask.world.addressOf(ask));
}

function addCapabilityRoutes(routes: Routes): void {
  const store = (ask: Exchange, capabilities: Record<string, unknown>) => {
    const id = ask.query("id");
    const session = id === undefined || id.trim() === "" ? ownSession(ask) : target(ask, id);
    ask.world.sessions.setCapabilities(session, capabilities);
    ask.noContent();
  };
  routes.add("POST", "/Sessions/Capabilities/Full", "user", (ask) => {
    const body = ask.json();
    store(ask, {
      PlayableMediaTypes: field(body, "PlayableMediaTypes") ?? [],
      SupportedCommands: field(body, "SupportedCommands") ?? [],
      SupportsMediaControl: field(body, "SupportsMediaControl") ?? false,
      SupportsPersistentIdentifier: field(body, "SupportsPersistentIdentifier") ?? false,
      DeviceProfile: field(body, "DeviceProfile"),
      AppStoreUrl: field(body, "AppStoreUrl"),
      IconUrl: field(body, "IconUrl"),
    });
  });
  routes.add("POST", "/Sessions/Capabilities", "user", (ask) =>
    store(ask, {
      PlayableMediaTypes: ask.list("playableMediaTypes"),
      SupportedCommands: ask.list("supportedCommands"),
      SupportsMediaControl: ask.query("supportsMediaControl")?.toLowerCase() === "true",
      SupportsPersistentIdentifier:
        ask.query("supportsPersistentIdentifier")?.toLowerCase() !== "false",
    }),
  );
  routes.add("POST", "/Sessions/Viewing", "user", (ask) => {
    ownSession(ask);
    ask.noContent();
  });
}

function target(ask: Exchange, id: string): Session {
  const session = ask.world.sessions.byId(id);
  if (session === undefined) throw new Refusal(404);
  return session;
}

function addRemoteControlRoutes(routes: Routes): void {
  // A command makes the sender's own session first; a target without a socket swallows it with 204.
  const command = (ask: Exchange, type: string, data: Record<string, unknown>) => {
    const sender = ownSession(ask);
    const session = target(ask, ask.param(0));
    ask.world.sessions.sendTo(session, type, {
      ...data,
      ControllingUserId: sender.userId ?? EMPTY_ID,
    });
    ask.noContent();
  };
  routes.add("POST", "/Sessions/:id/Playing", "user", (ask) =>
    command(ask, "Play", {
      ItemIds: ask.list("itemIds"),
      StartPositionTicks: optionalNumber(ask.query("startPositionTicks")),
      PlayCommand: required(ask, "playCommand"),
    }),
  );
  routes.add("POST", "/Sessions/:id/Playing/:command", "user", (ask) =>
    command(ask, "Playstate", {
      Command: ask.param(1),
      SeekPositionTicks: optionalNumber(ask.query("seekPositionTicks")),
    }),
  );
  const general = (ask: Exchange) =>
    command(ask, "GeneralCommand", { Name: ask.param(1), Arguments: {} });
  routes.add("POST", "/Sessions/:id/System/:command", "user", general);
  routes.add("POST", "/Sessions/:id/Command/:command", "user", general);
  routes.add("POST", "/Sessions/:id/Command", "user", (ask) =>
    command(ask, "GeneralCommand", ask.json()),
  );
  routes.add("POST", "/Sessions/:id/Message", "user", (ask) => {
    const body = ask.json();
    const Arguments = {
      Header: String(field(body, "Header") ?? "Message from Server"),
      Text: String(field(body, "Text") ?? ""),
    };
    command(ask, "GeneralCommand", { Name: "DisplayMessage", Arguments });
  });
  routes.add("POST", "/Sessions/:id/Viewing", "user", (ask) =>
    command(ask, "GeneralCommand", {
      Name: "DisplayContent",
      Arguments: {
        ItemId: required(ask, "itemId"),
        ItemName: required(ask, "itemName"),
        ItemType: required(ask, "itemType"),
      },
    }),
  );
  routes.add("POST", "/Sessions/:id/User/:userId", "user", (ask) => {
    const session = target(ask, ask.param(0));
    const user = userOf(ask, parseId(ask.param(1)));
    if (session.userId === user.id) throw new Refusal(400);
    if (!containsUser(session, user.id)) {
      session.additionalUsers.push({ UserId: user.id, UserName: user.name });
    }
    ask.noContent();
  });
  routes.add("DELETE", "/Sessions/:id/User/:userId", "user", (ask) => {
    const session = target(ask, ask.param(0));
    const userId = parseId(ask.param(1));
    session.additionalUsers = session.additionalUsers.filter((user) => user.UserId !== userId);
    ask.noContent();
  });
}

function addReportRoutes(routes: Routes): void {
  routes.add("POST", "/Sessions/Playing", "user", (ask) => reportStart(ask, ask.json()));
  routes.add("POST", "/Sessions/Playing/Progress", "user", (ask) =>
    reportProgress(ask, ask.json()),
  );
  routes.add("POST", "/Sessions/Playing/Stopped", "user", (ask) => reportStopped(ask, ask.json()));
  routes.add("POST", "/Sessions/Playing/Ping", "user", (ask) => {
    ask.world.transcodes.ping(required(ask, "playSessionId"));
    ask.noContent();
  });
}

/** The old forms carry the same reports in the path and the query. */
function addLegacyReportRoutes(routes: Routes): void {
  const fromQuery = (ask: Exchange, itemIndex: number): Record<string, unknown> => ({
    ItemId: ask.param(itemIndex),
    MediaSourceId: ask.query("mediaSourceId"),
    PlaySessionId: ask.query("playSessionId"),
    PositionTicks: optionalNumber(ask.query("positionTicks")),
    IsPaused: ask.query("isPaused")?.toLowerCase() === "true",
    PlayMethod: ask.query("playMethod"),
  });
  const add = (prefix: string, itemIndex: number) => {
    routes.add("POST", prefix, "user", (ask) => reportStart(ask, fromQuery(ask, itemIndex)));
    routes.add("POST", `${prefix}/Progress`, "user", (ask) =>
      reportProgress(ask, fromQuery(ask, itemIndex)),
    );
    routes.add("DELETE", prefix, "user", (ask) => reportStopped(ask, fromQuery(ask, itemIndex)));
  };
  add("/PlayingItems/:item", 0);
  add("/Users/:user/PlayingItems/:item", 1);
}

function reportStart(ask: Exchange, body: Record<string, unknown>): void {
  const session = ownSession(ask);
  const item = reportedItem(ask, body);
  nowPlaying(ask, session, item, body);
  if (item !== undefined) {
    for (const userId of usersOf(session)) {
      const row = ask.world.userData.row(userId, item.id);
      const lastPlayed = new Date().toISOString().replace("Z", "0000Z");
      ask.world.userData.save(userId, item, { ...row, playCount: row.playCount + 1, lastPlayed });
    }
  }
  ask.noContent();
}

function reportProgress(ask: Exchange, body: Record<string, unknown>): void {
  const session = ownSession(ask);
  const item = reportedItem(ask, body);
  nowPlaying(ask, session, item, body);
  const ticks = field(body, "PositionTicks");
  if (item !== undefined && typeof ticks === "number") {
    for (const userId of usersOf(session)) {
      const row = ask.world.userData.row(userId, item.id);
      ask.world.userData.save(userId, item, ask.world.userData.moved(item, row, ticks), true);
    }
  }
  const playSessionId = field(body, "PlaySessionId");
  if (typeof playSessionId === "string") ask.world.transcodes.ping(playSessionId);
  ask.noContent();
}

async function reportStopped(ask: Exchange, body: Record<string, unknown>): Promise<void> {
  const playSessionId = field(body, "PlaySessionId");
  if (typeof playSessionId === "string" && playSessionId.trim() !== "") {
    ask.world.liveTv.stopJobs(playSessionId);
    await ask.world.transcodes.stop(playSessionId);
  }
  const liveStreamId = field(body, "LiveStreamId");
  if (typeof liveStreamId === "string") ask.world.liveTv.close(liveStreamId);
  const session = ownSession(ask);
  const ticks = field(body, "PositionTicks");
  if (typeof ticks === "number" && ticks < 0) throw new Refusal(400);
  const item = reportedItem(ask, body);
  session.nowPlaying = undefined;
  session.playState = idlePlayState();
  session.transcoding = undefined;
  ask.world.sessions.changed();
  if (item !== undefined && field(body, "Failed") !== true) {
    for (const userId of usersOf(session)) {
      const row = ask.world.userData.row(userId, item.id);
      const moved =
        typeof ticks === "number"
          ? ask.world.userData.moved(item, row, ticks)
          : { ...row, playCount: row.playCount + 1, played: true, position: 0 };
      ask.world.userData.save(userId, item, moved);
    }
  }
  ask.noContent();
}

function nowPlaying(
  ask: Exchange,
  session: Session,
  item: Item | undefined,
  body: Record<string, unknown>,
): void {
  const { library, serverId, transcodes } = ask.world;
  session.lastCheckIn = Date.now();
  if (item !== undefined) session.nowPlaying = itemDto(item, library, serverId, undefined, true);
  const playSessionId = field(body, "PlaySessionId");
  const transcoding = typeof playSessionId === "string" && transcodes.hasJob(playSessionId);
  const method = field(body, "PlayMethod");
  session.playState = {
    PositionTicks: field(body, "PositionTicks"),
    CanSeek: field(body, "CanSeek") === true,
    IsPaused: field(body, "IsPaused") === true,
    IsMuted: field(body, "IsMuted") === true,
    VolumeLevel: field(body, "VolumeLevel"),
    AudioStreamIndex: field(body, "AudioStreamIndex"),
    SubtitleStreamIndex: field(body, "SubtitleStreamIndex"),
    MediaSourceId: field(body, "MediaSourceId"),
    // Without a local ffmpeg the server does not believe in a transcode (PlaystateController.ValidatePlayMethod).
    PlayMethod: method === "Transcode" && !transcoding ? "DirectPlay" : method,
    RepeatMode: field(body, "RepeatMode") ?? "RepeatNone",
    PlaybackOrder: field(body, "PlaybackOrder") ?? "Default",
  };
  session.transcoding = transcoding
    ? {
        ...{ AudioCodec: "aac", VideoCodec: "h264", Container: "ts", IsVideoDirect: false },
        ...(transcodes.percent !== undefined && { CompletionPercentage: transcodes.percent }),
      }
    : undefined;
  const queue = field(body, "NowPlayingQueue");
  if (Array.isArray(queue)) session.queue = queue;
  session.playlistItemId = field(body, "PlaylistItemId");
  ask.world.sessions.changed();
}

function reportedItem(ask: Exchange, body: Record<string, unknown>): Item | undefined {
  const id = parseId(String(field(body, "ItemId") ?? ""));
  if (id === undefined || id === EMPTY_ID) return undefined;
  return ask.world.library.get(id);
}

function usersOf(session: Session): string[] {
  const others = session.additionalUsers.map((user) => user.UserId);
  return session.userId === undefined ? others : [session.userId, ...others];
}

function userOf(ask: Exchange, id: string | undefined): UserRow {
  const user = id === undefined ? undefined : ask.world.database.users.get(id);
  if (user === undefined) throw new Refusal(404);
  return user;
}

function optionalNumber(text: string | undefined): number | undefined {
  return text === undefined || text === "" ? undefined : Number(text);
}
