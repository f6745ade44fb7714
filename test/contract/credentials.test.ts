/** What we believe about tokens: where a server looks for them, what it answers without them, and when they die. */
import { afterAll, describe, expect, test } from "vitest";
import { asLogin, authorization, contractServers, hasPair, PASSWORD, USER } from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);

describe("a token is taken from", () => {
  // AuthorizationContext.GetParts and GetAuthorizationInfoFromDictionary, 12.0; each form tried on 12.0-rc5.
  test.each<[string, (token: string) => { query?: string; headers?: Record<string, string> }]>([
    [
      "Authorization with quoted values",
      (t) => ({ headers: { authorization: `MediaBrowser Token="${t}"` } }),
    ],
    [
      "Authorization with bare values",
      (t) => ({ headers: { authorization: `MediaBrowser Token=${t}` } }),
    ],
    [
      "Authorization in any order",
      (t) => ({ headers: { authorization: `MediaBrowser Token="${t}", Client="x", Device="y"` } }),
    ],
    [
      "Authorization with blanks around keys",
      (t) => ({ headers: { authorization: `MediaBrowser  Client="x" ,  Token="${t}"` } }),
    ],
    [
      "Authorization with escaped values",
      (t) => ({
        headers: {
          authorization: `MediaBrowser Client="a%20b", Token="${t.replace(/^./, (c) => `%${c.charCodeAt(0).toString(16)}`)}"`,
        },
      }),
    ],
    [
      "Authorization with a comma in a quoted value",
      (t) => ({ headers: { authorization: `MediaBrowser Device="a, b", Token="${t}"` } }),
    ],
    [
      "Authorization with the scheme in another case",
      (t) => ({ headers: { authorization: `mediabrowser Token="${t}"` } }),
    ],
    ["the query as ApiKey", (t) => ({ query: `?ApiKey=${t}` })],
    ["the query as apikey", (t) => ({ query: `?apikey=${t}` })],
    ["the query as APIKEY", (t) => ({ query: `?APIKEY=${t}` })],
    [
      "the query, where Authorization has none",
      (t) => ({ query: `?ApiKey=${t}`, headers: { authorization: 'MediaBrowser Client="x"' } }),
    ],
    [
      "the query, where Authorization is Bearer",
      (t) => ({ query: `?ApiKey=${t}`, headers: { authorization: "Bearer abc" } }),
    ],
  ])("%s", async (_form, form) => {
    const { token } = await a.enter();
    const { query = "", headers = {} } = form(token);
    expect((await a.call("GET", `/Users/Me${query}`, { headers })).status).toBe(200);
  });
});

describe("a token is not taken from", () => {
  // EnableLegacyAuthorization is false by default in 12.0 (migration DisableLegacyAuthorization).
  test.each<[string, (token: string) => { query?: string; headers?: Record<string, string> }]>([
    ["Authorization: Emby", (t) => ({ headers: { authorization: `Emby Token="${t}"` } })],
    ["Authorization: Bearer", (t) => ({ headers: { authorization: `Bearer ${t}` } })],
    ["X-Emby-Token", (t) => ({ headers: { "x-emby-token": t } })],
    ["X-MediaBrowser-Token", (t) => ({ headers: { "x-mediabrowser-token": t } })],
    [
      "X-Emby-Authorization",
      (t) => ({ headers: { "x-emby-authorization": `MediaBrowser Token="${t}"` } }),
    ],
    ["the query as api_key", (t) => ({ query: `?api_key=${t}` })],
    [
      "Authorization with token= in lower case",
      (t) => ({ headers: { authorization: `MediaBrowser token="${t}"` } }),
    ],
  ])("%s", async (_form, form) => {
    const { token } = await a.enter();
    const { query = "", headers = {} } = form(token);
    const reply = await a.call("GET", `/Users/Me${query}`, { headers });
    expect([reply.status, reply.text, reply.headers.get("content-length")]).toEqual([401, "", "0"]);
  });

  test.skipIf(a.standIn === undefined)(
    "all legacy forms are taken again when an owner allows them",
    async () => {
      const { token } = await a.enter();
      await a.standIn?.control("legacy", { on: true });
      const forms = [
        a.call("GET", "/Users/Me", { headers: { "x-emby-token": token } }),
        a.call("GET", "/Users/Me", { headers: { "x-mediabrowser-token": token } }),
        a.call("GET", "/Users/Me", {
          headers: { "x-emby-authorization": `MediaBrowser Token="${token}"` },
        }),
        a.call("GET", "/Users/Me", { headers: { authorization: `Emby Token="${token}"` } }),
        a.call("GET", `/Users/Me?api_key=${token}`),
      ];
      expect((await Promise.all(forms)).map((reply) => reply.status)).toEqual([
        200, 200, 200, 200, 200,
      ]);
      await a.standIn?.control("legacy", { on: false });
    },
  );
});

describe("without a valid token", () => {
  // CustomAuthenticationHandler: Fail and NoResult both end as an empty 401 on authorized routes.
  test.each([
    ["GET", "/Users/Me"],
    ["GET", "/Sessions"],
    ["GET", "/System/Info"],
    ["GET", "/ScheduledTasks"],
    ["POST", "/Sessions/Playing"],
    ["POST", "/Sessions/Logout"],
    ["DELETE", "/Videos/ActiveEncodings?deviceId=x&playSessionId=y"],
  ])("%s %s is an empty 401", async (method, path) => {
    for (const token of [undefined, "f".repeat(32)]) {
      const reply = await a.call(method, path, token === undefined ? {} : { token });
      expect([reply.status, reply.text]).toEqual([401, ""]);
    }
  });

  // Anonymous routes do not look at the token: an unknown one does no harm there.
  test.each([
    "/System/Info/Public",
    "/QuickConnect/Enabled",
    "/Branding/Configuration",
    "/System/Ping",
  ])("%s is answered, whatever the token", async (path) => {
    expect((await a.get(path)).status).toBe(200);
    expect((await a.get(path, "f".repeat(32))).status).toBe(200);
  });

  // SecurityException in the socket middleware becomes 403 (ExceptionMiddleware), unlike 401 elsewhere.
  test("the socket handshake is refused with 403", async () => {
    expect((await a.socket("").closed).code).toBe(403);
    expect((await a.socket(`?ApiKey=${"f".repeat(32)}`).closed).code).toBe(403);
  });

  test("an ordinary user's token is an empty 403 where an administrator is asked for", async () => {
    const user = await a.newUser();
    const device = a.device();
    const { token } = asLogin(await a.login(device, user.name, user.password), device);
    const reply = await a.get("/ScheduledTasks", token);
    expect([reply.status, reply.text]).toEqual([403, ""]);
  });
});

describe("a login", () => {
  test("answers with user, session, token and server id", async () => {
    const device = a.device();
    const reply = await a.login(device, USER, PASSWORD);
    const result = reply.json();
    expect(result.AccessToken).toMatch(/^[0-9a-f]{32}$/);
    expect(result.User).toMatchObject({ Name: USER, ServerId: result.ServerId });
    expect(result.SessionInfo).toMatchObject({
      DeviceId: device.id,
      Client: device.client,
      UserId: result.User.Id,
    });
    const info = (await a.get("/System/Info/Public")).json();
    expect(info.Id).toBe(result.ServerId);
  });

  // AuthenticationException -> 401, ArgumentException -> 400, both with the middleware's one sentence.
  test("with a wrong password is 401, without a device 400", async () => {
    const wrong = await a.login(a.device(), USER, "no such password");
    expect([wrong.status, wrong.text]).toEqual([401, "Error processing request."]);
    const bare = await a.call("POST", "/Users/AuthenticateByName", {
      body: { Username: USER, Pw: PASSWORD },
    });
    expect([bare.status, bare.text]).toEqual([400, "Error processing request."]);
  });

  // UserManager.AuthenticateUser counts on the user's row and clears the count with the next right password.
  test("counts a wrong password once and forgets it with a right one", async () => {
    const user = await a.newUser();
    const count = async () =>
      (await a.admin("GET", `/Users/${user.id}`)).json().Policy.InvalidLoginAttemptCount;
    await a.login(a.device(), user.name, "wrong");
    expect(await count()).toBe(1);
    await a.login(a.device(), user.name, user.password);
    expect(await count()).toBe(0);
  });

  // SessionManager.GetAuthorizationToken: same user, same DeviceId, whatever the client is called.
  test("kills the token the same user had on that device", async () => {
    const first = await a.enter();
    const again = await a.enter({ ...first.device, client: "Another" });
    expect((await a.get("/Users/Me", first.token)).status).toBe(401);
    expect((await a.get("/Users/Me", again.token)).status).toBe(200);
  });

  test("closes the sockets of that device with 1000 System Shutdown", async () => {
    const first = await a.enter();
    const socket = a.socket(`?ApiKey=${first.token}`);
    await socket.opened;
    await socket.next("ForceKeepAlive");
    await a.enter(first.device);
    expect(await socket.closed).toEqual({ code: 1000, reason: "System Shutdown" });
  });

  // MaxActiveSessions counts this process's sessions of the user; SecurityException -> 403.
  test("is 403 when the user has as many sessions as the policy allows", async () => {
    const user = await a.newUser({ MaxActiveSessions: 1 });
    expect((await a.login(a.device(), user.name, user.password)).status).toBe(200);
    const second = await a.login(a.device(), user.name, user.password);
    expect([second.status, second.text]).toEqual([403, "Error processing request."]);
  });

  test("of a disabled user is 403, and the tokens of one who is disabled die", async () => {
    const user = await a.newUser();
    const device = a.device();
    const { token } = asLogin(await a.login(device, user.name, user.password), device);
    expect((await a.setPolicy(user.id, { IsDisabled: true })).status).toBe(204);
    expect((await a.get("/Users/Me", token)).status).toBe(401);
    expect((await a.login(a.device(), user.name, user.password)).status).toBe(403);
  });
});

describe("a token ends", () => {
  test.skipIf(!hasPair)("nowhere else: a token of one server is 401 on its clone", async () => {
    const { token } = await a.enter();
    expect((await b.get("/Users/Me", token)).status).toBe(401);
    expect((await b.socket(`?ApiKey=${token}`).closed).code).toBe(403);
  });

  test("with its logout, at once", async () => {
    const { token } = await a.enter();
    expect((await a.post("/Sessions/Logout", token)).status).toBe(204);
    expect((await a.get("/Users/Me", token)).status).toBe(401);
  });

  test.skipIf(!hasPair)("by logout on one server only there", async () => {
    const onA = await a.enter();
    const onB = await b.enter({ ...onA.device });
    b.later(() => b.admin("DELETE", `/Devices?id=${onA.device.id}`));
    await a.post("/Sessions/Logout", onA.token);
    expect((await b.get("/Users/Me", onB.token)).status).toBe(200);
  });

  // SessionController.ReportSessionEnded finds no device row for a key and does nothing.
  test("never by logging an API key out", async () => {
    expect((await a.admin("POST", "/Sessions/Logout")).status).toBe(204);
    expect((await a.admin("GET", "/Users")).status).toBe(200);
  });

  test("when its device is removed; an unknown device is 400", async () => {
    const { token, device } = await a.enter();
    expect((await a.admin("DELETE", `/Devices?id=${device.id}`)).status).toBe(204);
    expect((await a.get("/Users/Me", token)).status).toBe(401);
    expect((await a.admin("DELETE", `/Devices?id=${device.id}`)).status).toBe(400);
  });

  // UserController.UpdateUserPassword: RevokeUserTokens(user, except the caller's).
  test("for all but the caller when a user changes the password", async () => {
    const user = await a.newUser();
    const [one, two] = [a.device(), a.device()];
    const caller = asLogin(await a.login(one, user.name, user.password), one);
    const other = asLogin(await a.login(two, user.name, user.password), two);
    const change = { CurrentPw: user.password, NewPw: "another one" };
    expect((await a.post("/Users/Password", caller.token, change)).status).toBe(204);
    expect((await a.get("/Users/Me", caller.token)).status).toBe(200);
    expect((await a.get("/Users/Me", other.token)).status).toBe(401);
    expect((await a.login(a.device(), user.name, user.password)).status).toBe(401);
  });

  test("for everybody when the API key changes the password, and for nobody when it is reset", async () => {
    const user = await a.newUser();
    const device = a.device();
    const { token } = asLogin(await a.login(device, user.name, user.password), device);
    await a.admin("POST", `/Users/Password?userId=${user.id}`, { ResetPassword: true });
    expect((await a.get("/Users/Me", token)).status).toBe(200);
    await a.admin("POST", `/Users/Password?userId=${user.id}`, { NewPw: "new" });
    expect((await a.get("/Users/Me", token)).status).toBe(401);
  });

  test("with a wrong current password nothing ends, and the answer is 403", async () => {
    const user = await a.newUser();
    const device = a.device();
    const { token } = asLogin(await a.login(device, user.name, user.password), device);
    const change = { CurrentPw: "wrong", NewPw: "x" };
    expect((await a.post("/Users/Password", token, change)).status).toBe(403);
    expect((await a.get("/Users/Me", token)).status).toBe(200);
  });
});

describe("an API key", () => {
  // ApiKeyController: POST answers 204 without the key; two keys may have one name.
  test("is made without being told, and shown in clear to administrators", async () => {
    const name = `contract-${Date.now()}`;
    const made = await a.admin("POST", `/Auth/Keys?app=${name}`);
    expect([made.status, made.text]).toEqual([204, ""]);
    const { Items } = (await a.admin("GET", "/Auth/Keys")).json();
    const key = Items.find((one: { AppName: string }) => one.AppName === name).AccessToken;
    expect((await a.get("/Users", key)).status).toBe(200);
    expect((await a.admin("DELETE", `/Auth/Keys/${key}`)).status).toBe(204);
    expect((await a.get("/Users", key)).status).toBe(401);
  });

  test("is nobody: /Users/Me is 400 with it", async () => {
    expect((await a.admin("GET", "/Users/Me")).status).toBe(400);
  });
});

describe("answers come", () => {
  test("in PascalCase, or in camelCase for the profile that asks for it", async () => {
    expect((await a.get("/System/Info/Public")).json().ProductName).toBe("Jellyfin Server");
    const headers = { accept: 'application/json; profile="CamelCase"' };
    const camel = (await a.call("GET", "/System/Info/Public", { headers })).json();
    expect(camel.productName).toBe("Jellyfin Server");
    const web =
      "application/json,application/json; profile=CamelCase,application/json; profile=PascalCase,text/html";
    const mixed = await a.call("GET", "/System/Info/Public", { headers: { accept: web } });
    expect(mixed.json().ProductName).toBe("Jellyfin Server");
  });

  test("chunked, and compressed as the client allows", async () => {
    const ask = (encoding: string) =>
      a.call("GET", "/System/Info/Public", { headers: { "accept-encoding": encoding } });
    const [brotli, gzip, plain] = await Promise.all([
      ask("gzip, deflate, br"),
      ask("gzip"),
      ask("identity"),
    ]);
    expect(brotli.headers.get("content-encoding")).toBe("br");
    expect(gzip.headers.get("content-encoding")).toBe("gzip");
    expect(plain.headers.get("content-encoding")).toBeNull();
    for (const reply of [brotli, gzip, plain]) {
      expect(reply.headers.get("content-length")).toBeNull();
      expect(reply.headers.get("vary")).toMatch(/accept-encoding/i);
      expect(reply.json().ProductName).toBe("Jellyfin Server");
    }
  });

  test("for paths in any letter case", async () => {
    expect((await a.get("/system/info/PUBLIC")).status).toBe(200);
    const { token } = await a.enter();
    expect((await a.get("/users/me", token)).status).toBe(200);
  });

  test("as an empty 404 for a route that does not exist, as a problem for a thing that does not", async () => {
    const { token, device } = await a.enter();
    const nowhere = await a.call("GET", "/no/such/route", {
      authorization: authorization(device, token),
    });
    expect([nowhere.status, nowhere.text]).toEqual([404, ""]);
    const nothing = await a.get(`/Items/${"ab".repeat(16)}`, token);
    expect([nothing.status, nothing.json().title]).toEqual([404, "Not Found"]);
  });
});
