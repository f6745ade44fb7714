/**
 * What only an administrator looks at: the options of a device (DevicesController; a row for any id, whether there is such
 * a device or not, kept in jellyfin.db as table DeviceOptions) and the server's logs (SystemController).
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { Refusal, type Routes } from "../http.ts";
import { field } from "./accounts.ts";

const OPTIONS = "device-options";

export function addOwnerRoutes(routes: Routes): void {
  routes.add("GET", "/Devices/Options", "admin", (ask) => {
    const id = ask.query("id");
    if (id === undefined || id === "") throw new Refusal(400, "problem");
    const known = ask.world.configuration(OPTIONS);
    if (!Object.hasOwn(known, id)) throw new Refusal(404, "problem");
    ask.reply({ Id: Object.keys(known).indexOf(id) + 1, DeviceId: id, CustomName: known[id] });
  });
  routes.add("POST", "/Devices/Options", "admin", (ask) => {
    const id = ask.query("id");
    if (id === undefined || id === "") throw new Refusal(400, "problem");
    ask.world.configure(OPTIONS, { [id]: field(ask.json(), "CustomName") ?? null });
    ask.noContent();
  });
  routes.add("GET", "/System/Logs", "admin", (ask) => {
    const folder = join(ask.world.options.dataFolder, "log");
    const names = existsSync(folder) ? readdirSync(folder) : [];
    ask.reply(
      names.map((name) => {
        const { size, mtime, birthtime } = statSync(join(folder, name));
        return { Name: name, Size: size, DateCreated: birthtime, DateModified: mtime };
      }),
    );
  });
  routes.add("GET", "/System/Logs/Log", "admin", (ask) => {
    const path = join(ask.world.options.dataFolder, "log", basename(ask.query("name") ?? ""));
    if (!existsSync(path) || !statSync(path).isFile()) throw new Refusal(404, "problem");
    ask.text(200, readFileSync(path, "utf8"));
  });
}
