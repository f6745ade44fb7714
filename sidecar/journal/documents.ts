// Whole documents: display preferences, a user's configuration and policy, the server's own configuration, library
// options, plugins' configuration, pictures of users and of the login page. The last in the journal's order wins.
//
// It promises that a server's own values stay as they are (core/jellyfin/per-server.ts), that a document which says
// what the server has already is not written, and that what may hold passwords of others is sealed in the journal.

import { isPlainId } from "../../core/cluster/identity.ts";
import type { Effect, Intent, IntentKind, Placed } from "../../core/cluster/journal.ts";
import { monitorValue, readMonitor } from "../../core/cluster/monitors.ts";
import { putNote } from "../../core/cluster/notes.ts";
import { fieldOf, textField } from "../../core/jellyfin/documents.ts";
import {
  type Fields,
  isSame,
  merged,
  perServerDocuments,
  saysNothingNew,
} from "../../core/jellyfin/per-server.ts";
import { isRecord, nameIn, objectOf } from "../../core/service/json.ts";
import { librariesIn } from "../library/libraries.ts";
import {
  again,
  appliedOf,
  bodyOf,
  idAt,
  idHere,
  inStore,
  type Read,
  readJson,
  readPlugins,
  refused,
  skipped,
  whyOf,
  writeJson,
} from "./calls.ts";
import type { Applied, EffectDraft, JournalHandler, JournalHands, Published } from "./handler.ts";

const documentKinds = [
  "preferences",
  "userConfiguration",
  "userPolicy",
  "configuration",
  "libraryOptions",
  "pluginConfiguration",
] as const;
export type DocumentKind = (typeof documentKinds)[number];

const pictureKinds = ["userImage", "branding"] as const;

/** An effect is one entry of the journal: a longer document is not carried. */
const documentLengthMax = 400 * 1024;
/** Jellyfin takes larger ones; nobody's face needs more. */
const pictureBytesMax = 6 * 1024 * 1024;

/** What is enough to find a document at a server and to read and write it. */
export type DocumentHands = Pick<JournalHands, "replica" | "client" | "memory" | "seal">;

/** Where a document is at a server. */
export interface Shelf {
  /** As the table of per-server values calls it. */
  readonly table: string;
  /** For sentences. */
  readonly name: string;
  read(): Promise<Read>;
  write(document: unknown): Promise<Applied>;
  /** Whether what is not there now is about to come, and waited for; absent: it is not. */
  isComing?(): Promise<boolean>;
}

export function createDocuments(): JournalHandler {
  return {
    kinds: [...documentKinds, ...pictureKinds],
    repeatsOwn: true,
    lane: ({ userId }) => (userId === "" ? documentsLane : userLane(userId)),
    subject: subjectOf,
    order: ({ userId, ...effect }) => ({
      whole: subjectOf({ ...effect, userId }),
      ...(userId !== "" && { waitsFor: userLane(userId) }),
    }),
    async publish(intent, _outcome, hands) {
      return isPicture(intent.entry.kind)
        ? publishPicture(intent)
        : await publishDocument(intent, hands);
    },
    apply: (effect, hands) =>
      isPicture(effect.entry.kind) ? applyPicture(effect, hands) : applyDocument(effect, hands),
    redo,
  };
}

/** Which document it is. */
function subjectOf(entry: Intent | Effect): string {
  const { kind, userId, itemId } = entry;
  const facts = entry.type === "intent" ? entry.facts : fieldOf(entry.payload, "facts");
  return JSON.stringify([kind, userId, itemId, facts]);
}

/** Documents that are nobody's own are in one order, and with them what depends on them. */
export const documentsLane = "configuration";

/** Everything about one user is in one order: they are made before anything is said of them. */
export function userLane(userId: string): string {
  return `user ${userId}`;
}

function isPicture(kind: IntentKind): boolean {
  return kind === "userImage" || kind === "branding";
}

// ---- Documents --------------------------------------------------------------------------------------------

async function publishDocument(
  { entry: intent }: Placed<Intent>,
  hands: JournalHands,
): Promise<Published> {
  const shelf = shelfOf(intent, intent.facts, hands);
  if (shelf === undefined) return { outcome: "given up", why: "its facts make no sense" };
  if (shelf.table in perServerDocuments) return { outcome: "effects", effects: [] };
  const isReadBack = fieldOf(intent.facts, "isReadBack") === true;
  const said = isReadBack ? undefined : saidIn(intent, bodyOf(intent.request, hands));
  if (intent.kind === "libraryOptions") {
    const failed = await noteMonitor(intent, said, hands);
    if (failed !== undefined) return { outcome: "again", why: whyOf(failed) };
  }
  const read = await shelf.read();
  if (said === undefined && read.outcome !== "read") {
    return read.outcome === "unknown"
      ? { outcome: "given up", why: `${shelf.name} is not there` }
      : { outcome: "again", why: whyOf(read.applied) };
  }
  const has = read.outcome === "read" ? read.value : undefined;
  // What the request says counts as it was said: by now the server may have been told something newer.
  const document =
    isRecord(said) && isRecord(has) ? { ...has, ...respelled(said, has) } : (said ?? has);
  const text = JSON.stringify(document);
  if (text.length > documentLengthMax) {
    return { outcome: "given up", why: `${shelf.name} is too long to be carried` };
  }
  const draft: EffectDraft = {
    userId: intent.userId,
    itemId: intent.itemId,
    payload: { facts: intent.facts, ...packed(intent, text, document, hands) },
  };
  return { outcome: "effects", effects: [draft] };
}

async function applyDocument(
  { entry: effect }: Placed<Effect>,
  hands: JournalHands,
): Promise<Applied> {
  const shelf = shelfOf(effect, fieldOf(effect.payload, "facts"), hands);
  const document = unpacked(effect, hands);
  if (shelf === undefined || document === undefined) return refused("its payload makes no sense");
  return await bring(shelf, document, effect);
}

async function bring(
  shelf: Shelf,
  document: unknown,
  { itemId }: { readonly itemId: string },
): Promise<Applied> {
  const lacking = await lackingAt(shelf, document);
  if (lacking.outcome === "write") return await shelf.write(lacking.document);
  if (lacking.outcome !== "unknown") return lacking;
  return (await shelf.isComing?.()) === true
    ? { outcome: "aside", itemId }
    : refused(`${shelf.name} is not there`);
}

/** What is to be written there so that it says this document; `skipped` when it does. */
export async function lackingAt(
  shelf: Shelf,
  document: unknown,
): Promise<
  | Applied
  | { readonly outcome: "write"; readonly document: unknown }
  | { readonly outcome: "unknown" }
> {
  if (shelf.table in perServerDocuments) return skipped;
  const read = await shelf.read();
  if (read.outcome === "failed") return read.applied;
  if (read.outcome === "unknown") return read;
  const local = read.value;
  if (!isRecord(document) || !isRecord(local)) {
    return isSame(document, local) ? skipped : { outcome: "write", document };
  }
  const wanted = merged(shelf.table, document, local);
  return saysNothingNew(wanted, local) ? skipped : { outcome: "write", document: wanted };
}

async function redo({ entry: intent }: Placed<Intent>, hands: JournalHands): Promise<Applied> {
  if (isPicture(intent.kind)) return await redoPicture(intent, hands);
  const shelf = shelfOf(intent, intent.facts, hands);
  const text = bodyOf(intent.request, hands);
  if (shelf === undefined) return refused("its facts make no sense");
  if (text === undefined) return refused("its body was too long to be kept");
  if (fieldOf(intent.facts, "isReadBack") === true) {
    const { method, path, query } = intent.request;
    if (method !== "POST" && method !== "DELETE") return refused("its method makes no sense");
    const target = query === "" ? path : `${path}?${query}`;
    return await writeJson(hands, method, target, jsonOf(text), shelf.name);
  }
  const document = saidIn(intent, text);
  return document === undefined
    ? refused("its body is no JSON")
    : await bring(shelf, document, intent);
}

/** The document in a request's body. A library's options lie in it beside their library (UpdateLibraryOptionsDto). */
function saidIn({ kind }: { readonly kind: IntentKind }, text: string | undefined): unknown {
  const said = jsonOf(text);
  if (kind !== "libraryOptions" || !isRecord(said)) return said;
  return valueNamed(said, "LibraryOptions");
}

/**
 * An administrator was shown whether the library is to be watched, and not what this server does, and says so again or
 * otherwise. Of a library that nobody wanted watched so far it is learnt from its server (sidecar/library/monitors.ts).
 */
async function noteMonitor(
  { itemId: id }: { readonly itemId: string },
  said: unknown,
  hands: JournalHands,
): Promise<Applied | undefined> {
  const isOn = isRecord(said) ? valueNamed(said, "EnableRealtimeMonitor") : undefined;
  const note = hands.memory.note("monitor", id);
  if (typeof isOn !== "boolean" || note === undefined) return undefined;
  if (readMonitor(hands.seal, note) === isOn) return undefined;
  const value = monitorValue(hands.seal, id, isOn);
  return await inStore(hands, () => putNote(hands, { kind: "monitor", id, replica: "", value }, 0));
}

function valueNamed(fields: Fields, name: string): unknown {
  const known = nameIn(fields, name);
  return known === undefined ? undefined : fields[known];
}

/** Where the document of an entry is at this server; undefined when the facts make no sense. */
export function shelfOf(
  entry: { readonly kind: IntentKind; readonly userId: string; readonly itemId: string },
  facts: unknown,
  hands: DocumentHands,
): Shelf | undefined {
  const kind = entry.kind as DocumentKind;
  const here = idHere(hands, entry.userId);
  const plain = (name: string, table: string, path: string, writePath = path): Shelf => ({
    table,
    name,
    read: () => readJson(hands, path),
    write: (document) => writeJson(hands, "POST", writePath, document, name),
  });
  switch (kind) {
    case "preferences": {
      const id = textField(facts, "id");
      const client = textField(facts, "client");
      if (id === undefined || client === undefined || here === "") return undefined;
      const query = `userId=${here}&client=${encodeURIComponent(client.toWellFormed())}`;
      const path = `/DisplayPreferences/${encodeURIComponent(id.toWellFormed())}?${query}`;
      return plain(`a user's display preferences`, "preferences", path);
    }
    case "userConfiguration":
      return ofUser(hands, here, "Configuration", `/Users/Configuration?userId=${here}`);
    case "userPolicy":
      return ofUser(hands, here, "Policy", `/Users/${here}/Policy`);
    case "configuration": {
      const document = textField(facts, "document");
      if (document === undefined) return undefined;
      if (document === "device") return ofDevice(hands, textField(facts, "deviceId"));
      if (document === "repositories")
        return plain("the list of repositories", document, "/Repositories");
      const path =
        document === "system"
          ? "/System/Configuration"
          : `/System/Configuration/${encodeURIComponent(document.toWellFormed())}`;
      return plain(`the configuration "${document}"`, document, path);
    }
    case "pluginConfiguration": {
      const pluginId = textField(facts, "pluginId");
      if (pluginId === undefined || !isPlainId(pluginId)) return undefined;
      const path = `/Plugins/${pluginId}/Configuration`;
      const shelf = plain(`the configuration of plugin ${pluginId}`, "plugin", path);
      return { ...shelf, isComing: () => waitsForRestart(hands, pluginId) };
    }
    case "libraryOptions":
      return ofLibrary(hands, entry.itemId);
  }
}

/** A plugin that was installed has settings once it is loaded, which is at a start (PluginsController). */
async function waitsForRestart(hands: DocumentHands, pluginId: string): Promise<boolean> {
  const read = await readPlugins(hands);
  const plugins = read.outcome === "read" ? read.plugins : [];
  return plugins.some(({ id, status }) => status === "Restart" && id === pluginId);
}

function ofUser(
  hands: DocumentHands,
  here: string,
  field: "Configuration" | "Policy",
  writePath: string,
): Shelf | undefined {
  if (!isPlainId(here)) return undefined;
  const name = `a user's ${field.toLowerCase()}`;
  return {
    table: field === "Policy" ? "userPolicy" : "userConfiguration",
    name,
    async read() {
      const read = await readJson(hands, `/Users/${here}`);
      if (read.outcome !== "read") return read;
      return { outcome: "read", value: objectOf(objectOf(read.value)?.[field]) ?? {} };
    },
    write: (document) => writeJson(hands, "POST", writePath, document, name),
  };
}

/** The name that an administrator gave a device: a server has it for any id, and the rest of the document is its own. */
function ofDevice(hands: DocumentHands, deviceId: string | undefined): Shelf | undefined {
  if (deviceId === undefined) return undefined;
  const path = `/Devices/Options?id=${encodeURIComponent(deviceId.toWellFormed())}`;
  const name = "the name of a device";
  return {
    table: "device",
    name,
    async read() {
      const read = await readJson(hands, path);
      if (read.outcome === "failed") return read;
      const said = read.outcome === "read" ? objectOf(read.value)?.CustomName : undefined;
      return { outcome: "read", value: { CustomName: said ?? null } };
    },
    write: (document) => writeJson(hands, "POST", path, document, name),
  };
}

function ofLibrary(hands: DocumentHands, libraryId: string): Shelf | undefined {
  if (!isPlainId(libraryId)) return undefined;
  return {
    table: "libraryOptions",
    name: `the options of library ${libraryId}`,
    // It comes with its folder, later perhaps.
    isComing: async () => true,
    async read() {
      const read = await readJson(hands, "/Library/VirtualFolders");
      if (read.outcome !== "read") return read;
      const library = librariesIn(read.value)?.find(({ id }) => id === libraryId);
      return library === undefined
        ? { outcome: "unknown" }
        : { outcome: "read", value: library.options };
    },
    write: (document) =>
      writeJson(
        hands,
        "POST",
        "/Library/VirtualFolders/LibraryOptions",
        { Id: libraryId, LibraryOptions: document },
        `the options of library ${libraryId}`,
      ),
  };
}

// ---- Pictures ---------------------------------------------------------------------------------------------

function publishPicture({ entry: intent }: Placed<Intent>): Published {
  const what = fieldOf(intent.facts, "what");
  const { bodyTooBig, body, contentType } = intent.request;
  const isInline = what === "set" && bodyTooBig !== true && body !== "";
  // A picture that is too large for the journal is fetched from the server that has it.
  const payload = { what, ...(isInline && { picture: body, contentType }) };
  return { outcome: "effects", effects: [{ userId: intent.userId, itemId: "", payload }] };
}

async function applyPicture(
  { entry: effect }: Placed<Effect>,
  hands: JournalHands,
): Promise<Applied> {
  const { payload, replica } = effect;
  const path = picturePath(effect, hands, hands.replica);
  if (path === undefined) return refused("its payload makes no sense");
  if (fieldOf(payload, "what") === "cleared") {
    return appliedOf(await hands.client.callWithKey("DELETE", path), "a picture's end");
  }
  const picture = textField(payload, "picture");
  const contentType = textField(payload, "contentType");
  if (picture !== undefined && contentType !== undefined) {
    return await putPicture(hands, path, contentType, Buffer.from(picture, "base64"));
  }
  // Its own, read again: it was the last here, or another one follows.
  if (replica === hands.replica) return skipped;
  const peer = hands.peer(replica);
  const there = picturePath(effect, hands, replica);
  if (peer === undefined || there === undefined) return again(`${replica} has it and is not known`);
  const file = await peer.file(there);
  if (file.outcome === "failed") return again(`${replica} has it: ${file.message}`);
  if (file.status === 404) return refused(`${replica} no longer has it`);
  if (file.status !== 200) return again(`${replica} has it and answers ${file.status}`);
  return await putPicture(hands, path, file.contentType, file.bytes);
}

async function redoPicture(intent: Intent, hands: JournalHands): Promise<Applied> {
  const path = picturePath(intent, hands, hands.replica);
  if (path === undefined) return refused("its facts make no sense");
  if (fieldOf(intent.facts, "what") === "cleared") {
    return appliedOf(await hands.client.callWithKey("DELETE", path), "a picture's end");
  }
  const { body, bodyTooBig, contentType } = intent.request;
  if (bodyTooBig === true || body === "") return refused("it was too large to be kept");
  return await putPicture(hands, path, contentType, Buffer.from(body, "base64"));
}

async function putPicture(
  { client }: JournalHands,
  path: string,
  contentType: string,
  bytes: Buffer,
): Promise<Applied> {
  if (!/^image\/[a-z0-9.+-]+$/i.test(contentType)) return refused("it is no picture");
  if (bytes.length === 0 || bytes.length > pictureBytesMax) return refused("it has a strange size");
  const own = await client.file(path);
  if (own.outcome === "answered" && own.status === 200 && own.bytes.equals(bytes)) return skipped;
  return appliedOf(
    await client.postWithKey(path, contentType, bytes.toString("base64")),
    "a picture",
  );
}

/** Where a picture is at a replica; undefined for a user id that is none. */
function picturePath(
  { kind, userId }: { readonly kind: IntentKind; readonly userId: string },
  hands: JournalHands,
  replica: string,
): string | undefined {
  if (kind === "branding") return "/Branding/Splashscreen";
  const id = idAt(hands, replica, userId);
  return isPlainId(id) ? `/UserImage?userId=${id}` : undefined;
}

// ---- What lies in the journal -----------------------------------------------------------------------------

function isSecretKind(kind: IntentKind): boolean {
  return kind === "configuration" || kind === "pluginConfiguration";
}

function documentContext(kind: IntentKind): string {
  return `document in the journal\n${kind}`;
}

function packed(
  { kind }: { readonly kind: IntentKind },
  text: string,
  document: unknown,
  { seal }: JournalHands,
): { readonly sealed: string } | { readonly document: unknown } {
  return isSecretKind(kind) ? { sealed: seal.seal(text, documentContext(kind)) } : { document };
}

function unpacked({ kind, payload }: Effect, { seal }: JournalHands): unknown {
  if (!isSecretKind(kind)) return fieldOf(payload, "document");
  const sealed = textField(payload, "sealed");
  return sealed === undefined ? undefined : jsonOf(seal.open(sealed, documentContext(kind)));
}

function jsonOf(text: string | undefined): unknown {
  if (text === undefined || text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch {
    // The server did not take it either, or it is none of ours.
    return undefined;
  }
}

/** The same fields, spelled as the server spells them. */
function respelled(said: Fields, has: Fields): Fields {
  return merged("", said, has);
}
