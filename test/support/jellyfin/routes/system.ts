/** System, configuration, tasks, the wizard and the web client's files: SystemController and its neighbours. */
import { createHash } from "node:crypto";
import { basename, join } from "node:path";
import { sendFile } from "../files.ts";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { isInLocalNetwork } from "../network.ts";
import { field } from "./accounts.ts";

export function addSystemRoutes(routes: Routes): void {
  addInfoRoutes(routes);
  addConfigurationRoutes(routes);
  addTaskRoutes(routes);
  addWizardRoutes(routes);
  addWebRoutes(routes);
}

function publicInfo(ask: Exchange): Record<string, unknown> {
  return {
    LocalAddress: ask.world.options.address(),
    ServerName: ask.world.serverName,
    Version: "12.0.0",
    ProductName: "Jellyfin Server",
    OperatingSystem: "",
    Id: ask.world.serverId,
    StartupWizardCompleted: ask.world.wizardCompleted,
  };
}

function addInfoRoutes(routes: Routes): void {
  routes.add("GET|POST", "/System/Ping", "anonymous", (ask) => ask.reply("Jellyfin Server"));
  routes.add("GET", "/System/Info/Public", "anonymous", (ask) => ask.reply(publicInfo(ask)));
  routes.add("GET", "/System/Info", "wizard", (ask) => {
    const { dataFolder } = ask.world.options;
    ask.reply({
      OperatingSystemDisplayName: "",
      HasPendingRestart: ask.world.plugins.isRestartNeeded,
      IsShuttingDown: false,
      SupportsLibraryMonitor: true,
      WebSocketPortNumber: Number(new URL(ask.world.options.address()).port),
      CompletedInstallations: [],
      CanSelfRestart: true,
      CanLaunchWebBrowser: false,
      ProgramDataPath: `${dataFolder}/data`,
      WebPath: dataFolder,
      ItemsByNamePath: `${dataFolder}/data/metadata`,
      CachePath: `${dataFolder}/cache`,
      LogPath: `${dataFolder}/log`,
      InternalMetadataPath: `${dataFolder}/data/metadata`,
      TranscodingTempPath:
        ask.world.configuration("encoding").TranscodingTempPath || `${dataFolder}/cache/transcodes`,
      CastReceiverApplications: [],
      HasUpdateAvailable: false,
      EncoderLocation: "System",
      SystemArchitecture: "X64",
      ...publicInfo(ask),
    });
  });
  routes.add("GET", "/System/Endpoint", "user", (ask) => {
    const address = ask.world.addressOf(ask);
    const own = ask.request.socket.localAddress?.replace("::ffff:", "");
    ask.reply({ IsLocal: address === own, IsInNetwork: isInLocalNetwork(address) });
  });
  routes.add("POST", "/System/Restart", "local", (ask) => {
    ask.noContent();
    ask.world.options.restart();
  });
  routes.add("POST", "/System/Shutdown", "admin", (ask) => {
    ask.noContent();
    ask.world.options.shutDown();
  });
  routes.add("GET", "/SyncPlay/List", "user", (ask) => {
    if (ask.caller.userId === undefined) throw new Refusal(400);
    ask.reply([]);
  });
  routes.add("GET", "/GetUtcTime", "anonymous", (ask) => {
    const now = new Date().toISOString();
    ask.reply({ RequestReceptionTime: now, ResponseTransmissionTime: now });
  });
  routes.add("GET", "/LiveTv/Info", "user", (ask) =>
    ask.reply({ Services: [], IsEnabled: false, EnabledUsers: [] }),
  );
}

function addConfigurationRoutes(routes: Routes): void {
  const named: Record<string, string> = {
    network: "network",
    encoding: "encoding",
    branding: "branding",
  };
  routes.add("GET", "/Branding/Configuration", "anonymous", (ask) =>
    ask.reply(ask.world.configuration("branding")),
  );
  routes.add("GET", "/Branding/Css", "anonymous", (ask) => ask.noContent());
  routes.add("GET", "/System/Configuration", "user", (ask) =>
    ask.reply(ask.world.configuration("system")),
  );
  routes.add("POST", "/System/Configuration", "admin", (ask) => {
    ask.world.configure("system", ask.json());
    ask.noContent();
  });
  routes.add("GET", "/System/Configuration/:name", "user", (ask) => {
    const name = named[ask.param(0).toLowerCase()] ?? ask.param(0).toLowerCase();
    const document = ask.world.database.documents.get(name);
    if (document === undefined) throw new Refusal(404);
    ask.reply(document);
  });
  routes.add("POST", "/System/Configuration/:name", "admin", (ask) => {
    ask.world.configure(ask.param(0).toLowerCase(), ask.json());
    ask.noContent();
  });
}

function addTaskRoutes(routes: Routes): void {
  routes.add("GET", "/ScheduledTasks", "admin", (ask) => {
    const hidden = ask.query("isHidden");
    const list = ask.world.tasks.list();
    ask.reply(
      hidden === undefined ? list : list.filter((task) => String(task.IsHidden) === hidden),
    );
  });
  routes.add("GET", "/ScheduledTasks/:id", "admin", (ask) =>
    ask.reply(ask.world.tasks.get(ask.param(0))),
  );
  routes.add("POST", "/ScheduledTasks/Running/:id", "admin", (ask) => {
    ask.world.tasks.start(ask.param(0));
    ask.noContent();
  });
  routes.add("DELETE", "/ScheduledTasks/Running/:id", "admin", (ask) => {
    ask.world.tasks.cancel(ask.param(0));
    ask.noContent();
  });
  routes.add("POST", "/ScheduledTasks/:id/Triggers", "admin", (ask) => {
    ask.world.tasks.setTriggers(ask.param(0), ask.json());
    ask.noContent();
  });
}

function addWizardRoutes(routes: Routes): void {
  const first = (ask: Exchange) => [...ask.world.database.users.values()][0];
  routes.add("GET", "/Startup/Configuration", "wizard", (ask) =>
    ask.reply({
      ServerName: ask.world.serverName,
      UICulture: "en-US",
      MetadataCountryCode: "US",
      PreferredMetadataLanguage: "en",
    }),
  );
  routes.add("POST", "/Startup/Configuration", "wizard", (ask) => ask.noContent());
  routes.add("POST", "/Startup/RemoteAccess", "wizard", (ask) => ask.noContent());
  const user = (ask: Exchange) => ask.reply({ Name: first(ask)?.name, Password: "" });
  routes.add("GET", "/Startup/User", "wizard", user);
  routes.add("GET", "/Startup/FirstUser", "wizard", user);
  routes.add("POST", "/Startup/User", "wizard", (ask) => {
    const body = ask.json();
    const known = first(ask);
    if (known === undefined) throw new Refusal(404);
    if (known.passwordHash !== undefined) throw new Refusal(403, "empty");
    ask.world.accounts.setPassword(known, String(field(body, "Password") ?? ""));
    ask.noContent();
  });
  routes.add("POST", "/Startup/Complete", "wizard", (ask) => {
    ask.world.configure("system", { IsStartupWizardCompleted: true });
    ask.noContent();
  });
}

const SCRIPT = `document.body.append(" It works.");\n`;
const SCRIPT_NAME = `main.${createHash("sha256").update(SCRIPT).digest("hex").slice(0, 20)}.bundle.js`;
const PAGE = [
  "<!doctype html><html><head><title>Jellyfin</title></head><body>A stand-in.",
  `<script src="${SCRIPT_NAME}"></script></body></html>\n`,
].join("");

/** A tiny page with one hashed file, served as static files are: with an ETag, a length, and no compression. */
function addWebRoutes(routes: Routes): void {
  const serve = (type: string, text: string) => {
    const etag = `"${createHash("md5").update(text).digest("hex").slice(0, 15)}"`;
    return (ask: Exchange) => {
      const headers = {
        etag,
        "accept-ranges": "bytes",
        "last-modified": "Sat, 01 Aug 2026 00:00:00 GMT",
      };
      if (ask.request.headers["if-none-match"] === etag) {
        ask.response.writeHead(304, headers).end();
        return;
      }
      const length = Buffer.byteLength(text);
      ask.response.writeHead(200, { ...headers, "content-type": type, "content-length": length });
      ask.response.end(ask.method === "HEAD" ? undefined : text);
    };
  };
  const redirect = (ask: Exchange) => {
    const location = `${ask.world.options.baseUrl}/web/`;
    ask.response.writeHead(302, { location, "content-length": 0 }).end();
  };
  routes.add("GET|HEAD", "/", "anonymous", redirect);
  const builtIn = serve("text/html", PAGE);
  const fromFolder = async (ask: Exchange, name: string): Promise<boolean> => {
    const { webFolder } = ask.world.options;
    if (webFolder === undefined) return false;
    const { request, response, method } = ask;
    const sent = await sendFile(request.headers, method, response, join(webFolder, basename(name)));
    if (sent === "missing") throw new Refusal(404, "empty");
    return true;
  };
  const page = async (ask: Exchange) => {
    if (!(await fromFolder(ask, "index.html"))) builtIn(ask);
  };
  routes.add("GET|HEAD", "/web", "anonymous", (ask) =>
    ask.path.endsWith("/") ? page(ask) : redirect(ask),
  );
  routes.add("GET|HEAD", "/web/index.html", "anonymous", page);
  routes.add("GET|HEAD", `/web/${SCRIPT_NAME}`, "anonymous", serve("text/javascript", SCRIPT));
  routes.add("GET", "/web/config.json", "anonymous", serve("application/json", "{}"));
  routes.add("GET", "/web/ConfigurationPages", "admin", (ask) => ask.reply([]));
  routes.add("GET|HEAD", "/web/:file", "anonymous", async (ask) => {
    if (!(await fromFolder(ask, ask.param(0)))) throw new Refusal(404, "empty");
  });
  routes.add("GET", "/metrics", "anonymous", (ask) => {
    if (ask.world.configuration("system").EnableMetrics !== true) throw new Refusal(404, "empty");
    ask.text(200, "# HELP process_uptime Of the stand-in.\nprocess_uptime 1\n");
  });
}
