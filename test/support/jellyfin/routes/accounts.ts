/** Logins, QuickConnect, users, devices and API keys: UserController, QuickConnectController, DevicesController, ApiKeyController. */
import type { UserRow } from "../database.ts";
import { type Exchange, Refusal, type Routes } from "../http.ts";
import { EMPTY_ID, jellyfinDate, parseId, randomId } from "../ids.ts";

export function addAccountRoutes(routes: Routes): void {
  routes.add("POST", "/Users/AuthenticateByName", "anonymous", (ask) => {
    const body = ask.json();
    const { accounts } = ask.world;
    const credentials = ask.credentials;
    const address = ask.world.addressOf(ask);
    ask.reply(accounts.login(field(body, "Username"), field(body, "Pw"), credentials, address));
  });
  routes.add("POST", "/Users/:id/Authenticate", "anonymous", (ask) => {
    const user = userById(ask, ask.param(0));
    const credentials = ask.credentials;
    const password = ask.query("pw");
    ask.reply(ask.world.accounts.login(user.name, password, credentials, ask.world.addressOf(ask)));
  });
  addQuickConnectRoutes(routes);
  addUserRoutes(routes);
  addPasswordRoutes(routes);
  addDeviceRoutes(routes);
}

function addQuickConnectRoutes(routes: Routes): void {
  routes.add("GET", "/QuickConnect/Enabled", "anonymous", (ask) =>
    ask.reply(ask.world.configuration("system").QuickConnectAvailable === true),
  );
  routes.add("POST", "/QuickConnect/Initiate", "anonymous", (ask) => {
    const credentials = ask.credentials;
    // With a valid token the token's row fills what the header lacks, and an API key lends its name as client.
    const caller = ask.world.accounts.identify(credentials);
    const named = typeof caller === "string" ? credentials : { ...credentials, ...caller };
    ask.reply(ask.world.accounts.initiate(named));
  });
  routes.add("GET", "/QuickConnect/Connect", "anonymous", (ask) =>
    ask.reply(ask.world.accounts.connect(required(ask, "secret"))),
  );
  routes.add("POST", "/QuickConnect/Authorize", "user", (ask) => {
    const code = required(ask, "code");
    ask.world.accounts.authorize(actingUser(ask), code);
    ask.reply(true);
  });
  routes.add("POST", "/Users/AuthenticateWithQuickConnect", "anonymous", (ask) =>
    ask.reply(ask.world.accounts.authorizedResult(field(ask.json(), "Secret"))),
  );
}

function addUserRoutes(routes: Routes): void {
  const dto = (ask: Exchange, user: UserRow) => ask.world.accounts.userDto(user);
  routes.add("GET", "/Users", "user", (ask) =>
    ask.reply([...ask.world.database.users.values()].map((user) => dto(ask, user))),
  );
  routes.add("GET", "/Users/Public", "anonymous", (ask) => {
    const users = [...ask.world.database.users.values()];
    const shown = users.filter(
      (user) => user.policy.IsHidden !== true && user.policy.IsDisabled !== true,
    );
    ask.reply(shown.map((user) => dto(ask, user)));
  });
  routes.add("GET", "/Users/Me", "user", (ask) => {
    const user = ask.world.database.users.get(ask.caller.userId ?? "");
    if (user === undefined) throw new Refusal(400, "problem");
    ask.reply(dto(ask, user));
  });
  routes.add("GET", "/Users/:id", "user", (ask) =>
    ask.reply(dto(ask, userById(ask, ask.param(0)))),
  );
  routes.add("POST", "/Users/New", "admin", (ask) => {
    const body = ask.json();
    const password = field(body, "Password");
    const user = ask.world.accounts.createUser(
      String(field(body, "Name") ?? ""),
      typeof password === "string" ? password : undefined,
    );
    ask.reply(dto(ask, user));
  });
  routes.add("DELETE", "/Users/:id", "admin", (ask) => {
    const user = userById(ask, ask.param(0));
    ask.world.accounts.revokeTokens(user.id, undefined);
    ask.world.database.users.delete(user.id);
    ask.noContent();
  });
  routes.add("POST", "/Users/:id/Policy", "admin", (ask) =>
    setPolicy(ask, userById(ask, ask.param(0))),
  );
  const configure = (ask: Exchange, id: string | undefined) => {
    const user = updatable(ask, id);
    ask.world.database.users.set(user.id, { ...user, configuration: ask.json() });
    ask.world.sessions.sendToUser(user.id, "UserUpdated", dto(ask, user));
    ask.noContent();
  };
  routes.add("POST", "/Users/Configuration", "user", (ask) => configure(ask, ask.query("userId")));
  routes.add("POST", "/Users/:id/Configuration", "user", (ask) => configure(ask, ask.param(0)));
  const update = (ask: Exchange, id: string | undefined) => {
    const user = updatable(ask, id);
    const body = ask.json();
    requireProviders(field(body, "Policy"));
    const name = String(field(body, "Name") ?? user.name);
    const known = ask.world.accounts.findByName(name);
    if (known !== undefined && known.id !== user.id) throw new Refusal(400);
    const configuration = field(body, "Configuration") ?? user.configuration;
    const changed = { ...user, name, configuration: configuration as Record<string, unknown> };
    ask.world.database.users.set(user.id, changed);
    ask.noContent();
  };
  routes.add("POST", "/Users", "user", (ask) => update(ask, ask.query("userId")));
  routes.add("POST", "/Users/:id", "user", (ask) => update(ask, ask.param(0)));
}

/** Both are `[Required]` in a UserPolicy, also where the rest of it is not looked at. */
function requireProviders(policy: unknown): void {
  const fields = typeof policy === "object" && policy !== null ? policy : {};
  for (const name of ["AuthenticationProviderId", "PasswordResetProviderId"]) {
    const value = field(fields as Record<string, unknown>, name);
    if (typeof value !== "string" || value === "") throw new Refusal(400, "problem");
  }
}

function setPolicy(ask: Exchange, user: UserRow): void {
  const policy = ask.json();
  requireProviders(policy);
  const users = [...ask.world.database.users.values()];
  const admins = users.filter((one) => one.policy.IsAdministrator === true);
  if (
    policy.IsAdministrator !== true &&
    user.policy.IsAdministrator === true &&
    admins.length === 1
  ) {
    throw new Refusal(403, {
      json: "There must be at least one user in the system with administrative access.",
    });
  }
  if (policy.IsDisabled === true && user.policy.IsAdministrator === true) {
    throw new Refusal(403, { json: "Administrators cannot be disabled." });
  }
  if (policy.IsDisabled === true && user.policy.IsDisabled !== true) {
    ask.world.accounts.revokeTokens(user.id, ask.caller.token);
  }
  ask.world.database.users.set(user.id, { ...user, policy: { ...user.policy, ...policy } });
  ask.noContent();
}

function addPasswordRoutes(routes: Routes): void {
  const change = (ask: Exchange, id: string | undefined) => {
    const user = updatable(ask, id);
    const body = ask.json();
    const { accounts } = ask.world;
    if (field(body, "ResetPassword") === true) {
      accounts.setPassword(user, undefined);
      return ask.noContent();
    }
    const own = id !== undefined && parseId(id) === ask.caller.userId;
    if (!ask.caller.isAdmin || own) {
      try {
        accounts.checkPassword(user, String(field(body, "CurrentPw") ?? ""), false);
      } catch {
        // The controller turns a wrong password into a sentence of its own.
        throw new Refusal(403, { json: "Invalid user or password entered." });
      }
    }
    accounts.setPassword(user, String(field(body, "NewPw") ?? ""));
    accounts.revokeTokens(user.id, ask.caller.token);
    ask.noContent();
  };
  routes.add("POST", "/Users/Password", "user", (ask) => change(ask, ask.query("userId")));
  routes.add("POST", "/Users/:id/Password", "user", (ask) => change(ask, ask.param(0)));
}

function addDeviceRoutes(routes: Routes): void {
  routes.add("GET", "/Devices", "admin", (ask) => {
    const users = ask.world.database.users;
    const wanted = parseId(ask.query("userId"));
    const rows = [...ask.world.database.devices.values()];
    const items = rows
      .filter((row) => wanted === undefined || row.userId === wanted)
      .map((row) => ({
        Name: row.device,
        Id: row.deviceId,
        LastUserName: users.get(row.userId)?.name,
        AppName: row.client,
        AppVersion: row.version,
        LastUserId: row.userId,
        DateLastActivity: jellyfinDate(row.lastActivity),
        Capabilities: ask.world.sessions.capabilitiesOf(row.deviceId) ?? {},
      }));
    ask.reply({ Items: items, TotalRecordCount: items.length, StartIndex: 0 });
  });
  routes.add("DELETE", "/Devices", "admin", (ask) => {
    ask.world.accounts.removeDevices(ask.queryAll("id"));
    ask.noContent();
  });
  routes.add("POST", "/Sessions/Logout", "user", (ask) => {
    ask.world.accounts.logout(ask.caller.token);
    ask.noContent();
  });
  routes.add("GET", "/Auth/Keys", "admin", (ask) => {
    const items = [...ask.world.database.keys.values()].map((key) => ({
      Id: 0,
      AccessToken: key.token,
      DeviceId: "",
      AppName: key.name,
      AppVersion: "",
      DeviceName: "",
      UserId: EMPTY_ID,
      IsActive: false,
      DateCreated: jellyfinDate(key.created),
      DateLastActivity: "0001-01-01T00:00:00.0000000Z",
    }));
    ask.reply({ Items: items, TotalRecordCount: items.length, StartIndex: 0 });
  });
  routes.add("POST", "/Auth/Keys", "admin", (ask) => {
    const token = randomId();
    const name = required(ask, "app");
    ask.world.database.keys.set(token, { token, name, created: Date.now() });
    ask.noContent();
  });
  routes.add("DELETE", "/Auth/Keys/:key", "admin", (ask) => {
    ask.world.database.keys.delete(ask.param(0));
    ask.noContent();
  });
}

/** A query parameter the route cannot do without; 400 as a problem if it is missing. */
export function required(ask: Exchange, name: string): string {
  const value = ask.query(name);
  if (value === undefined || value === "") throw new Refusal(400, "problem");
  return value;
}

/** A field of a JSON body; System.Text.Json as the server sets it up does not mind the case of its name. */
export function field(body: Record<string, unknown>, name: string): unknown {
  if (name in body) return body[name];
  const key = Object.keys(body).find((one) => one.toLowerCase() === name.toLowerCase());
  return key === undefined ? undefined : body[key];
}

/** RequestHelpers.GetUserId: the named user where the caller may, else the caller's own; undefined for a bare API key. */
export function actingUser(ask: Exchange, named = ask.query("userId")): string | undefined {
  const id = parseId(named);
  if (named !== undefined && named !== "" && id === undefined) throw new Refusal(400, "problem");
  if (id === undefined || id === EMPTY_ID) return ask.caller.userId;
  if (id !== ask.caller.userId && !ask.caller.isAdmin) throw new Refusal(403);
  return id;
}

function userById(ask: Exchange, text: string): UserRow {
  const id = parseId(text);
  if (id === undefined) throw new Refusal(400, "problem");
  const user = ask.world.database.users.get(id);
  if (user === undefined) throw new Refusal(404, { json: "User not found" });
  return user;
}

function updatable(ask: Exchange, named: string | undefined): UserRow {
  const user = ask.world.database.users.get(parseId(named) ?? ask.caller.userId ?? "");
  if (user === undefined) throw new Refusal(404, "problem");
  if (user.id !== ask.caller.userId && !ask.caller.isAdmin) {
    throw new Refusal(403, { json: "User update not allowed." });
  }
  return user;
}
