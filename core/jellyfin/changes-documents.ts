// Changes of whole documents, of users and of keys: which intent each of their routes makes. Pure.
//
// It promises that a route which is not about one of them makes none here, that a password is in no draft but as its
// `secret`, that a key is in none at all, and that documents which may hold passwords of others (plugins, television)
// are marked to be sealed.

import {
  bodyLeftOut,
  type ChangeAsked,
  type ChangeDraft,
  type ChangeReader,
  cleanedQuery,
  fieldsOf,
  keptQuery,
  plainGuid,
  type RequestBody,
  requestOf,
  textLengthMax,
  userMeant,
} from "./change-request.ts";
import type {
  ConfigurationFacts,
  PasswordFacts,
  PasswordSecret,
  PreferencesFacts,
  UserFacts,
  UserImageFacts,
} from "./documents.ts";
import { queryValue } from "./playback.ts";
import type { Route } from "./routes.ts";

/** The reader of this route's requests; undefined: it changes no document, user or key. */
export function documentChange(route: Route): ChangeReader | undefined {
  if (!route.changes || route.methods.includes("GET")) return undefined;
  switch (route.kind) {
    case "displayPreferences":
      return readPreferences;
    case "userConfiguration":
      return (asked) => userDocument(asked, "userConfiguration");
    case "userPolicy":
      return (asked) => userDocument(asked, "userPolicy");
    case "userImage":
      return readUserImage;
    case "password":
      return readPassword;
    case "passwordPin":
      return readPin;
    case "user":
      return readUser;
    case "apiKeys":
      return route.methods.includes("POST") ? readNewKey : undefined;
    case "configuration":
      return readConfiguration;
    case "devices":
      return route.pattern === "/Devices/Options" ? readDevice : undefined;
    case "television":
      return route.pattern.startsWith("/LiveTv/") ? readTelevision : undefined;
    case "plugin":
      return route.pattern === "/Plugins/{pluginId}/Configuration" ? readPlugin : undefined;
    case "library":
      return route.pattern === "/Library/VirtualFolders/LibraryOptions"
        ? readLibraryOptions
        : undefined;
    default:
      return undefined;
  }
}

// ---- Documents of a user ----------------------------------------------------------------------------------

function readPreferences(asked: ChangeAsked): ChangeDraft | undefined {
  const userId = userMeant(asked);
  const client = queryValue(asked.rawQuery, "client");
  const id = asked.params.displayPreferencesId;
  if (userId === "" || client === undefined || id === undefined) return undefined;
  const facts: PreferencesFacts = { id, client };
  const request = requestOf(asked, keptQuery(asked.rawQuery, ["userId", "client"]), jsonOf(asked));
  return { kind: "preferences", userId, itemId: "", request, facts };
}

function userDocument(
  asked: ChangeAsked,
  kind: "userConfiguration" | "userPolicy",
): ChangeDraft | undefined {
  const userId = userMeant(asked);
  if (userId === "") return undefined;
  const request = requestOf(asked, keptQuery(asked.rawQuery, ["userId"]), jsonOf(asked));
  return { kind, userId, itemId: "", request, facts: {} };
}

function readUserImage(asked: ChangeAsked): ChangeDraft | undefined {
  const userId = userMeant(asked);
  if (userId === "") return undefined;
  const isSet = asked.method === "POST";
  const facts: UserImageFacts = { what: isSet ? "set" : "cleared" };
  const query = keptQuery(asked.rawQuery, ["userId"]);
  const request = requestOf(asked, query, isSet ? pictureOf(asked) : undefined);
  return { kind: "userImage", userId, itemId: "", request, facts };
}

// ---- Users and what lets them in --------------------------------------------------------------------------

/** UserController.CreateUserByName, UpdateUser, DeleteUser. */
function readUser(asked: ChangeAsked): ChangeDraft | undefined {
  const { route, method } = asked;
  const fields = asked.bodyText === undefined ? undefined : fieldsOf(asked.bodyText);
  if (route.pattern === "/Users/New") {
    const name = textOf(fields?.get("name"));
    if (name === undefined) return undefined;
    const password = textOf(fields?.get("password"));
    const facts: UserFacts = { what: "created", name };
    return {
      kind: "user",
      userId: "",
      itemId: "",
      request: requestOf(asked, "", { contentType: json, body: JSON.stringify({ Name: name }) }),
      facts,
      ...(password !== undefined && { secret: secretText({ current: "", next: password }) }),
      told: userToldIn,
    };
  }
  const userId = userMeant(asked);
  if (userId === "") return undefined;
  const query = keptQuery(asked.rawQuery, ["userId"]);
  if (method === "DELETE") {
    const facts: UserFacts = { what: "deleted" };
    return { kind: "user", userId, itemId: "", request: requestOf(asked, ""), facts };
  }
  const name = textOf(fields?.get("name"));
  if (name === undefined) return undefined;
  const facts: UserFacts = { what: "updated", name };
  const body = { Name: name, Configuration: fields?.get("configuration") };
  const request = requestOf(asked, query, { contentType: json, body: JSON.stringify(body) });
  return { kind: "user", userId, itemId: "", request, facts };
}

/** UserController.UpdateUserPassword. */
function readPassword(asked: ChangeAsked): ChangeDraft | undefined {
  const userId = userMeant(asked);
  const fields = asked.bodyText === undefined ? undefined : fieldsOf(asked.bodyText);
  if (userId === "" || fields === undefined) return undefined;
  const request = requestOf(asked, keptQuery(asked.rawQuery, ["userId"]));
  const draft = { kind: "password", userId, itemId: "", request } as const;
  if (fields.get("resetpassword") === true) {
    return { ...draft, facts: { how: "reset" } satisfies PasswordFacts };
  }
  const isOwn = asked.caller?.kind === "user" && asked.caller.userId === userId;
  const facts: PasswordFacts = { how: isOwn ? "own" : "other" };
  const secret = secretText({
    current: textOf(fields.get("currentpw")) ?? "",
    next: textOf(fields.get("newpw")) ?? "",
  });
  return { ...draft, facts, secret };
}

/** UserController.ForgotPasswordPin: the PIN becomes the password (DefaultPasswordResetProvider). */
function readPin(asked: ChangeAsked): ChangeDraft | undefined {
  const fields = asked.bodyText === undefined ? undefined : fieldsOf(asked.bodyText);
  const pin = textOf(fields?.get("pin"));
  if (pin === undefined || pin === "") return undefined;
  const facts: PasswordFacts = { how: "pin" };
  return {
    kind: "password",
    userId: "",
    itemId: "",
    request: requestOf(asked, ""),
    facts,
    secret: secretText({ current: "", next: pin }),
    told: namesToldIn,
  };
}

/** The answer is 204 without the key: the server that made it is asked for it (ApiKeyController.CreateKey). */
function readNewKey(asked: ChangeAsked): ChangeDraft | undefined {
  const name = queryValue(asked.rawQuery, "app");
  if (name === undefined || name === "") return undefined;
  const request = requestOf(asked, keptQuery(asked.rawQuery, ["app"]));
  return { kind: "apiKey", userId: "", itemId: "", request, facts: { name } };
}

// ---- Documents of the server ------------------------------------------------------------------------------

function readConfiguration(asked: ChangeAsked): ChangeDraft | undefined {
  const { pattern } = asked.route;
  const whole = { userId: "", itemId: "", isSecret: true } as const;
  const query = cleanedQuery(asked.rawQuery);
  if (pattern === "/Branding/Splashscreen") {
    const isSet = asked.method === "POST";
    const facts: UserImageFacts = { what: isSet ? "set" : "cleared" };
    const request = requestOf(asked, "", isSet ? pictureOf(asked) : undefined);
    return { kind: "branding", userId: "", itemId: "", request, facts };
  }
  const document = documentOf(asked);
  if (document === undefined) return undefined;
  const facts: ConfigurationFacts = { document };
  return {
    kind: "configuration",
    ...whole,
    request: requestOf(asked, query, jsonOf(asked)),
    facts,
  };
}

function documentOf({ route, params }: ChangeAsked): string | undefined {
  switch (route.pattern) {
    case "/System/Configuration":
      return "system";
    case "/System/Configuration/Branding":
      return "branding";
    case "/System/Configuration/{key}":
      return params.key?.toLowerCase();
    case "/Repositories":
      return "repositories";
    default:
      return undefined;
  }
}

/** DevicesController.UpdateDeviceOptions. */
function readDevice(asked: ChangeAsked): ChangeDraft | undefined {
  const deviceId = queryValue(asked.rawQuery, "id");
  if (deviceId === undefined || deviceId === "") return undefined;
  const facts: ConfigurationFacts = { document: "device", deviceId };
  const request = requestOf(asked, keptQuery(asked.rawQuery, ["id"]), jsonOf(asked));
  return { kind: "configuration", userId: "", itemId: "", request, facts, isSecret: true };
}

/** Tuners and guides get random ids: what is carried is the document that has them, not the request. */
function readTelevision(asked: ChangeAsked): ChangeDraft | undefined {
  const facts: ConfigurationFacts = { document: "livetv", isReadBack: true };
  const request = requestOf(asked, cleanedQuery(asked.rawQuery), jsonOf(asked));
  return { kind: "configuration", userId: "", itemId: "", request, facts, isSecret: true };
}

function readPlugin(asked: ChangeAsked): ChangeDraft | undefined {
  const pluginId = plainGuid(asked.params.pluginId);
  if (pluginId === undefined) return undefined;
  const request = requestOf(asked, "", jsonOf(asked));
  const facts = { pluginId };
  return {
    kind: "pluginConfiguration",
    userId: "",
    itemId: "",
    request,
    facts,
    isSecret: true,
  };
}

function readLibraryOptions(asked: ChangeAsked): ChangeDraft | undefined {
  const fields = asked.bodyText === undefined ? undefined : fieldsOf(asked.bodyText);
  const libraryId = plainGuid(fields?.get("id"));
  if (libraryId === undefined) return undefined;
  const request = requestOf(asked, "", jsonOf(asked));
  return { kind: "libraryOptions", userId: "", itemId: libraryId, request, facts: {} };
}

// ---- Bodies and answers -----------------------------------------------------------------------------------

const json = "application/json";
/** An entry of the journal is short; a longer document is read back from the server that has it. */
const documentLengthMax = 256 * 1024;

function jsonOf({ bodyText }: ChangeAsked): RequestBody {
  if (bodyText === undefined || bodyText.length > documentLengthMax) return bodyLeftOut;
  return { contentType: json, body: bodyText };
}

/** Pictures come as text, in base64 (ImageController.GetFromBase64Stream). */
function pictureOf({ bodyText, contentType }: ChangeAsked): RequestBody {
  const type = contentType.split(";")[0]?.trim() ?? "";
  if (bodyText === undefined || bodyText.length > textLengthMax) return bodyLeftOut;
  return { contentType: type, body: bodyText };
}

function secretText(secret: PasswordSecret): string {
  return JSON.stringify(secret);
}

/** A UserDto: who was made. */
function userToldIn(answer: string): unknown {
  const fields = fieldsOf(answer);
  const id = plainGuid(fields?.get("id"));
  const name = textOf(fields?.get("name"));
  return id === undefined || name === undefined ? undefined : { id, name };
}

/** A PinRedeemResult: whose password the PIN is now. */
function namesToldIn(answer: string): unknown {
  const fields = fieldsOf(answer);
  const names = fields?.get("usersreset");
  if (fields?.get("success") !== true || !Array.isArray(names)) return undefined;
  return { names: names.filter((name) => typeof name === "string") };
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}
