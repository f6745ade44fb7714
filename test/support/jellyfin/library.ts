/**
 * The library of a stand-in: the files under its media folder. `tv/<show>/<season>/<… S01E02 …>` are episodes with a
 * series and a season above them, every other video is a film. Ids are hashes of type and path, so two servers that see
 * the same folder agree on them, and ETags and image tags come from the files. An item can be hidden, as one that this
 * server has not scanned yet.
 */
import { execFile } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, extname, join, relative } from "node:path";
import { promisify } from "node:util";
import type { Database } from "./database.ts";
import { EMPTY_ID, idOfText, jellyfinDate } from "./ids.ts";
import type { LibraryChange } from "./monitor.ts";

const run = promisify(execFile);
const VIDEO = new Set([".mp4", ".mkv", ".webm", ".bin"]);
/** What cannot be probed (a file of random bytes) counts as ten minutes long. */
const UNPROBED_SECONDS = 600;
const TICKS_PER_SECOND = 10_000_000;

export type Kind =
  | "Movie"
  | "Episode"
  | "Season"
  | "Series"
  | "CollectionFolder"
  | "UserRootFolder"
  | "Playlist"
  | "BoxSet";

export type Item = {
  readonly id: string;
  readonly kind: Kind;
  readonly name: string;
  readonly path: string;
  readonly parentId: string;
  readonly isFolder: boolean;
  readonly runTimeTicks: number;
  readonly size: number;
  readonly modifiedMs: number;
  readonly etag: string;
  readonly container: string;
  readonly width: number;
  readonly height: number;
  readonly frameRate: number;
  readonly index: number | undefined;
  readonly parentIndex: number | undefined;
  readonly year: number | undefined;
  readonly poster: string | undefined;
  readonly backdrop: string | undefined;
  /** Files, those beside the media first. */
  readonly subtitles: readonly string[];
  readonly lyrics: readonly string[];
  readonly collectionType: string | undefined;
};

const TYPE_NAMES: Record<Kind, string> = {
  Movie: "MediaBrowser.Controller.Entities.Movies.Movie",
  Episode: "MediaBrowser.Controller.Entities.TV.Episode",
  Season: "MediaBrowser.Controller.Entities.TV.Season",
  Series: "MediaBrowser.Controller.Entities.TV.Series",
  CollectionFolder: "MediaBrowser.Controller.Entities.CollectionFolder",
  UserRootFolder: "MediaBrowser.Controller.Entities.UserRootFolder",
  Playlist: "MediaBrowser.Controller.Playlists.Playlist",
  BoxSet: "MediaBrowser.Controller.Entities.Movies.BoxSet",
};

/** The id Jellyfin gives an item of this type at this path (LibraryManager.GetNewItemId). */
export function itemId(kind: Kind, path: string): string {
  return idOfText(TYPE_NAMES[kind] + path);
}

export const ROOT_ID = itemId("UserRootFolder", "root/default");

/** What tasks make of an item, in this server's own database and folders. */
export interface Derived {
  readonly chapterPictures: boolean;
  readonly segments: boolean;
  readonly trickplay: boolean;
}

const nothingDerived: Derived = { chapterPictures: false, segments: false, trickplay: false };

/** Where a server keeps files of an item that do not lie beside its media (BaseItem.GetInternalMetadataPath). */
export function metadataFolder(dataFolder: string, id: string): string {
  return join(dataFolder, "metadata", "library", id.slice(0, 2), id);
}

export class Library {
  readonly #dataFolder: string;
  readonly #items = new Map<string, Item>();
  readonly #versions = new Map<string, readonly string[]>();
  readonly #hidden = new Set<string>();
  readonly #derived = new Map<string, Derived>();
  /** Items as they were when they were last saved, and when; undefined until the first scan, which finds what was known. */
  #saved: Map<string, { readonly item: Item; readonly atMs: number }> | undefined;

  constructor(dataFolder: string) {
    this.#dataFolder = dataFolder;
  }

  get(id: string): Item | undefined {
    const known = this.#items.get(id === EMPTY_ID ? ROOT_ID : id);
    return known === undefined || this.#hidden.has(known.id) ? undefined : known;
  }

  visible(): Item[] {
    return [...this.#items.values()].filter((item) => !this.#hidden.has(item.id));
  }

  children(id: string): Item[] {
    return this.visible().filter((item) => item.parentId === id);
  }

  /** All leaves under a folder, at any depth. */
  leaves(id: string): Item[] {
    return this.children(id).flatMap((item) => (item.isFolder ? this.leaves(item.id) : [item]));
  }

  /** What this server's own tasks have made of an item. */
  derived(id: string): Derived {
    return this.#derived.get(id) ?? nothingDerived;
  }

  derive(id: string, made: Partial<Derived>): void {
    this.#derived.set(id, { ...this.derived(id), ...made });
  }

  /** Makes these items versions of one film. */
  merge(ids: readonly string[]): void {
    for (const id of ids) this.#versions.set(id, ids);
  }

  /** An item and the other versions of it. */
  versions(item: Item): Item[] {
    const ids = this.#versions.get(item.id) ?? [];
    const others = ids.flatMap((id) => (id === item.id ? [] : (this.#items.get(id) ?? [])));
    return [item, ...others];
  }

  /** Hides or shows an item named by its id, its name or the name of its file; answers the ids it touched. */
  hide(which: string, hidden: boolean): string[] {
    const found = [...this.#items.values()].filter(
      (item) => item.id === which || item.name === which || basename(item.path) === which,
    );
    for (const item of found) {
      if (hidden) this.#hidden.add(item.id);
      else this.#hidden.delete(item.id);
    }
    return found.map((item) => item.id);
  }

  add(item: Item): void {
    this.#items.set(item.id, item);
  }

  remove(id: string): void {
    this.#items.delete(id);
  }

  /** Looks which files belong to an item by now: beside its media, and in the server's own folder. */
  index(id: string): void {
    const item = this.#items.get(id);
    if (item !== undefined && !item.isFolder) this.add(this.#withFiles(item));
  }

  #withFiles(item: Item): Item {
    const folders = [dirname(item.path), metadataFolder(this.#dataFolder, item.id)];
    const stem = `${basename(item.path, extname(item.path))}.`;
    const named = (ending: string) =>
      folders.flatMap((folder) =>
        (existsSync(folder) ? readdirSync(folder) : [])
          .filter((name) => name.startsWith(stem) && name.endsWith(ending))
          .sort()
          .map((name) => join(folder, name)),
      );
    return { ...item, subtitles: named(".srt"), lyrics: named(".lrc") };
  }

  /** Reads the media folder anew. What ffprobe says is kept by path, date and size, so that it is asked once. */
  async scan(mediaFolder: string, database: Database): Promise<LibraryChange> {
    this.#items.clear();
    this.add(folder("UserRootFolder", "Media Folders", "root/default", ""));
    const movies = folder("CollectionFolder", "Movies", "root/default/Movies", ROOT_ID, "movies");
    const shows = folder("CollectionFolder", "Shows", "root/default/Shows", ROOT_ID, "tvshows");
    this.add(movies);
    this.add(shows);
    const files = videosUnder(mediaFolder);
    const scanned = await Promise.all(
      files.map(async (path) => ({ path, probe: await probe(path, database) })),
    );
    for (const { path, probe: found } of scanned) {
      const inShows = relative(mediaFolder, path).split(/[\\/]/)[0]?.toLowerCase() === "tv";
      const numbers = /S(\d+)E(\d+)/i.exec(basename(path));
      if (inShows && numbers !== null) {
        const [, season, episode] = numbers.map(Number);
        const parent = this.#addShow(path, shows.id, season ?? 1);
        this.add(this.#withFiles(video("Episode", path, parent, found, episode, season)));
      } else {
        this.add(this.#withFiles(video("Movie", path, movies.id, found, undefined, undefined)));
      }
    }
    return this.#save();
  }

  /** When an item was last saved, in ms since the epoch; 0: before this server started. */
  savedAtMs(id: string): number {
    return this.#saved?.get(id)?.atMs ?? 0;
  }

  #save(): LibraryChange {
    const before = this.#saved;
    const nowMs = before === undefined ? 0 : Date.now();
    const saved = new Map<string, { readonly item: Item; readonly atMs: number }>();
    const change = { added: [] as string[], updated: [] as string[] };
    for (const item of this.#items.values()) {
      const known = before?.get(item.id);
      const isSame = known?.item.etag === item.etag && known.item.size === item.size;
      saved.set(item.id, isSame ? known : { item, atMs: nowMs });
      if (before === undefined || isSame) continue;
      (known === undefined ? change.added : change.updated).push(item.id);
    }
    const gone = [...(before ?? [])].filter(([id]) => !saved.has(id));
    this.#saved = saved;
    return {
      ...change,
      removed: gone.map(([id]) => id),
      removedFrom: gone.map(([, { item }]) => item.parentId).filter((id) => saved.has(id)),
    };
  }

  #addShow(path: string, rootId: string, seasonNumber: number): string {
    const seasonPath = dirname(path);
    const seriesPath = dirname(seasonPath);
    const series = folder("Series", nameOf(seriesPath), seriesPath, rootId);
    const season = folder(
      "Season",
      basename(seasonPath),
      seasonPath,
      series.id,
      undefined,
      seasonNumber,
    );
    if (!this.#items.has(series.id)) this.add(series);
    if (!this.#items.has(season.id)) this.add(season);
    return season.id;
  }
}

function videosUnder(mediaFolder: string): string[] {
  if (!existsSync(mediaFolder)) return [];
  return readdirSync(mediaFolder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && VIDEO.has(extname(entry.name).toLowerCase()))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

type Probe = { seconds: number; width: number; height: number; frameRate: number };

async function probe(path: string, database: Database): Promise<Probe> {
  const info = statSync(path);
  const key = `${path}|${info.size}|${info.mtimeMs}`;
  const known = database.probes.get(key);
  if (known !== undefined) return known as Probe;
  const found = await ffprobe(path);
  database.probes.set(key, found);
  return found;
}

async function ffprobe(path: string): Promise<Probe> {
  const unknown: Probe = { seconds: UNPROBED_SECONDS, width: 320, height: 180, frameRate: 24 };
  if (extname(path) === ".bin") return unknown;
  const wanted = "format=duration:stream=width,height,avg_frame_rate,codec_type";
  try {
    const args = ["-v", "error", "-show_entries", wanted, "-of", "json", path];
    const { stdout } = await run("ffprobe", args, { timeout: 20_000 });
    const result = JSON.parse(stdout) as {
      format?: { duration?: string };
      streams?: { codec_type?: string; width?: number; height?: number; avg_frame_rate?: string }[];
    };
    const picture = result.streams?.find((stream) => stream.codec_type === "video");
    const [top = 24, bottom = 1] = (picture?.avg_frame_rate ?? "24/1").split("/").map(Number);
    return {
      seconds: Number(result.format?.duration ?? UNPROBED_SECONDS) || UNPROBED_SECONDS,
      width: picture?.width ?? 320,
      height: picture?.height ?? 180,
      frameRate: bottom === 0 ? 24 : top / bottom,
    };
  } catch {
    // No ffprobe, or not a video: the length is a guess then, and everything but transcoding works.
    return unknown;
  }
}

/** "Name (2020)" without its year. */
function nameOf(path: string): string {
  return basename(path).replace(/\s*\(\d{4}\)$/, "");
}

function yearOf(name: string): number | undefined {
  const year = /\((\d{4})\)/.exec(name)?.[1];
  return year === undefined ? undefined : Number(year);
}

function folder(
  kind: Kind,
  name: string,
  path: string,
  parentId: string,
  collectionType?: string,
  index?: number,
): Item {
  const real = existsSync(path);
  const modifiedMs = real ? statSync(path).mtimeMs : 0;
  return {
    ...bare(kind, name, path, parentId),
    modifiedMs,
    index,
    year: yearOf(basename(path)),
    poster: real ? firstExisting([join(path, "poster.jpg")]) : undefined,
    collectionType,
  };
}

/** A folder without a picture or a file of its own; playlists and collections begin as this, too. */
export function bare(kind: Kind, name: string, path: string, parentId: string): Item {
  return {
    id: itemId(kind, path),
    kind,
    name,
    path,
    parentId,
    isFolder: true,
    runTimeTicks: 0,
    size: 0,
    modifiedMs: 0,
    etag: idOfText(`etag${path}`),
    container: "",
    width: 0,
    height: 0,
    frameRate: 0,
    index: undefined,
    parentIndex: undefined,
    year: undefined,
    poster: undefined,
    backdrop: undefined,
    subtitles: [],
    lyrics: [],
    collectionType: undefined,
  };
}

function video(
  kind: Kind,
  path: string,
  parentId: string,
  found: Probe,
  index: number | undefined,
  parentIndex: number | undefined,
): Item {
  const info = statSync(path);
  const stem = basename(path, extname(path));
  const place = dirname(path);
  return {
    ...bare(kind, stem, path, parentId),
    isFolder: false,
    runTimeTicks: Math.round(found.seconds * TICKS_PER_SECOND),
    size: info.size,
    modifiedMs: info.mtimeMs,
    etag: idOfText(`${path}${info.mtimeMs}`),
    container: extname(path).slice(1).toLowerCase(),
    width: found.width,
    height: found.height,
    frameRate: found.frameRate,
    index,
    parentIndex,
    year: yearOf(stem),
    poster: firstExisting([join(place, `${stem}-poster.jpg`), join(place, "poster.jpg")]),
    backdrop: firstExisting([join(place, "backdrop.jpg")]),
  };
}

function firstExisting(paths: string[]): string | undefined {
  return paths.find((path) => existsSync(path));
}

/** The tag of a picture: it changes when the file does. */
export function imageTag(path: string): string {
  return idOfText(`${path}${existsSync(path) ? statSync(path).mtimeMs : 0}`);
}

/** BaseItemDto, the parts clients and proxies read. */
export function itemDto(
  item: Item,
  library: Library,
  serverId: string,
  userData: Record<string, unknown> | undefined,
  full: boolean,
): Record<string, unknown> {
  const dto: Record<string, unknown> = {
    Name: item.name,
    ServerId: serverId,
    Id: item.id,
    Container: item.isFolder ? undefined : containerNames(item.container),
    ChannelId: null,
    RunTimeTicks: item.isFolder ? undefined : item.runTimeTicks,
    ProductionYear: item.year,
    IndexNumber: item.index,
    ParentIndexNumber: item.parentIndex,
    IsFolder: item.isFolder,
    Type: item.kind,
    HasSubtitles: item.subtitles.length === 0 ? undefined : true,
    UserData: userData,
    CollectionType: item.collectionType,
    VideoType: item.isFolder ? undefined : "VideoFile",
    ImageTags: item.poster === undefined ? {} : { Primary: imageTag(item.poster) },
    BackdropImageTags: item.backdrop === undefined ? [] : [imageTag(item.backdrop)],
    ImageBlurHashes: {},
    LocationType: "FileSystem",
    MediaType: item.isFolder ? "Unknown" : "Video",
  };
  addShowFields(dto, item, library);
  if (!full) return dto;
  const derived = library.derived(item.id);
  const versionOf = (version: Item) => ({
    ...mediaSource(version),
    HasSegments: library.derived(version.id).segments,
  });
  return Object.assign(dto, {
    Etag: item.etag,
    DateCreated: jellyfinDate(item.modifiedMs),
    CanDelete: !item.isFolder,
    CanDownload: !item.isFolder,
    SortName: item.name.toLowerCase(),
    ExternalUrls: [],
    MediaSources: item.isFolder ? undefined : library.versions(item).map(versionOf),
    Path: item.path,
    EnableMediaSourceDisplay: true,
    Taglines: [],
    Genres: [],
    PlayAccess: "Full",
    ProviderIds: {},
    ParentId: item.parentId === "" ? null : item.parentId,
    People: [],
    Studios: [],
    GenreItems: [],
    ChildCount: item.isFolder ? library.children(item.id).length : undefined,
    SpecialFeatureCount: 0,
    DisplayPreferencesId: item.id,
    Tags: [],
    MediaStreams: item.isFolder ? undefined : mediaStreams(item),
    Chapters: item.isFolder ? undefined : [chapterDto(item, derived)],
    Trickplay: item.isFolder ? undefined : trickplayDto(item, derived),
    Width: item.isFolder ? undefined : item.width,
    Height: item.isFolder ? undefined : item.height,
    LockedFields: [],
    LockData: false,
  });
}

function addShowFields(dto: Record<string, unknown>, item: Item, library: Library): void {
  if (item.kind !== "Episode" && item.kind !== "Season") return;
  const season = item.kind === "Season" ? item : library.get(item.parentId);
  const series = season === undefined ? undefined : library.get(season.parentId);
  dto.SeriesName = series?.name;
  dto.SeriesId = series?.id;
  if (item.kind === "Season") return;
  dto.SeasonId = season?.id;
  dto.SeasonName = season?.name;
}

function containerNames(container: string): string {
  return container === "mp4" ? "mov,mp4,m4a,3gp,3g2,mj2" : container;
}

/** A film without chapters of its own has one from its start (ChapterManager makes dummies only where told to). */
function chapterDto({ id, modifiedMs }: Item, { chapterPictures }: Derived) {
  const chapter = { StartPositionTicks: 0, Name: "Chapter 1", ImageDateModified: "0001-01-01" };
  if (!chapterPictures) return chapter;
  const tag = { ImagePath: `/chapters/${id}/0.jpg`, ImageTag: idOfText(`chapter ${id}`) };
  return { ...chapter, ...tag, ImageDateModified: jellyfinDate(modifiedMs) };
}

/** By media source and width (BaseItemDto.Trickplay). */
function trickplayDto({ id }: Item, { trickplay }: Derived): Record<string, unknown> {
  const tiles = { Width: 320, Height: 180, TileWidth: 10, TileHeight: 10, ThumbnailCount: 6 };
  return trickplay ? { [id]: { "320": { ...tiles, Interval: 10_000, Bandwidth: 1000 } } } : {};
}

export function mediaSource(item: Item): Record<string, unknown> {
  return {
    Protocol: "File",
    Id: item.id,
    Path: item.path,
    Type: "Default",
    Container: item.container,
    Size: item.size,
    Name: item.name,
    IsRemote: false,
    ETag: item.etag,
    RunTimeTicks: item.runTimeTicks,
    ReadAtNativeFramerate: false,
    IgnoreDts: false,
    IgnoreIndex: false,
    GenPtsInput: false,
    SupportsTranscoding: true,
    SupportsDirectStream: true,
    SupportsDirectPlay: true,
    IsInfiniteStream: false,
    UseMostCompatibleTranscodingProfile: false,
    RequiresOpening: false,
    RequiresClosing: false,
    RequiresLooping: false,
    SupportsProbing: true,
    VideoType: "VideoFile",
    MediaStreams: mediaStreams(item),
    MediaAttachments: [],
    Formats: [],
    Bitrate: bitrate(item),
    RequiredHttpHeaders: {},
    TranscodingSubProtocol: "http",
    DefaultAudioStreamIndex: 1,
    HasSegments: false,
  };
}

export function bitrate(item: Item): number {
  return Math.round((item.size * 8) / Math.max(1, item.runTimeTicks / TICKS_PER_SECOND));
}

function mediaStreams(item: Item): Record<string, unknown>[] {
  const picture = {
    Codec: "h264",
    Language: "und",
    DisplayTitle: `${item.height}p H264 SDR`,
    IsInterlaced: false,
    IsAVC: true,
    BitRate: bitrate(item),
    BitDepth: 8,
    IsDefault: true,
    Height: item.height,
    Width: item.width,
    AverageFrameRate: item.frameRate,
    RealFrameRate: item.frameRate,
    Profile: "Constrained Baseline",
    Type: "Video",
    Index: 0,
    IsExternal: false,
    PixelFormat: "yuv420p",
    Level: 13,
  };
  const sound = {
    Codec: "aac",
    Language: "und",
    DisplayTitle: "AAC - Stereo - Default",
    Channels: 2,
    SampleRate: 48_000,
    IsDefault: true,
    Profile: "LC",
    Type: "Audio",
    Index: 1,
    IsExternal: false,
  };
  const subtitles = item.subtitles.map((path, at) => subtitleStream(item, path, at + 2));
  // Of lyrics no more is told than this (MediaInfoResolver.GetExternalStreams).
  const lyrics = item.lyrics.map((Path, at) => ({
    ...{ Type: "Lyric", Index: subtitles.length + at + 2, IsExternal: false, Path },
  }));
  return [picture, sound, ...subtitles, ...lyrics];
}

const LANGUAGES: Readonly<Record<string, string>> = { en: "eng", de: "ger", fr: "fre" };

/** What a file's name says of it: its language, then flags, then a number perhaps. */
function subtitleStream(item: Item, path: string, index: number): Record<string, unknown> {
  const stem = basename(item.path, extname(item.path));
  const said = basename(path, extname(path)).slice(stem.length).split(".");
  const language = said[1] ?? "";
  return {
    Codec: "subrip",
    Language: LANGUAGES[language] ?? language,
    DisplayTitle: "English - SUBRIP - External",
    Type: "Subtitle",
    Index: index,
    IsExternal: true,
    IsForced: said.includes("forced"),
    IsHearingImpaired: said.includes("sdh"),
    IsTextSubtitleStream: true,
    SupportsExternalStream: true,
    Path: path,
  };
}
