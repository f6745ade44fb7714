/**
 * The folders of the libraries and what a server sees in them: LibraryStructureController (what an administrator reads)
 * and EnvironmentController. A folder that is not there is 404, as the exception middleware says of a missing directory.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { extname, join } from "node:path";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { itemId } from "../library.ts";
import type { WatchedLibrary } from "../monitor.ts";
import type { World } from "../world.ts";
import { field } from "./accounts.ts";
import { extraFolders, writesMedia } from "./catalog.ts";

const FILMS = new Set([".mp4", ".mkv", ".webm", ".bin"]);

/** Where each library's media lie, as it was when the server was set up: a folder that vanishes stays a location. */
function locations(world: World): Record<"Movies" | "Shows", string[]> {
  const { mediaFolder } = world.options;
  let known = world.database.documents.get("virtual-folders");
  if (known === undefined) {
    const entries = existsSync(mediaFolder)
      ? readdirSync(mediaFolder, { withFileTypes: true })
      : [];
    const folders = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
    const hasFilms = entries.some(({ name }) => FILMS.has(extname(name).toLowerCase()));
    const movies = folders.filter((name) => name.toLowerCase() !== "tv");
    known = {
      Movies: hasFilms || movies.length === 0 ? [""] : movies,
      Shows: folders.filter((name) => name.toLowerCase() === "tv"),
    };
    world.database.documents.set("virtual-folders", known);
  }
  const paths = (names: unknown) => (names as string[]).map((name) => join(mediaFolder, name));
  return { Movies: paths(known.Movies), Shows: paths(known.Shows) };
}

export function librariesOf(world: World) {
  const { Movies, Shows } = locations(world);
  const library = (name: string, type: string, paths: string[]) => {
    const ItemId = itemId("CollectionFolder", `root/default/${name}`);
    const PathInfos = paths.map((Path) => ({ Path }));
    const options: Record<string, unknown> = {
      Enabled: true,
      EnableRealtimeMonitor: false,
      PathInfos,
      ...world.configuration(`library-options/${ItemId}`),
    };
    return {
      Name: name,
      Locations: paths,
      CollectionType: type,
      LibraryOptions: options,
      ItemId,
      RefreshStatus: "Idle",
    };
  };
  const later = extraFolders(world).map(({ Name, CollectionType, Locations }) =>
    library(Name, CollectionType, Locations),
  );
  return [library("Movies", "movies", Movies), library("Shows", "tvshows", Shows), ...later];
}

/** As the real-time monitor sees them when it starts. */
export function watchedLibraries(world: World): WatchedLibrary[] {
  return librariesOf(world).map(({ Locations, LibraryOptions }) => ({
    paths: Locations,
    isWatched: LibraryOptions.EnableRealtimeMonitor === true,
  }));
}

export function addFolderRoutes(routes: Routes): void {
  routes.add("GET", "/Library/VirtualFolders", "admin", (ask) => {
    ask.reply(librariesOf(ask.world));
  });
  routes.add("GET", "/Environment/DirectoryContents", "admin", (ask) => {
    const path = ask.query("path");
    if (path === undefined) throw new Refusal(400, "problem");
    const wanted = (name: string) => ask.query(name)?.toLowerCase() === "true";
    const files = wanted("includeFiles");
    const folders = wanted("includeDirectories");
    ask.reply(
      entriesOf(path)
        .filter(({ Type }) => (Type === "Directory" ? folders : files))
        .sort((left, right) => (left.Path < right.Path ? -1 : 1)),
    );
  });
  routes.add("POST", "/Environment/ValidatePath", "admin", (ask: Exchange) => {
    const body = ask.json();
    const path = String(field(body, "Path") ?? "");
    const isFile = field(body, "IsFile");
    const there = existsSync(path);
    const right = typeof isFile !== "boolean" || (there && statSync(path).isFile() === isFile);
    if (!there || !right) throw new Refusal(404, "problem");
    // It tries by writing a file, whose exception is nobody's.
    if (field(body, "ValidateWritable") === true && !writesMedia(ask.world)) throw new Refusal(500);
    ask.noContent();
  });
}

function entriesOf(path: string) {
  if (!existsSync(path) || !statSync(path).isDirectory()) throw new Refusal(404);
  return readdirSync(path, { withFileTypes: true }).map((entry) => ({
    Name: entry.name,
    Path: join(path, entry.name),
    Type: entry.isDirectory() ? "Directory" : "File",
  }));
}
