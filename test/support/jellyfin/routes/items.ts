/** Items, views, user data, playlists, collections and pictures: ItemsController, UserLibraryController, ImageController … */
import { existsSync } from "node:fs";
import type { ListRow, UserDataRow } from "../database.ts";
import { sendFile } from "../files.ts";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { EMPTY_ID, idOfText, parseId } from "../ids.ts";
import { type Item, itemDto, ROOT_ID } from "../library.ts";
import { actingUser, field, required } from "./accounts.ts";
import {
  deleteItem,
  editsOf,
  forgetEdits,
  isBlocked,
  pictureFields,
  picturesOf,
} from "./catalog.ts";
import { indexLater } from "./item-files.ts";
import { channelDto } from "./live-tv.ts";
import { ownSession } from "./sessions.ts";

export function addItemRoutes(routes: Routes): void {
  addBrowseRoutes(routes);
  addUserDataRoutes(routes);
  addListRoutes(routes);
  addImageRoutes(routes);
  addPreferenceRoutes(routes);
}

export function itemOf(ask: Exchange, text: string): Item {
  const id = parseId(text);
  if (id === undefined) throw new Refusal(400, "problem");
  const item = ask.world.library.get(id);
  if (item === undefined) throw new Refusal(404, "problem");
  return item;
}

/** The same, where it is shown to somebody. */
function shownItem(ask: Exchange, text: string, userId: string | undefined): Item {
  const item = itemOf(ask, text);
  if (isBlocked(ask.world, item.id, userId)) throw new Refusal(404, "problem");
  return item;
}

function dto(
  ask: Exchange,
  item: Item,
  userId: string | undefined,
  full: boolean,
): Record<string, unknown> {
  const { library, serverId, userData } = ask.world;
  const own = userId === undefined ? undefined : userData.dto(userId, item);
  const written = { ...editsOf(ask.world, item.id), ...pictureFields(ask.world, item) };
  const row = ask.world.database.lists.get(item.id);
  // Whoever may delete a list: its owner, and an administrator (Playlist.CanDelete).
  const isAdmin =
    userId !== undefined && ask.world.database.users.get(userId)?.policy.IsAdministrator === true;
  const canDelete =
    row === undefined || !full ? {} : { CanDelete: isAdmin || row.ownerId === userId };
  return { ...itemDto(item, library, serverId, own, full), ...written, ...canDelete };
}

/** Playlist.IsVisible: its owner's, everybody's, or shared with somebody. */
function isVisible(row: ListRow | undefined, userId: string | undefined): boolean {
  if (row?.kind !== "Playlist" || userId === undefined) return true;
  return row.isPublic || row.ownerId === userId || row.users.some((one) => one.UserId === userId);
}

function reply(ask: Exchange, items: Item[], userId: string | undefined): void {
  const start = Number(ask.query("startIndex") ?? 0);
  const limit = Number(ask.query("limit") ?? items.length);
  const fields = ask.list("fields").map((name) => name.toLowerCase());
  const page = items.slice(start, start + limit).map((item) => ({
    ...dto(ask, item, userId, false),
    ...(fields.length > 0 && wantedFields(dto(ask, item, userId, true), fields)),
  }));
  ask.reply({ Items: page, TotalRecordCount: items.length, StartIndex: start });
}

function wantedFields(full: Record<string, unknown>, fields: readonly string[]) {
  return Object.fromEntries(
    Object.entries(full).filter(([name]) => fields.includes(name.toLowerCase())),
  );
}

function addBrowseRoutes(routes: Routes): void {
  routes.add("GET", "/Items", "user", (ask) => listItems(ask, actingUser(ask)));
  routes.add("GET", "/Users/:user/Items", "user", (ask) =>
    listItems(ask, actingUser(ask, ask.param(0))),
  );
  routes.add("GET", "/Items/:item", "user", async (ask) => {
    const userId = actingUser(ask);
    const channel = await ask.world.liveTv.channel(parseId(ask.param(0)) ?? "");
    if (channel !== undefined) return ask.reply(channelDto(channel));
    ask.reply(dto(ask, shownItem(ask, ask.param(0), userId), userId, true));
  });
  routes.add("GET", "/Users/:user/Items/:item", "user", (ask) => {
    const userId = actingUser(ask, ask.param(0));
    ask.reply(dto(ask, shownItem(ask, ask.param(1), userId), userId, true));
  });
  const views = (ask: Exchange, userId: string | undefined) => {
    const { library } = ask.world;
    const folders = library.children(ROOT_ID).filter((item) => item.kind === "CollectionFolder");
    const items = folders.map((item) => dto(ask, item, userId, true));
    // A view that gathers several libraries is the user's own: its id is made of theirs (UserViewManager).
    if (userId !== undefined && ask.world.configuration("grouped-views").on === true) {
      const Id = idOfText(`namedview-${userId}-music`);
      items.push({ Id, Name: "Music", Type: "UserView", CollectionType: "music" });
    }
    ask.reply({ Items: items, TotalRecordCount: items.length, StartIndex: 0 });
  };
  routes.add("GET", "/UserViews", "user", (ask) => views(ask, actingUser(ask)));
  routes.add("GET", "/Users/:user/Views", "user", (ask) =>
    views(ask, actingUser(ask, ask.param(0))),
  );
  const resume = (ask: Exchange, userId: string | undefined) => {
    const types = ask.list("mediaTypes");
    const videos = types.length === 0 || types.includes("Video");
    const found = ask.world.library.visible().filter((item) => {
      return videos && userId !== undefined && ask.world.userData.row(userId, item.id).position > 0;
    });
    reply(ask, found, userId);
  };
  routes.add("GET", "/UserItems/Resume", "user", (ask) => resume(ask, actingUser(ask)));
  routes.add("GET", "/Users/:user/Items/Resume", "user", (ask) =>
    resume(ask, actingUser(ask, ask.param(0))),
  );
  const latest = (ask: Exchange, userId: string | undefined) => {
    const parent = parseId(ask.query("parentId"));
    const { library } = ask.world;
    const leaves = parent === undefined ? library.leaves(ROOT_ID) : library.leaves(parent);
    const limit = Number(ask.query("limit") ?? 20);
    const newest = leaves.sort((one, other) => other.modifiedMs - one.modifiedMs).slice(0, limit);
    ask.reply(newest.map((item) => dto(ask, item, userId, false)));
  };
  routes.add("GET", "/Items/Latest", "user", (ask) => latest(ask, actingUser(ask)));
  routes.add("GET", "/Users/:user/Items/Latest", "user", (ask) =>
    latest(ask, actingUser(ask, ask.param(0))),
  );
  routes.add("GET", "/Shows/NextUp", "user", (ask) => {
    const userId = actingUser(ask);
    const { library, userData } = ask.world;
    const shows = library.visible().filter((item) => item.kind === "Series");
    const next = shows.flatMap((show) => {
      const episodes = library.leaves(show.id);
      const played = (item: Item) => userId !== undefined && userData.row(userId, item.id).played;
      return episodes.some(played) ? (episodes.find((item) => !played(item)) ?? []) : [];
    });
    reply(ask, next, userId);
  });
  routes.add("GET", "/Shows/:series/Seasons", "user", (ask) => {
    const seasons = ask.world.library.children(itemOf(ask, ask.param(0)).id);
    reply(ask, seasons, actingUser(ask));
  });
  routes.add("GET", "/Shows/:series/Episodes", "user", (ask) => {
    const season = parseId(ask.query("seasonId"));
    const episodes = ask.world.library.leaves(season ?? itemOf(ask, ask.param(0)).id);
    reply(ask, episodes, actingUser(ask));
  });
  routes.add("GET", "/Items/:item/Ancestors", "user", (ask) => {
    const parents: Item[] = [];
    let at = ask.world.library.get(itemOf(ask, ask.param(0)).parentId);
    while (at !== undefined) {
      parents.push(at);
      at = at.parentId === "" ? undefined : ask.world.library.get(at.parentId);
    }
    ask.reply(parents.map((item) => dto(ask, item, actingUser(ask), true)));
  });
  for (const empty of [
    "/Items/:item/Similar",
    "/Items/:item/Collections",
    "/LiveTv/Programs/Recommended",
  ]) {
    routes.add("GET", empty, "user", (ask) => reply(ask, [], undefined));
  }
  routes.add("DELETE", "/Items/:item", "user", (ask) => {
    deleteItem(ask, itemOf(ask, ask.param(0)).id);
    ask.noContent();
  });
  routes.add("POST", "/Library/Refresh", "admin", async (ask) => {
    // It is the task that scans (LibraryManager.ValidateMediaLibrary), and it is remembered as a run of it.
    await ask.world.scan();
    ask.world.tasks.ran("RefreshLibrary");
    ask.noContent();
  });
  routes.add("POST", "/Library/Media/Updated", "user", async (ask) => {
    await ask.world.scan();
    ask.noContent();
  });
  routes.add("POST", "/Items/:item/Refresh", "admin", (ask) => {
    indexLater(ask.world, itemOf(ask, ask.param(0)).id);
    ask.noContent();
  });
}

/** Filters by what a user has of an item (ItemFilter). */
const userFilters: Readonly<Record<string, (row: UserDataRow) => boolean>> = {
  IsFavorite: ({ favorite }) => favorite,
  IsPlayed: ({ played }) => played,
  IsUnplayed: ({ played }) => !played,
  IsResumable: ({ position }) => position > 0,
  Likes: ({ likes }) => likes === true,
  Dislikes: ({ likes }) => likes === false,
};

function listItems(ask: Exchange, userId: string | undefined): void {
  const { library } = ask.world;
  const parent = parseId(ask.query("parentId"));
  const recursive = ask.query("recursive")?.toLowerCase() === "true";
  const ids = ask.list("ids").map((id) => parseId(id));
  const kinds = ask.list("includeItemTypes");
  const term = ask.query("searchTerm")?.toLowerCase();
  let found = library.visible().filter((item) => item.id !== ROOT_ID);
  if (ids.length > 0) found = found.filter((item) => ids.includes(item.id));
  else if (parent !== undefined && recursive) found = library.leaves(parent);
  else if (parent !== undefined) found = childrenOf(ask, parent, userId);
  else if (!recursive && term === undefined) found = library.children(ROOT_ID);
  const savedSince = ask.query("minDateLastSaved");
  if (savedSince !== undefined) {
    found = found.filter(({ id }) => library.savedAtMs(id) >= Date.parse(savedSince));
  }
  if (kinds.length > 0) found = found.filter((item) => kinds.includes(item.kind));
  const isFolder = ask.query("isFolder")?.toLowerCase();
  if (isFolder !== undefined) found = found.filter((item) => String(item.isFolder) === isFolder);
  if (term !== undefined) found = found.filter((item) => item.name.toLowerCase().includes(term));
  const filters = [...ask.list("filters"), ask.query("isFavorite") === "true" ? "IsFavorite" : ""];
  if (userId !== undefined) {
    for (const [filter, holds] of Object.entries(userFilters)) {
      if (!filters.includes(filter)) continue;
      found = found.filter((item) => holds(ask.world.userData.row(userId, item.id)));
    }
  }
  found = found.filter(({ id }) => isVisible(ask.world.database.lists.get(id), userId));
  found = found.filter(({ id }) => !isBlocked(ask.world, id, userId));
  found.sort((one, other) => one.name.localeCompare(other.name));
  reply(ask, found, userId);
}

/** A list's are shown to somebody only: a key alone that names no user sees none of them (Folder.GetItemsInternal). */
function childrenOf(ask: Exchange, parent: string, userId: string | undefined): Item[] {
  const list = ask.world.database.lists.get(parent);
  if (list === undefined) return ask.world.library.children(parent);
  if (userId === undefined) return [];
  return list.items.flatMap((id) => ask.world.library.get(id) ?? []);
}

function addUserDataRoutes(routes: Routes): void {
  /** Each deed exists under its new path, with `?userId=`, and under the old one with the user in the path. */
  const both = (
    method: string,
    path: (item: string) => string,
    legacy: (item: string) => string,
    deed: (ask: Exchange, userId: string, item: Item) => void,
  ) => {
    const handle = (named: string | undefined, itemText: string, ask: Exchange) => {
      const userId = actingUser(ask, named);
      const item = itemOf(ask, itemText);
      if (userId === undefined || ask.world.database.users.get(userId) === undefined) {
        throw new Refusal(404, "problem");
      }
      deed(ask, userId, item);
      ask.reply(ask.world.userData.dto(userId, item));
    };
    routes.add(method, path(":item"), "user", (ask) =>
      handle(ask.query("userId"), ask.param(0), ask),
    );
    routes.add(method, `/Users/:user${legacy(":item")}`, "user", (ask) =>
      handle(ask.param(0), ask.param(1), ask),
    );
  };
  const change = (ask: Exchange, userId: string, item: Item, fields: object) => {
    const { userData } = ask.world;
    userData.save(userId, item, { ...userData.row(userId, item.id), ...fields });
  };
  const favorite = (value: boolean) => (ask: Exchange, userId: string, item: Item) =>
    change(ask, userId, item, { favorite: value });
  const rating = (value: (ask: Exchange) => boolean | undefined) => {
    return (ask: Exchange, userId: string, item: Item) =>
      change(ask, userId, item, { likes: value(ask) });
  };
  const mark = (played: boolean) => (ask: Exchange, userId: string, item: Item) => {
    const session = ownSession(ask, userId);
    const date = ask.query("datePlayed");
    const datePlayed =
      date === undefined ? undefined : new Date(date).toISOString().replace("Z", "0000Z");
    const users = [userId, ...session.additionalUsers.map((user) => user.UserId)];
    for (const user of users) ask.world.userData.mark(user, item, played, datePlayed);
  };
  const favoritePath = (item: string) => `/UserFavoriteItems/${item}`;
  const favoriteLegacy = (item: string) => `/FavoriteItems/${item}`;
  both("POST", favoritePath, favoriteLegacy, favorite(true));
  both("DELETE", favoritePath, favoriteLegacy, favorite(false));
  const ratingPath = (item: string) => `/UserItems/${item}/Rating`;
  const ratingLegacy = (item: string) => `/Items/${item}/Rating`;
  both(
    "POST",
    ratingPath,
    ratingLegacy,
    rating((ask) => ask.query("likes")?.toLowerCase() === "true"),
  );
  both(
    "DELETE",
    ratingPath,
    ratingLegacy,
    rating(() => undefined),
  );
  const playedPath = (item: string) => `/UserPlayedItems/${item}`;
  const playedLegacy = (item: string) => `/PlayedItems/${item}`;
  both("POST", playedPath, playedLegacy, mark(true));
  both("DELETE", playedPath, playedLegacy, mark(false));
  const dataPath = (item: string) => `/UserItems/${item}/UserData`;
  const dataLegacy = (item: string) => `/Items/${item}/UserData`;
  both("GET", dataPath, dataLegacy, () => undefined);
  both("POST", dataPath, dataLegacy, (ask, userId, item) =>
    ask.world.userData.copy(userId, item, ask.json()),
  );
}

/** What a playlist takes up: of a folder what is in it, and nothing for an id of nothing (Playlist.GetPlaylistItems). */
function takenUp(
  { world }: Exchange,
  ids: readonly string[],
  userId: string | undefined,
): string[] {
  const { library } = world;
  const items = ids.flatMap((one) => {
    const item = library.get(parseId(one) ?? "");
    if (item === undefined) return [];
    return item.isFolder ? library.leaves(item.id).map(({ id }) => id) : [item.id];
  });
  return items.filter((id) => !isBlocked(world, id, userId));
}

function addListRoutes(routes: Routes): void {
  routes.add("POST", "/Playlists", "user", (ask) => {
    const body = ask.body.length > 0 ? ask.json() : {};
    const owner =
      parseId(String(field(body, "UserId") ?? ask.query("userId") ?? "")) ?? ask.caller.userId;
    if (owner === undefined || owner === EMPTY_ID) throw new Refusal(400);
    const ids = field(body, "Ids");
    const id = ask.world.lists.createPlaylist({
      name: String(field(body, "Name") ?? required(ask, "name")),
      ownerId: owner,
      mediaType: String(field(body, "MediaType") ?? "Video"),
      isPublic: field(body, "IsPublic") === true,
      users: [],
      items: takenUp(ask, Array.isArray(ids) ? ids.map(String) : ask.list("ids"), owner),
    });
    ask.reply({ Id: id });
  });
  const playlist = (ask: Exchange) => ask.world.lists.get(parseId(ask.param(0)), "Playlist");
  const entries = (ask: Exchange, row: ListRow) =>
    row.items.flatMap((id) => ask.world.library.get(id) ?? []);
  routes.add("GET", "/Playlists/:id", "user", (ask) => {
    const row = playlist(ask);
    // It asks for the token's own user, and an API key has none.
    if (ask.caller.userId === undefined) throw new Refusal(400);
    ask.reply({ OpenAccess: row.isPublic, Shares: row.users, ItemIds: row.items });
  });
  routes.add("POST", "/Playlists/:id", "user", (ask) => {
    const row = ownPlaylist(ask, playlist(ask));
    const body = ask.json();
    const ids = field(body, "Ids");
    const isPublic = field(body, "IsPublic");
    const users = field(body, "Users");
    if (Array.isArray(ids) && ids.some((one) => (parseId(String(one)) ?? EMPTY_ID) === EMPTY_ID)) {
      // The old content is taken out before the new one is looked at (PlaylistManager.UpdatePlaylist).
      ask.world.lists.update({ ...row, items: [] });
      throw new Refusal(400);
    }
    ask.world.lists.update({
      ...row,
      name: String(field(body, "Name") ?? row.name),
      isPublic: typeof isPublic === "boolean" ? isPublic : row.isPublic,
      users: Array.isArray(users) ? (users as ListRow["users"]) : row.users,
      items: Array.isArray(ids) ? takenUp(ask, ids.map(String), row.ownerId) : row.items,
    });
    ask.noContent();
  });
  routes.add("GET", "/Playlists/:id/Items", "user", (ask) => {
    const userId = actingUser(ask);
    const row = playlist(ask);
    if (!isVisible(row, userId)) throw new Refusal(404);
    const shown = entries(ask, row).filter(({ id }) => !isBlocked(ask.world, id, userId));
    const items = shown.map((item) => ({
      ...dto(ask, item, userId, false),
      PlaylistItemId: item.id,
    }));
    ask.reply({ Items: items, TotalRecordCount: items.length, StartIndex: 0 });
  });
  routes.add("POST", "/Playlists/:id/Items", "user", (ask) => {
    const row = playlist(ask);
    const adder = actingUser(ask);
    const added = takenUp(ask, ask.list("ids"), adder);
    if (adder === undefined) throw new Refusal(400);
    const mayEdit = row.users.some((share) => share.UserId === adder && share.CanEdit);
    if (adder !== row.ownerId && !mayEdit) throw new Refusal(403);
    const position = ask.query("position");
    const at = position === undefined ? row.items.length : Math.max(0, Number(position));
    ask.world.lists.update({ ...row, items: row.items.toSpliced(at, 0, ...added) });
    ask.noContent();
  });
  routes.add("DELETE", "/Playlists/:id/Items", "user", (ask) => {
    const row = playlist(ask);
    const gone = ask.list("entryIds").map((id) => parseId(id));
    ask.world.lists.update({ ...row, items: row.items.filter((id) => !gone.includes(id)) });
    ask.noContent();
  });
  routes.add("POST", "/Playlists/:id/Items/:entry/Move/:index", "user", (ask) => {
    const row = ownPlaylist(ask, playlist(ask));
    const entry = parseId(ask.param(1)) ?? "";
    const from = row.items.indexOf(entry);
    if (from === -1) throw new Refusal(404, "problem");
    const rest = row.items.toSpliced(from, 1);
    ask.world.lists.update({ ...row, items: rest.toSpliced(Number(ask.param(2)), 0, entry) });
    ask.noContent();
  });
  /** Policies.CollectionManagement. */
  const managed = (ask: Exchange) => {
    const { caller, world } = ask;
    const user = world.database.users.get(caller.userId ?? "");
    if (!caller.isAdmin && user?.policy.EnableCollectionManagement !== true) {
      throw new Refusal(403, "empty");
    }
  };
  routes.add("POST", "/Collections", "user", (ask) => {
    managed(ask);
    const items = ask.list("ids").flatMap((id) => parseId(id) ?? []);
    const Id = ask.world.lists.createCollection(required(ask, "name"), items);
    forgetEdits(ask.world, Id);
    ask.reply({ Id });
  });
  const collection = (ask: Exchange) => {
    managed(ask);
    return ask.world.lists.get(parseId(ask.param(0)), "BoxSet");
  };
  routes.add("POST", "/Collections/:id/Items", "user", (ask) => {
    ask.world.lists.addToCollection(
      collection(ask),
      ask.list("ids").flatMap((id) => parseId(id) ?? []),
    );
    ask.noContent();
  });
  routes.add("DELETE", "/Collections/:id/Items", "user", (ask) => {
    const row = collection(ask);
    const gone = ask.list("ids").map((id) => parseId(id));
    ask.world.lists.update({ ...row, items: row.items.filter((id) => !gone.includes(id)) });
    ask.noContent();
  });
}

/** Editing asks for the token's own user: an API key has none (400), another user may not (403). */
function ownPlaylist(ask: Exchange, row: ListRow): ListRow {
  if (ask.caller.userId === undefined) throw new Refusal(400);
  if (row.ownerId !== ask.caller.userId) throw new Refusal(403, "empty");
  return row;
}

function addImageRoutes(routes: Routes): void {
  const image = async (ask: Exchange) => {
    const item = itemOf(ask, ask.param(0));
    const path = picturesOf(ask.world, item, ask.param(1))[Number(ask.param(2) || 0)];
    if (path === undefined || !existsSync(path)) throw new Refusal(404, "problem");
    await sendImage(ask, path);
  };
  routes.add("GET|HEAD", "/Items/:item/Images/:kind", "anonymous", image);
  routes.add("GET|HEAD", "/Items/:item/Images/:kind/:index", "anonymous", image);
}

/** ImageController.GetImageResult: whatever tag is asked for becomes the ETag, and a year of caching with it. */
async function sendImage(ask: Exchange, path: string): Promise<void> {
  const { headers } = ask.request;
  const tag = ask.query("tag");
  const resized = [
    "maxWidth",
    "maxHeight",
    "width",
    "height",
    "fillWidth",
    "fillHeight",
    "quality",
  ];
  const key = `${path}${resized.map((name) => ask.query(name) ?? "").join("|")}`;
  const made = ask.world.resizedAt.get(key) ?? Date.now();
  ask.world.resizedAt.set(key, made);
  const modified = Math.floor(made / 1000) * 1000;
  const extra: Record<string, string> = {
    age: String(Math.max(0, Math.round((Date.now() - made) / 1000))),
    vary: "Accept",
    "content-disposition": "attachment",
    "last-modified": new Date(modified).toUTCString(),
  };
  if (/no-cache/i.test(headers["cache-control"] ?? "")) {
    extra["cache-control"] = "no-cache, no-store, must-revalidate";
    await sendFile({}, ask.method, ask.response, path, { ranges: false, extra });
    return;
  }
  extra["cache-control"] = tag ? "public, max-age=31536000, immutable" : "public";
  if (tag) extra.etag = `"${tag}"`;
  const known = headers["if-none-match"];
  const since = Date.parse(headers["if-modified-since"] ?? "");
  const unchanged = tag !== undefined && (known === `"${tag}"` || known === tag);
  if (unchanged || (!Number.isNaN(since) && modified <= since)) {
    ask.response.writeHead(304, { "content-type": "image/jpeg", ...extra }).end();
    return;
  }
  await sendFile({}, ask.method, ask.response, path, { ranges: false, extra });
}

function addPreferenceRoutes(routes: Routes): void {
  const key = (ask: Exchange) =>
    `${actingUser(ask) ?? EMPTY_ID}/${ask.query("client") ?? ""}/${ask.param(0)}`;
  routes.add("GET", "/DisplayPreferences/:id", "user", (ask) => {
    const known = ask.world.database.preferences.get(key(ask));
    ask.reply({ ...DEFAULT_PREFERENCES, Id: ask.param(0), ...known, Client: ask.query("client") });
  });
  routes.add("POST", "/DisplayPreferences/:id", "user", (ask) => {
    ask.world.database.preferences.set(key(ask), ask.json());
    ask.noContent();
  });
}

const DEFAULT_PREFERENCES = {
  SortBy: "SortName",
  RememberIndexing: false,
  PrimaryImageHeight: 250,
  PrimaryImageWidth: 250,
  CustomPrefs: { chromecastVersion: "stable", skipForwardLength: "30000", skipBackLength: "10000" },
  ScrollDirection: "Horizontal",
  ShowBackdrop: true,
  RememberSorting: false,
  SortOrder: "Ascending",
  ShowSidebar: false,
};
