/**
 * One run of a stand-in server: what it saved, what it holds in memory, its switches. A restart in process throws the
 * memory away and makes a new world over the same folders, exactly as Jellyfin's own restart does.
 *
 * Folders are laid out as a server's: `config/`, `data/data/jellyfin.db`, `data/data/device.txt`, `cache/transcodes`.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Accounts } from "./accounts.ts";
import { type Credentials, readCredentials } from "./credentials.ts";
import { Database } from "./database.ts";
import type { Faults } from "./faults.ts";
import type { Exchange } from "./http.ts";
import { randomId } from "./ids.ts";
import { Library } from "./library.ts";
import { Lists } from "./lists.ts";
import { LiveTv } from "./live-tv.ts";
import { LibraryMonitor, LibraryNews } from "./monitor.ts";
import { ForwardedFor } from "./network.ts";
import { Plugins } from "./plugins.ts";
import { Sessions } from "./sessions.ts";
import { SyncPlay } from "./sync-play.ts";
import { Tasks } from "./tasks.ts";
import { Transcodes } from "./transcodes.ts";
import { UserDataKeeper } from "./userdata.ts";

export type WorldOptions = {
  readonly dataFolder: string;
  readonly mediaFolder: string;
  /** Pages to serve under /web/ instead of the built-in one. */
  readonly webFolder?: string | undefined;
  readonly apiKey: string | undefined;
  readonly knownProxies: readonly string[] | undefined;
  readonly baseUrl: string;
  readonly address: () => string;
  readonly faults: Faults;
  readonly restart: () => void;
  readonly shutDown: () => void;
};

export function databaseFile(dataFolder: string): string {
  return join(dataFolder, "data", "data", "jellyfin.db");
}

export function deviceFile(dataFolder: string): string {
  return join(dataFolder, "data", "data", "device.txt");
}

export class World {
  readonly options: WorldOptions;
  readonly faults: Faults;
  readonly database: Database;
  readonly serverId: string;
  readonly sessions: Sessions;
  readonly accounts: Accounts;
  readonly library: Library;
  readonly monitor = new LibraryMonitor();
  readonly libraryNews: LibraryNews;
  readonly userData: UserDataKeeper;
  readonly lists: Lists;
  readonly tasks: Tasks;
  readonly transcodes: Transcodes;
  readonly liveTv: LiveTv;
  readonly forwarded: ForwardedFor;
  readonly syncPlay: SyncPlay;
  readonly plugins: Plugins;
  /** Resized pictures are made on first request and carry that moment as their date. */
  readonly resizedAt = new Map<string, number>();

  constructor(options: WorldOptions) {
    this.options = options;
    this.faults = options.faults;
    this.library = new Library(options.dataFolder);
    this.database = new Database(databaseFile(options.dataFolder));
    this.serverId = serverIdIn(options.dataFolder);
    this.#furnish();
    this.sessions = new Sessions(this.serverId);
    this.accounts = new Accounts({
      database: this.database,
      sessions: this.sessions,
      serverId: this.serverId,
      serverName: this.serverName,
      quickConnectOn: () => this.configuration("system").QuickConnectAvailable === true,
    });
    this.#firstUsers();
    const system = () => this.configuration("system");
    this.userData = new UserDataKeeper(this.database, this.library, this.sessions, () => ({
      minPercent: Number(system().MinResumePct),
      maxPercent: Number(system().MaxResumePct),
      minSeconds: Number(system().MinResumeDurationSeconds),
    }));
    this.libraryNews = new LibraryNews(
      this.sessions,
      () => Number(system().LibraryUpdateDuration) * 1000,
    );
    this.lists = new Lists(this.database, this.library);
    this.tasks = new Tasks({
      database: this.database,
      configFolder: join(options.dataFolder, "config"),
      deeds: { RefreshLibrary: () => void this.scan() },
      changed: () => this.sessions.changed("ScheduledTasksInfo"),
    });
    this.sessions.tasks = () => this.tasks.list();
    this.transcodes = new Transcodes(join(options.dataFolder, "cache", "transcodes"));
    this.liveTv = new LiveTv({
      folder: join(options.dataFolder, "cache", "transcodes"),
      timersFile: join(options.dataFolder, "data", "livetv", "timers.json"),
      configuration: () => this.configuration("livetv"),
      address: options.address,
    });
    this.plugins = new Plugins(this);
    this.syncPlay = new SyncPlay({
      sessions: this.sessions,
      library: this.library,
      maySee: (userId, itemId) => this.#maySee(userId, itemId),
    });
    const proxies = this.configuration("network").KnownProxies;
    this.forwarded = new ForwardedFor(Array.isArray(proxies) ? proxies.map(String) : []);
  }

  /** Whether an item is there and lies in a library that the user was given. */
  #maySee(userId: string, itemId: string): boolean {
    const user = this.database.users.get(userId);
    let item = this.library.get(itemId);
    if (user === undefined || item === undefined) return false;
    if (user.policy.EnableAllFolders !== false) return true;
    const allowed = Array.isArray(user.policy.EnabledFolders) ? user.policy.EnabledFolders : [];
    for (let depth = 0; item !== undefined && depth < 10; depth += 1) {
      if (allowed.includes(item.id)) return true;
      item = this.library.get(item.parentId);
    }
    return false;
  }

  get serverName(): string {
    return String(this.configuration("system").ServerName);
  }

  configuration(name: string): Record<string, unknown> {
    return this.database.documents.get(name) ?? {};
  }

  configure(name: string, change: Record<string, unknown>): void {
    this.database.documents.set(name, { ...this.configuration(name), ...change });
  }

  /** Default documents, an API key; an owner's changes to them are kept. */
  #furnish(): void {
    const { knownProxies, apiKey } = this.options;
    for (const [name, document] of Object.entries(DEFAULT_DOCUMENTS)) {
      if (this.database.documents.get(name) === undefined)
        this.database.documents.set(name, document);
    }
    if (knownProxies !== undefined) this.configure("network", { KnownProxies: [...knownProxies] });
    if (apiKey !== undefined && this.database.keys.get(apiKey) === undefined) {
      this.database.keys.set(apiKey, { token: apiKey, name: "jellybloom", created: Date.now() });
    } else if (this.database.keys.size === 0) {
      const token = randomId();
      this.database.keys.set(token, { token, name: "jellybloom", created: Date.now() });
    }
  }

  #firstUsers(): void {
    if (this.database.users.size > 0) return;
    this.accounts.createUser("root", "root", true);
    this.accounts.createUser("kid", "kid");
  }

  async scan(): Promise<void> {
    const change = await this.library.scan(this.options.mediaFolder, this.database);
    this.lists.show();
    this.libraryNews.note(change);
  }

  credentials(exchange: Pick<Exchange, "request" | "queryAsItCame">): Credentials {
    const legacy = this.configuration("system").EnableLegacyAuthorization === true;
    const inQuery = (name: string) => exchange.queryAsItCame(name);
    return readCredentials(exchange.request.headers, inQuery, legacy);
  }

  /** The caller's address as the server sees it, after known proxies. */
  addressOf(exchange: Pick<Exchange, "request">): string {
    const { socket, headers } = exchange.request;
    return this.forwarded.addressOf(socket.remoteAddress ?? "", headers["x-forwarded-for"]);
  }

  get wizardCompleted(): boolean {
    return this.configuration("system").IsStartupWizardCompleted === true;
  }

  async end(message: "ServerShuttingDown" | "ServerRestarting"): Promise<void> {
    this.sessions.shutDown(message);
    this.userData.stop();
    this.tasks.stop();
    this.liveTv.end();
    this.monitor.stop();
    this.libraryNews.stop();
    await this.transcodes.kill(() => true, true);
  }
}

function serverIdIn(dataFolder: string): string {
  const file = deviceFile(dataFolder);
  if (existsSync(file)) return readFileSync(file, "utf8").trim();
  const id = randomId();
  mkdirSync(join(dataFolder, "config"), { recursive: true });
  writeFileSync(file, id);
  return id;
}

/**
 * Short films must keep a position, too, so the shortest film that may be resumed is 0 s here (an owner's setting; the
 * server's default is 300 s).
 */
const DEFAULT_DOCUMENTS: Record<string, Record<string, unknown>> = {
  system: {
    ServerName: "jellyfin",
    EnableMetrics: true,
    QuickConnectAvailable: true,
    IsStartupWizardCompleted: true,
    EnableLegacyAuthorization: false,
    MinResumePct: 5,
    MaxResumePct: 90,
    MinResumeDurationSeconds: 0,
    PreferredMetadataLanguage: "en",
    MetadataCountryCode: "US",
    UICulture: "en-US",
    LibraryUpdateDuration: 30,
  },
  network: {
    BaseUrl: "",
    InternalHttpPort: 8096,
    AutoDiscovery: false,
    EnableIPv4: true,
    EnableIPv6: false,
    EnableRemoteAccess: true,
    LocalNetworkSubnets: [],
    KnownProxies: [],
    RemoteIPFilter: [],
    IsRemoteIPFilterBlacklist: false,
  },
  encoding: {
    EncodingThreadCount: 1,
    EncoderPreset: "ultrafast",
    HardwareAccelerationType: "none",
    H264Crf: 28,
    EnableThrottling: false,
    EnableSubtitleExtraction: true,
    AllowHevcEncoding: false,
  },
  branding: { SplashscreenEnabled: false },
  livetv: { TunerHosts: [], RecordingPath: null },
};
