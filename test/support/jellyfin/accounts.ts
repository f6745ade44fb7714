/**
 * Users, their passwords, tokens and API keys, and the QuickConnect requests of one server. Tokens live in the database
 * and survive a restart; QuickConnect lives in memory and does not. Side effects are those of SessionManager,
 * UserManager and QuickConnectManager (12.0): a new login kills the same user's token on the same device, and a
 * device's sessions end with any of its tokens.
 */
import { createHash, randomBytes } from "node:crypto";
import type { Credentials } from "./credentials.ts";
import type { Database, DeviceRow, UserRow } from "./database.ts";
import { type Caller, Refusal } from "./http.ts";
import { jellyfinDate, randomId } from "./ids.ts";
import type { Sessions } from "./sessions.ts";

const REQUEST_LIFE_MS = 10 * 60_000;
const ACTIVITY_NOTED_MS = 3 * 60_000;

export type DeviceIdentity = { client: string; device: string; deviceId: string; version: string };

type QuickConnectRequest = DeviceIdentity & {
  secret: string;
  code: string;
  added: number;
  authenticated: boolean;
};

export class Accounts {
  readonly serverId: string;
  readonly serverName: string;
  readonly #database: Database;
  readonly #sessions: Sessions;
  readonly #requests = new Map<string, QuickConnectRequest>();
  readonly #authorized = new Map<string, { at: number; result: Record<string, unknown> }>();
  readonly #quickConnectOn: () => boolean;

  constructor(options: {
    database: Database;
    sessions: Sessions;
    serverId: string;
    serverName: string;
    quickConnectOn: () => boolean;
  }) {
    this.#database = options.database;
    this.#sessions = options.sessions;
    this.serverId = options.serverId;
    this.serverName = options.serverName;
    this.#quickConnectOn = options.quickConnectOn;
  }

  // --- who asks -----------------------------------------------------------------------------------------------------

  /** The caller behind credentials; "none" without a token, "invalid" for an unknown one or a disabled user. */
  identify(credentials: Credentials): Caller | "none" | "invalid" {
    const { token } = credentials;
    if (token === undefined) return "none";
    const row = this.#database.devices.get(token);
    if (row !== undefined) return this.#identifyUser(row, credentials);
    const key = this.#database.keys.get(token);
    if (key === undefined) return "invalid";
    return {
      token,
      isApiKey: true,
      userId: undefined,
      isAdmin: true,
      client: key.name,
      device: filled(credentials.device) ?? this.serverName,
      deviceId: filled(credentials.deviceId) ?? this.serverId,
      version: filled(credentials.version) ?? "12.0.0",
    };
  }

  #identifyUser(row: DeviceRow, credentials: Credentials): Caller | "invalid" {
    const user = this.#database.users.get(row.userId);
    if (user?.policy.IsDisabled === true) return "invalid";
    const client = filled(credentials.client) ?? row.client;
    const device = filled(credentials.device) ?? row.device;
    const version = filled(credentials.version) ?? row.version;
    const renamed = device.toLowerCase() !== row.device.toLowerCase();
    const updated = version.toLowerCase() !== row.version.toLowerCase();
    const stale = Date.now() - row.lastActivity > ACTIVITY_NOTED_MS;
    if (((renamed || updated) && !/chromecast/i.test(client)) || stale) {
      const kept = /chromecast/i.test(client) ? {} : { device, version };
      this.#database.devices.set(row.token, { ...row, ...kept, lastActivity: Date.now() });
    }
    return {
      token: row.token,
      isApiKey: false,
      userId: row.userId,
      isAdmin: user?.policy.IsAdministrator === true,
      client,
      device,
      deviceId: filled(credentials.deviceId) ?? row.deviceId,
      version,
    };
  }

  // --- logging in and out -------------------------------------------------------------------------------------------

  /** POST /Users/AuthenticateByName. @throws Refusal 400 without a device, 401 for a wrong password, 403 where barred. */
  login(name: unknown, password: unknown, credentials: Credentials, address: string): unknown {
    const identity = requireDevice(credentials);
    if (typeof name !== "string" || name.trim() === "") throw new Refusal(400);
    const user = this.findByName(name);
    if (user === undefined) throw new Refusal(401);
    this.checkPassword(user, typeof password === "string" ? password : "", true);
    return this.#openSession(this.#user(user.id), identity, address);
  }

  /** Counts a wrong password on the user, as the server does, and clears the count with a right one. */
  checkPassword(user: UserRow, password: string, isLogin: boolean): void {
    const right = matches(user.passwordHash, password);
    if (user.policy.IsDisabled === true) throw new Refusal(403);
    if (right) {
      const now = Date.now();
      const dates = isLogin ? { lastLogin: now, lastActivity: now } : {};
      const policy = { ...user.policy, InvalidLoginAttemptCount: 0 };
      this.#database.users.set(user.id, { ...user, ...dates, policy });
      return;
    }
    const attempts = Number(user.policy.InvalidLoginAttemptCount ?? 0) + 1;
    const limit = Number(user.policy.LoginAttemptsBeforeLockout ?? -1);
    const locked = limit > 0 && attempts >= limit;
    const policy = {
      ...user.policy,
      InvalidLoginAttemptCount: attempts,
      ...(locked ? { IsDisabled: true } : {}),
    };
    this.#database.users.set(user.id, { ...user, policy });
    throw new Refusal(401);
  }

  /** AuthenticateNewSessionInternal, after the password: the limits, the new token, the session. */
  #openSession(
    user: UserRow,
    identity: DeviceIdentity,
    address: string | undefined,
  ): Record<string, unknown> {
    const { policy } = user;
    const allowed = policy.EnabledDevices;
    if (policy.EnableAllDevices === false && Array.isArray(allowed) && !policy.IsAdministrator) {
      if (!allowed.includes(identity.deviceId)) throw new Refusal(403);
    }
    const limit = Number(policy.MaxActiveSessions ?? 0);
    if (limit >= 1 && this.#sessions.countOf(user.id) >= limit) throw new Refusal(403);
    for (const row of [...this.#database.devices.values()]) {
      if (row.userId === user.id && same(row.deviceId, identity.deviceId)) this.#logoutRow(row);
    }
    const token = randomId();
    this.#database.devices.set(token, {
      ...identity,
      token,
      userId: user.id,
      lastActivity: Date.now(),
    });
    const session = this.#sessions.touch(identity, user, address);
    return {
      User: this.userDto(user),
      SessionInfo: this.#sessions.dto(session),
      AccessToken: token,
      ServerId: this.serverId,
    };
  }

  #logoutRow(row: DeviceRow): void {
    this.#database.devices.delete(row.token);
    this.#sessions.endDevice(row.deviceId);
  }

  /** POST /Sessions/Logout; an API key cannot be logged out and nothing happens. */
  logout(token: string): void {
    const row = this.#database.devices.get(token);
    if (row !== undefined) this.#logoutRow(row);
  }

  /** DELETE /Devices: every token of each device, whoever owns it; 400 where any is unknown. */
  removeDevices(deviceIds: readonly string[]): void {
    const rows = deviceIds.map((id) =>
      [...this.#database.devices.values()].filter((row) => same(row.deviceId, id)),
    );
    if (rows.some((found) => found.length === 0)) throw new Refusal(400, "problem");
    for (const row of rows.flat()) this.#logoutRow(row);
  }

  revokeTokens(userId: string, exceptToken: string | undefined): void {
    for (const row of [...this.#database.devices.values()]) {
      if (row.userId === userId && row.token !== exceptToken) this.#logoutRow(row);
    }
  }

  // --- QuickConnect -------------------------------------------------------------------------------------------------

  initiate(credentials: Credentials): unknown {
    const identity = requireDevice(credentials);
    this.#assertQuickConnect();
    const secret = randomBytes(32).toString("hex").toUpperCase();
    const code = String(100_000 + (randomBytes(4).readUInt32LE() % 900_000));
    const request = { ...identity, secret, code, added: Date.now(), authenticated: false };
    this.#requests.set(code, request);
    return quickConnectDto(request);
  }

  connect(secret: string): unknown {
    this.#assertQuickConnect();
    const found = [...this.#requests.values()].find((request) => request.secret === secret);
    if (found === undefined) throw new Refusal(404, { json: "Unknown secret" });
    return quickConnectDto(found);
  }

  /** This, and not the last step, makes the token. @throws Refusal 404 unknown code, 500 a second time, 400 no such user. */
  authorize(userId: string | undefined, code: string): void {
    this.#assertQuickConnect();
    const request = this.#requests.get(code);
    if (request === undefined) throw new Refusal(404);
    if (request.authenticated) throw new Refusal(500);
    request.added = Date.now() + 60_000;
    const user = userId === undefined ? undefined : this.#database.users.get(userId);
    if (user === undefined) throw new Refusal(400);
    const { client, device, deviceId, version } = request;
    const result = this.#openSession(user, { client, device, deviceId, version }, undefined);
    this.#authorized.set(request.secret, { at: Date.now(), result });
    request.authenticated = true;
  }

  authorizedResult(secret: unknown): unknown {
    this.#assertQuickConnect();
    const found = typeof secret === "string" ? this.#authorized.get(secret) : undefined;
    if (found === undefined) throw new Refusal(404);
    return found.result;
  }

  #assertQuickConnect(): void {
    if (!this.#quickConnectOn()) throw new Refusal(401, { json: "Quick connect is disabled" });
    const oldest = Date.now() - REQUEST_LIFE_MS;
    for (const [code, request] of this.#requests)
      if (request.added < oldest) this.#requests.delete(code);
    for (const [secret, entry] of this.#authorized)
      if (entry.at < oldest) this.#authorized.delete(secret);
  }

  // --- users --------------------------------------------------------------------------------------------------------

  findByName(name: string): UserRow | undefined {
    for (const user of this.#database.users.values()) if (same(user.name, name)) return user;
    return undefined;
  }

  #user(id: string): UserRow {
    const user = this.#database.users.get(id);
    if (user === undefined) throw new Refusal(404, "problem");
    return user;
  }

  /** A new user with a random id; a name that is taken is 400. */
  createUser(name: string, password: string | undefined, isAdmin = false): UserRow {
    if (this.findByName(name) !== undefined || name.trim() === "") throw new Refusal(400);
    const user: UserRow = {
      id: randomId(),
      name,
      passwordHash: password === undefined ? undefined : hashed(password),
      policy: defaultPolicy(isAdmin),
      configuration: defaultConfiguration(),
      lastLogin: undefined,
      lastActivity: undefined,
    };
    this.#database.users.set(user.id, user);
    return user;
  }

  setPassword(user: UserRow, password: string | undefined): void {
    const passwordHash = password === undefined || password === "" ? undefined : hashed(password);
    this.#database.users.set(user.id, { ...this.#user(user.id), passwordHash });
  }

  userDto(user: UserRow): Record<string, unknown> {
    return {
      Name: user.name,
      ServerId: this.serverId,
      Id: user.id,
      HasPassword: true,
      HasConfiguredPassword: user.passwordHash !== undefined,
      HasConfiguredEasyPassword: false,
      EnableAutoLogin: false,
      LastLoginDate: user.lastLogin === undefined ? undefined : jellyfinDate(user.lastLogin),
      LastActivityDate:
        user.lastActivity === undefined ? undefined : jellyfinDate(user.lastActivity),
      Configuration: user.configuration,
      Policy: user.policy,
    };
  }
}

function requireDevice(credentials: Credentials): DeviceIdentity {
  const { client, device, deviceId, version } = credentials;
  if (!client || !device || !deviceId || !version) throw new Refusal(400);
  return { client, device, deviceId, version };
}

function quickConnectDto(request: QuickConnectRequest): Record<string, unknown> {
  return {
    Authenticated: request.authenticated,
    Secret: request.secret,
    Code: request.code,
    DeviceId: request.deviceId,
    DeviceName: request.device,
    AppName: request.client,
    AppVersion: request.version,
    DateAdded: jellyfinDate(request.added),
  };
}

function hashed(password: string): string {
  const salt = randomBytes(8).toString("hex");
  return `${salt}$${createHash("sha256").update(salt).update(password).digest("hex")}`;
}

function matches(passwordHash: string | undefined, password: string): boolean {
  if (passwordHash === undefined) return password === "";
  const [salt = "", digest] = passwordHash.split("$");
  return createHash("sha256").update(salt).update(password).digest("hex") === digest;
}

/** Jellyfin treats a blank field as not given. */
function filled(value: string | undefined): string | undefined {
  return value === undefined || value.trim() === "" ? undefined : value;
}

function same(one: string, other: string): boolean {
  return one.toLowerCase() === other.toLowerCase();
}

function defaultConfiguration(): Record<string, unknown> {
  return {
    PlayDefaultAudioTrack: true,
    SubtitleLanguagePreference: "",
    DisplayMissingEpisodes: false,
    GroupedFolders: [],
    SubtitleMode: "Default",
    DisplayCollectionsView: false,
    EnableLocalPassword: false,
    OrderedViews: [],
    LatestItemsExcludes: [],
    MyMediaExcludes: [],
    HidePlayedInLatest: true,
    RememberAudioSelections: true,
    RememberSubtitleSelections: true,
    EnableNextEpisodeAutoPlay: true,
    CastReceiverId: "F007D354",
  };
}

function defaultPolicy(isAdmin: boolean): Record<string, unknown> {
  const providers = "Jellyfin.Server.Implementations.Users";
  return {
    IsAdministrator: isAdmin,
    IsHidden: true,
    EnableCollectionManagement: false,
    EnableSubtitleManagement: false,
    EnableLyricManagement: false,
    IsDisabled: false,
    BlockedTags: [],
    AllowedTags: [],
    EnableUserPreferenceAccess: true,
    AccessSchedules: [],
    BlockUnratedItems: [],
    EnableRemoteControlOfOtherUsers: isAdmin,
    EnableSharedDeviceControl: true,
    EnableRemoteAccess: true,
    EnableLiveTvManagement: false,
    EnableLiveTvAccess: true,
    EnableMediaPlayback: true,
    EnableAudioPlaybackTranscoding: true,
    EnableVideoPlaybackTranscoding: true,
    EnablePlaybackRemuxing: true,
    ForceRemoteSourceTranscoding: false,
    EnableContentDeletion: isAdmin,
    EnableContentDeletionFromFolders: [],
    EnableContentDownloading: true,
    EnableSyncTranscoding: true,
    EnableMediaConversion: true,
    EnabledDevices: [],
    EnableAllDevices: true,
    EnabledChannels: [],
    EnableAllChannels: true,
    EnabledFolders: [],
    EnableAllFolders: true,
    InvalidLoginAttemptCount: 0,
    LoginAttemptsBeforeLockout: -1,
    MaxActiveSessions: 0,
    EnablePublicSharing: true,
    BlockedMediaFolders: [],
    BlockedChannels: [],
    RemoteClientBitrateLimit: 0,
    AuthenticationProviderId: `${providers}.DefaultAuthenticationProvider`,
    PasswordResetProviderId: `${providers}.DefaultPasswordResetProvider`,
    SyncPlayAccess: "CreateAndJoinGroups",
  };
}
