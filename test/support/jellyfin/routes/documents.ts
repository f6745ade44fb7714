/**
 * Documents and pictures that an owner changes: profile pictures and the login page's (ImageController), repositories
 * and packages (PackageController), plugins and their configuration (PluginsController), options of libraries (LibraryStructureController),
 * and the way back in with a PIN from a file of this server (DefaultPasswordResetProvider).
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { idOfText, parseId } from "../ids.ts";
import { actingUser, field } from "./accounts.ts";

const RESET_LIFE_MS = 30 * 60_000;

export function addDocumentRoutes(routes: Routes): void {
  addPictureRoutes(routes);
  addPluginRoutes(routes);
  addResetRoutes(routes);
  routes.add("POST", "/Library/VirtualFolders/LibraryOptions", "admin", (ask) => {
    const id = parseId(String(field(ask.json(), "Id")));
    const options = field(ask.json(), "LibraryOptions");
    if (id === undefined || typeof options !== "object" || options === null) throw new Refusal(400);
    ask.world.database.documents.set(`library-options/${id}`, { ...options });
    ask.noContent();
  });
}

// --- pictures -------------------------------------------------------------------------------------------------------

function addPictureRoutes(routes: Routes): void {
  const show = (ask: Exchange, name: string) => {
    const picture = ask.world.database.documents.get(name);
    if (picture === undefined) throw new Refusal(404, "empty");
    const bytes = Buffer.from(String(picture.base64), "base64");
    ask.response.writeHead(200, {
      "content-type": String(picture.type),
      "content-length": bytes.length,
    });
    ask.response.end(ask.method === "HEAD" ? undefined : bytes);
  };
  const put = (ask: Exchange, name: string) => {
    const type = String(ask.request.headers["content-type"] ?? "").split(";")[0] ?? "";
    if (!type.startsWith("image/")) throw new Refusal(400, { json: "Incorrect ContentType." });
    ask.world.database.documents.set(name, { type, base64: ask.body.toString("latin1") });
    ask.noContent();
  };
  const drop = (ask: Exchange, name: string) => {
    ask.world.database.documents.delete(name);
    ask.noContent();
  };
  const face = (ask: Exchange, named = ask.query("userId")) => {
    const id = actingUser(ask, named);
    if (id === undefined || ask.world.database.users.get(id) === undefined) throw new Refusal(404);
    return `user-image/${id}`;
  };
  routes.add("GET|HEAD", "/UserImage", "anonymous", (ask) =>
    show(ask, `user-image/${parseId(ask.query("userId")) ?? ""}`),
  );
  routes.add("POST", "/UserImage", "user", (ask) => put(ask, face(ask)));
  routes.add("DELETE", "/UserImage", "user", (ask) => drop(ask, face(ask)));
  routes.add("POST", "/Users/:id/Images/:type", "user", (ask) => put(ask, face(ask, ask.param(0))));
  routes.add("DELETE", "/Users/:id/Images/:type", "user", (ask) =>
    drop(ask, face(ask, ask.param(0))),
  );
  routes.add("GET|HEAD", "/Branding/Splashscreen", "anonymous", (ask) => show(ask, "splashscreen"));
  routes.add("POST", "/Branding/Splashscreen", "admin", (ask) => put(ask, "splashscreen"));
  routes.add("DELETE", "/Branding/Splashscreen", "admin", (ask) => drop(ask, "splashscreen"));
}

// --- plugins --------------------------------------------------------------------------------------------------------

function addPluginRoutes(routes: Routes): void {
  routes.add("GET", "/Repositories", "admin", (ask) =>
    ask.reply(ask.world.configuration("system").PluginRepositories ?? []),
  );
  routes.add("POST", "/Repositories", "admin", (ask) => {
    ask.world.configure("system", { PluginRepositories: ask.json() });
    ask.noContent();
  });
  routes.add("GET", "/Plugins", "admin", (ask) => ask.reply(ask.world.plugins.list()));
  routes.add("POST", "/Packages/Installed/:name", "admin", (ask) => {
    const wanted = {
      ...{ name: ask.param(0), id: parseId(ask.query("assemblyGuid")) },
      ...{ version: ask.query("version"), repositoryUrl: ask.query("repositoryUrl") },
    };
    if (!ask.world.plugins.install(wanted)) throw new Refusal(404, "problem");
    ask.noContent();
  });
  const change = (what: "remove" | "Active" | "Disabled") => (ask: Exchange) => {
    const id = parseId(ask.param(0)) ?? "";
    const version = ask.params.length > 1 ? ask.param(1) : undefined;
    if (!ask.world.plugins.change(id, version, what)) throw new Refusal(404, "problem");
    ask.noContent();
  };
  routes.add("DELETE", "/Plugins/:id", "admin", change("remove"));
  routes.add("DELETE", "/Plugins/:id/:version", "admin", change("remove"));
  routes.add("POST", "/Plugins/:id/:version/Enable", "admin", change("Active"));
  routes.add("POST", "/Plugins/:id/:version/Disable", "admin", change("Disabled"));
  // A plugin that is not installed has no configuration; one is here when somebody has put its document there.
  const name = (ask: Exchange) => {
    const id = `plugin/${parseId(ask.param(0)) ?? ""}`;
    if (ask.world.database.documents.get(id) === undefined) throw new Refusal(404, "problem");
    return id;
  };
  routes.add("GET", "/Plugins/:id/Configuration", "admin", (ask) =>
    ask.reply(ask.world.configuration(name(ask))),
  );
  routes.add("POST", "/Plugins/:id/Configuration", "admin", (ask) => {
    ask.world.database.documents.set(name(ask), ask.json());
    ask.noContent();
  });
}

// --- the way back in ------------------------------------------------------------------------------------------------

function addResetRoutes(routes: Routes): void {
  const folder = (ask: Exchange) => join(ask.world.options.dataFolder, "data");
  routes.add("POST", "/Users/ForgotPassword", "anonymous", (ask) => {
    const name = String(field(ask.json(), "EnteredUsername") ?? "");
    const file = join(folder(ask), `passwordreset${idOfText(name.toUpperCase())}.json`);
    const user = ask.world.accounts.findByName(name);
    const ends = Date.now() + RESET_LIFE_MS;
    if (user !== undefined) {
      const pin = randomBytes(4).toString("hex").toUpperCase().match(/../g)?.join("-");
      mkdirSync(folder(ask), { recursive: true });
      writeFileSync(file, JSON.stringify({ Pin: pin, UserName: user.name, ExpirationDate: ends }));
    }
    const date = new Date(ends).toISOString();
    ask.reply({ Action: "PinCode", PinFile: file, PinExpirationDate: date });
  });
  routes.add("POST", "/Users/ForgotPassword/Pin", "anonymous", (ask) => {
    const given = String(field(ask.json(), "Pin") ?? "");
    const bare = (pin: string) => pin.replaceAll("-", "");
    const names = existsSync(folder(ask)) ? readdirSync(folder(ask)) : [];
    const reset: string[] = [];
    for (const name of names.filter((one) => one.startsWith("passwordreset"))) {
      const file = join(folder(ask), name);
      const { Pin, UserName } = JSON.parse(readFileSync(file, "utf8")) as Record<string, string>;
      const user = ask.world.accounts.findByName(String(UserName));
      if (user === undefined || bare(String(Pin)) !== bare(given)) continue;
      // The PIN as it was typed becomes the password, and no token ends.
      ask.world.accounts.setPassword(user, given);
      rmSync(file);
      reset.push(user.name);
    }
    if (reset.length === 0) throw new Refusal(404);
    ask.reply({ Success: true, UsersReset: reset });
  });
}
