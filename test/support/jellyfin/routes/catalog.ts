/**
 * What changes a library: edits of items (ItemUpdateController), their pictures (ImageController), deletions and news
 * (LibraryController), versions (VideosController), libraries (LibraryStructureController), and who may see a playlist
 * (PlaylistsController).
 *
 * Media belong to the tests, so files are written and deleted only where the document `system` says
 * `StandInWritesMedia`; otherwise a deleted item comes back with the next scan.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, extname, join } from "node:path";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { parseId } from "../ids.ts";
import { type Item, imageTag, itemId, metadataFolder } from "../library.ts";
import type { World } from "../world.ts";
import { field } from "./accounts.ts";
import { itemOf } from "./items.ts";

const EDITS = "item-edits";
const FOLDERS = "extra-folders";

export type ExtraFolder = { Name: string; CollectionType: string; Locations: string[] };

export function addCatalogRoutes(routes: Routes): void {
  addEditRoutes(routes);
  addPictureRoutes(routes);
  addDeletionRoutes(routes);
  addLibraryRoutes(routes);
  addShareRoutes(routes);
}

// --- items ------------------------------------------------------------------------------------------------------------

/** What somebody wrote of an item, over what the scan found. */
export function editsOf(world: World, id: string): Record<string, unknown> {
  return (world.configuration(EDITS)[id] ?? {}) as Record<string, unknown>;
}

/**
 * Whether somebody may not see an item because of one of its tags (BaseItem.IsVisibleViaTags). Tried on 12.0-rc5: it is not
 * in what they are shown of `/Items`, `/Items/{id}` is 404 for them, and a playlist shows and takes the rest.
 */
export function isBlocked(world: World, id: string, userId: string | undefined): boolean {
  const blocked = world.database.users.get(userId ?? "")?.policy.BlockedTags;
  const tags = editsOf(world, id).Tags;
  if (!Array.isArray(blocked) || blocked.length === 0 || !Array.isArray(tags)) return false;
  return tags.some((tag) => blocked.includes(tag));
}

/** What is saved anew under an id has nothing of what was there. */
export function forgetEdits(world: World, id: string): void {
  world.configure(EDITS, { [id]: {} });
}

const EDITABLE = [
  "Name",
  "Overview",
  "ProductionYear",
  "Tags",
  "Genres",
  "ProviderIds",
  "LockData",
  "OfficialRating",
];

function addEditRoutes(routes: Routes): void {
  routes.add("POST", "/Items/:item", "admin", (ask) => {
    const item = itemOf(ask, ask.param(0));
    const body = ask.json();
    const edits = Object.fromEntries(EDITABLE.map((name) => [name, field(body, name)]));
    const known = Object.entries(edits).filter(([, value]) => value !== undefined);
    ask.world.configure(EDITS, {
      [item.id]: { ...editsOf(ask.world, item.id), ...Object.fromEntries(known) },
    });
    const row = ask.world.database.lists.get(item.id);
    if (row !== undefined) ask.world.lists.update({ ...row, name: String(edits.Name ?? row.name) });
    ask.noContent();
  });
  routes.add("POST", "/Items/:item/ContentType", "admin", (ask) => {
    const item = itemOf(ask, ask.param(0));
    ask.world.configure("content-types", { [item.path]: ask.query("contentType") ?? "" });
    ask.noContent();
  });
  routes.add("POST", "/Items/RemoteSearch/Apply/:item", "admin", (ask) => {
    const item = itemOf(ask, ask.param(0));
    const ids = field(ask.json(), "ProviderIds");
    ask.world.configure(EDITS, {
      [item.id]: { ...editsOf(ask.world, item.id), ProviderIds: ids ?? {} },
    });
    ask.noContent();
  });
  routes.add("POST", "/Videos/MergeVersions", "admin", (ask) => {
    const ids = ask.list("ids");
    if (ids.length < 2) throw new Refusal(400, "problem");
    ask.world.library.merge(ids);
    ask.noContent();
  });
  routes.add("DELETE", "/Videos/:item/AlternateSources", "admin", (ask) => {
    itemOf(ask, ask.param(0));
    ask.noContent();
  });
  routes.add("GET", "/Items/Counts", "user", (ask) => {
    const count = (kind: string) =>
      ask.world.library.visible().filter((item) => item.kind === kind).length;
    ask.reply({
      MovieCount: count("Movie"),
      SeriesCount: count("Series"),
      EpisodeCount: count("Episode"),
      BoxSetCount: count("BoxSet"),
      ItemCount: ask.world.library.visible().length,
    });
  });
}

// --- pictures ---------------------------------------------------------------------------------------------------------

function pictureFolder(world: World, id: string): string {
  return metadataFolder(world.options.dataFolder, id);
}

/** The pictures of one type that lie with the server, in the order of their index. */
function ownPictures(world: World, id: string, kind: string): string[] {
  const folder = pictureFolder(world, id);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.startsWith(`${kind.toLowerCase()}-`))
    .sort()
    .map((name) => join(folder, name));
}

/** Pictures of an item: those that were sent to this server, else those beside its media. */
export function picturesOf(world: World, item: Item, kind: string): string[] {
  const own = ownPictures(world, item.id, kind);
  if (own.length > 0) return own;
  const beside = kind.toLowerCase() === "primary" ? item.poster : item.backdrop;
  const isKnown = /^(?:primary|backdrop)$/i.test(kind);
  const isGone = editsOf(world, item.id)[`no ${kind.toLowerCase()}`] === true;
  return isKnown && beside !== undefined && existsSync(beside) && !isGone ? [beside] : [];
}

/** The fields of an item's DTO that tell of its pictures. */
export function pictureFields(world: World, item: Item): Record<string, unknown> {
  const tags = Object.fromEntries(
    ["Primary", "Logo", "Thumb"].flatMap((kind) => {
      const [path] = picturesOf(world, item, kind);
      return path === undefined ? [] : [[kind, imageTag(path)]];
    }),
  );
  return { ImageTags: tags, BackdropImageTags: picturesOf(world, item, "Backdrop").map(imageTag) };
}

function savePicture(ask: Exchange): void {
  const { world } = ask;
  const item = itemOf(ask, ask.param(0));
  const kind = ask.param(1).toLowerCase();
  const type = /^image\/(jpeg|png|webp)/.exec(ask.request.headers["content-type"] ?? "")?.[1];
  if (type === undefined) throw new Refusal(400, { json: "Incorrect ContentType." });
  const bytes = Buffer.from(ask.body.toString("utf8"), "base64");
  const folder = pictureFolder(world, item.id);
  mkdirSync(folder, { recursive: true });
  // A backdrop is appended whatever index the address has; everything else stands alone.
  if (kind !== "backdrop") for (const path of ownPictures(world, item.id, kind)) rmSync(path);
  const at = kind === "backdrop" ? ownPictures(world, item.id, kind).length : 0;
  const extension = type === "jpeg" ? "jpg" : type;
  writeFileSync(join(folder, `${kind}-${String(at).padStart(3, "0")}.${extension}`), bytes);
  ask.noContent();
}

function dropPicture(ask: Exchange): void {
  const { world } = ask;
  const item = itemOf(ask, ask.param(0));
  const kind = ask.param(1).toLowerCase();
  const index = Number(ask.param(2) || ask.query("imageIndex") || 0);
  const own = ownPictures(world, item.id, kind);
  const path = own[index];
  if (path !== undefined) {
    rmSync(path);
    own.slice(index + 1).forEach((later, step) => {
      const name = `${kind}-${String(index + step).padStart(3, "0")}${extname(later)}`;
      renameSync(later, join(dirname(later), name));
    });
  } else if (picturesOf(world, item, kind).length > 0) {
    const edits = { ...editsOf(world, item.id), [`no ${kind}`]: true };
    world.configure(EDITS, { [item.id]: edits });
  }
  ask.noContent();
}

function addPictureRoutes(routes: Routes): void {
  routes.add("POST", "/Items/:item/Images/:kind", "admin", savePicture);
  routes.add("POST", "/Items/:item/Images/:kind/:index", "admin", savePicture);
  routes.add("DELETE", "/Items/:item/Images/:kind", "admin", dropPicture);
  routes.add("DELETE", "/Items/:item/Images/:kind/:index", "admin", dropPicture);
  routes.add("POST", "/Items/:item/Images/:kind/:index/Index", "admin", (ask) => {
    const item = itemOf(ask, ask.param(0));
    const own = ownPictures(ask.world, item.id, ask.param(1));
    const one = own[Number(ask.param(2))];
    const other = own[Number(ask.query("newIndex"))];
    if (one === undefined || other === undefined) throw new Refusal(400, "problem");
    const bytes = readFileSync(one);
    writeFileSync(one, readFileSync(other));
    writeFileSync(other, bytes);
    ask.noContent();
  });
  routes.add("GET", "/Items/:item/Images", "user", (ask) => {
    const item = itemOf(ask, ask.param(0));
    const kinds = ["Primary", "Logo", "Thumb", "Backdrop"];
    ask.reply(
      kinds.flatMap((kind) =>
        picturesOf(ask.world, item, kind).map((path, index) => ({
          ImageType: kind,
          ...(kind === "Backdrop" && { ImageIndex: index }),
          ImageTag: imageTag(path),
          Path: path,
          Height: 90,
          Width: 160,
          Size: statSync(path).size,
        })),
      ),
    );
  });
}

// --- deletions ----------------------------------------------------------------------------------------------

/** Whether this server may write beside media. */
export function writesMedia(world: World): boolean {
  return world.configuration("system").StandInWritesMedia === true;
}

/** Files first, then the row; a file that is not there is passed over (LibraryManager.DeleteItem). */
export function deleteItem(ask: Exchange, id: string): void {
  const { world } = ask;
  const item = world.library.get(id);
  if (item === undefined) throw new Refusal(404, "problem");
  if (!mayDelete(ask, item.id)) throw new Refusal(401, { json: "Unauthorized access" });
  if (world.lists.remove(item.id)) return;
  if (writesMedia(world)) rmSync(item.path, { recursive: true, force: true });
  world.library.remove(item.id);
}

/** Playlist.CanDelete and BoxSet.IsAuthorizedToDelete. */
function mayDelete({ caller, world }: Exchange, id: string): boolean {
  if (caller.isAdmin) return true;
  const list = world.database.lists.get(id);
  if (list?.kind === "Playlist") return list.ownerId === caller.userId;
  const user = world.database.users.get(caller.userId ?? "");
  return list?.kind === "BoxSet" && user?.policy.EnableCollectionManagement === true;
}

function addDeletionRoutes(routes: Routes): void {
  routes.add("DELETE", "/Items", "user", (ask) => {
    for (const text of ask.list("ids")) {
      const id = parseId(text);
      // What is no id is left out, and not missed.
      if (id !== undefined) deleteItem(ask, id);
    }
    ask.noContent();
  });
  for (const path of [
    "/Library/Series/Added",
    "/Library/Series/Updated",
    "/Library/Movies/Added",
    "/Library/Movies/Updated",
  ]) {
    routes.add("POST", path, "user", async (ask) => {
      await ask.world.scan();
      ask.noContent();
    });
  }
}

// --- libraries --------------------------------------------------------------------------------------------------------

/** Libraries that were made after the server was set up. */
export function extraFolders(world: World): ExtraFolder[] {
  return (world.configuration(FOLDERS).list ?? []) as ExtraFolder[];
}

function changeFolders(world: World, list: ExtraFolder[]): void {
  world.configure(FOLDERS, { list });
  world.monitor.restart();
}

function addLibraryRoutes(routes: Routes): void {
  const path = "/Library/VirtualFolders";
  const named = (ask: Exchange, name: string | undefined): ExtraFolder => {
    const found = extraFolders(ask.world).find((one) => one.Name === name);
    if (found === undefined) throw new Refusal(404, "problem");
    return found;
  };
  const replace = (ask: Exchange, old: ExtraFolder, next: ExtraFolder[]) =>
    changeFolders(
      ask.world,
      extraFolders(ask.world).flatMap((one) => (one.Name === old.Name ? next : [one])),
    );
  routes.add("POST", path, "admin", (ask) => {
    const known = new Set(["Movies", "Shows", ...extraFolders(ask.world).map(({ Name }) => Name)]);
    let name = ask.query("name") ?? "";
    if (name === "") throw new Refusal(400, "problem");
    for (let number = 2; known.has(name); number++) name = `${ask.query("name")}${number}`;
    const { PathInfos: infos, ...options } = (field(
      ask.body.length === 0 ? {} : ask.json(),
      "LibraryOptions",
    ) ?? {}) as {
      PathInfos?: { Path: string }[];
    };
    const listed = ask.list("paths");
    const Locations = listed.length > 0 ? listed : (infos ?? []).map(({ Path }) => Path);
    if (!Locations.every((path) => existsSync(path))) throw new Refusal(400, "problem");
    const made = {
      Name: name,
      CollectionType: ask.query("collectionType") ?? "mixed",
      Locations,
    };
    const id = itemId("CollectionFolder", `root/default/${name}`);
    ask.world.configure(`library-options/${id}`, options);
    changeFolders(ask.world, [...extraFolders(ask.world), made]);
    ask.noContent();
  });
  routes.add("DELETE", path, "admin", (ask) => {
    replace(ask, named(ask, ask.query("name")), []);
    ask.noContent();
  });
  routes.add("POST", `${path}/Name`, "admin", (ask) => {
    const old = named(ask, ask.query("name"));
    replace(ask, old, [{ ...old, Name: ask.query("newName") ?? "" }]);
    ask.noContent();
  });
  routes.add("POST", `${path}/Paths`, "admin", (ask) => {
    const body = ask.json();
    const old = named(ask, String(field(body, "Name") ?? ""));
    const info = field(body, "PathInfo") as { Path?: string } | undefined;
    const added = String(info?.Path ?? field(body, "Path") ?? "");
    replace(ask, old, [{ ...old, Locations: [...old.Locations, added] }]);
    ask.noContent();
  });
  routes.add("DELETE", `${path}/Paths`, "admin", (ask) => {
    // The monitor is started anew whatever comes of it (LibraryStructureController.RemoveMediaPath).
    ask.world.monitor.restart();
    if (["Movies", "Shows"].includes(ask.query("name") ?? "")) {
      // Theirs are the media folder's, and never taken away.
      ask.noContent();
      return;
    }
    const old = named(ask, ask.query("name"));
    const left = old.Locations.filter((one) => one !== ask.query("path"));
    replace(ask, old, [{ ...old, Locations: left }]);
    ask.noContent();
  });
}

// --- who may see a playlist -------------------------------------------------------------------------------------------

function addShareRoutes(routes: Routes): void {
  const owned = (ask: Exchange) => {
    const row = ask.world.lists.get(parseId(ask.param(0)), "Playlist");
    if (ask.caller.userId === undefined) throw new Refusal(400);
    if (row.ownerId !== ask.caller.userId) throw new Refusal(403, "empty");
    return row;
  };
  routes.add("GET", "/Playlists/:id/Users", "user", (ask) => ask.reply(owned(ask).users));
  routes.add("POST", "/Playlists/:id/Users/:user", "user", (ask) => {
    const row = owned(ask);
    const UserId = parseId(ask.param(1)) ?? "";
    const CanEdit = ask.body.length > 0 && field(ask.json(), "CanEdit") === true;
    const others = row.users.filter((user) => user.UserId !== UserId);
    ask.world.lists.update({ ...row, users: [...others, { UserId, CanEdit }] });
    ask.noContent();
  });
  routes.add("DELETE", "/Playlists/:id/Users/:user", "user", (ask) => {
    const row = owned(ask);
    const gone = parseId(ask.param(1));
    if (!row.users.some((user) => user.UserId === gone)) throw new Refusal(404, "problem");
    ask.world.lists.update({ ...row, users: row.users.filter((user) => user.UserId !== gone) });
    ask.noContent();
  });
}
