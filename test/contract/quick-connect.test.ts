/** What we believe about QuickConnect, on which getting tokens on other servers rests, and about the sessions it leaves. */
import { afterAll, describe, expect, test } from "vitest";
import { asLogin, authorization, contractServers, eventually, hasPair } from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);

describe("the three steps of minting", () => {
  // QuickConnectManager.TryConnect, AuthorizeRequest, GetAuthorizedRequest; tried on 12.0-rc5.
  test("Initiate with the device and no token gives a secret and a six-digit code", async () => {
    const device = a.device();
    const reply = await a.call("POST", "/QuickConnect/Initiate", {
      authorization: authorization(device),
    });
    expect(reply.status).toBe(200);
    expect(reply.json()).toMatchObject({
      Authenticated: false,
      DeviceId: device.id,
      AppName: device.client,
    });
    expect(reply.json().Secret).toMatch(/^[0-9A-F]{64}$/i);
    expect(reply.json().Code).toMatch(/^\d{6}$/);
  });

  test("Initiate without a whole device is 400", async () => {
    const reply = await a.call("POST", "/QuickConnect/Initiate", {
      authorization: 'MediaBrowser Client="x"',
    });
    expect([reply.status, reply.text]).toEqual([400, "Error processing request."]);
  });

  test("Authorize with the API key makes a token for any user, and the last step tells it, again and again", async () => {
    const user = await a.newUser();
    const device = a.device();
    const { Code, Secret } = (
      await a.call("POST", "/QuickConnect/Initiate", { authorization: authorization(device) })
    ).json();
    const waiting = (await a.get(`/QuickConnect/Connect?secret=${Secret}`)).json();
    expect(waiting.Authenticated).toBe(false);
    const agreed = await a.admin("POST", `/QuickConnect/Authorize?code=${Code}&userId=${user.id}`);
    expect([agreed.status, agreed.text]).toEqual([200, "true"]);
    expect((await a.get(`/QuickConnect/Connect?secret=${Secret}`)).json().Authenticated).toBe(true);
    const ask = () => a.call("POST", "/Users/AuthenticateWithQuickConnect", { body: { Secret } });
    const [first, second] = [(await ask()).json(), (await ask()).json()];
    expect(first.AccessToken).toBe(second.AccessToken);
    expect(first.User.Id).toBe(user.id);
    expect((await a.get("/Users/Me", first.AccessToken)).json().Id).toBe(user.id);
  });

  test("Authorize a second time is 500, an unknown code 404, an unknown user 400", async () => {
    const { userId } = await a.enter();
    const start = async () =>
      (
        await a.call("POST", "/QuickConnect/Initiate", { authorization: authorization(a.device()) })
      ).json().Code;
    const code = await start();
    await a.admin("POST", `/QuickConnect/Authorize?code=${code}&userId=${userId}`);
    const again = await a.admin("POST", `/QuickConnect/Authorize?code=${code}&userId=${userId}`);
    expect([again.status, again.text]).toEqual([500, "Error processing request."]);
    const unknown = await a.admin("POST", `/QuickConnect/Authorize?code=000000&userId=${userId}`);
    expect([unknown.status, unknown.text]).toEqual([404, "Error processing request."]);
    const stranger = "ab".repeat(16);
    const nobody = await a.admin(
      "POST",
      `/QuickConnect/Authorize?code=${await start()}&userId=${stranger}`,
    );
    expect(nobody.status).toBe(400);
  });

  test("a user authorizes for themselves, and 403 for another", async () => {
    const user = await a.newUser();
    const device = a.device();
    const { token } = asLogin(await a.login(device, user.name, user.password), device);
    const start = async () =>
      (
        await a.call("POST", "/QuickConnect/Initiate", { authorization: authorization(a.device()) })
      ).json().Code;
    expect((await a.post(`/QuickConnect/Authorize?code=${await start()}`, token)).status).toBe(200);
    const other = (await a.enter()).userId;
    const path = `/QuickConnect/Authorize?code=${await start()}&userId=${other}`;
    expect((await a.post(path, token)).status).toBe(403);
  });

  test("an unknown secret is 404: a JSON sentence from Connect, plain text from the last step", async () => {
    const connect = await a.get("/QuickConnect/Connect?secret=unknown");
    expect([connect.status, connect.json()]).toEqual([404, "Unknown secret"]);
    const last = await a.call("POST", "/Users/AuthenticateWithQuickConnect", {
      body: { Secret: "unknown" },
    });
    expect([last.status, last.text]).toEqual([404, "Error processing request."]);
  });

  test.skipIf(!hasPair)("a secret of one server is unknown on the other", async () => {
    const { Secret } = (
      await a.call("POST", "/QuickConnect/Initiate", { authorization: authorization(a.device()) })
    ).json();
    expect((await b.get(`/QuickConnect/Connect?secret=${Secret}`)).status).toBe(404);
  });

  test.skipIf(a.standIn === undefined)("all is 401 while QuickConnect is off", async () => {
    await a.standIn?.control("quick-connect", { on: false });
    expect((await a.get("/QuickConnect/Enabled")).json()).toBe(false);
    const reply = await a.call("POST", "/QuickConnect/Initiate", {
      authorization: authorization(a.device()),
    });
    expect([reply.status, reply.json()]).toEqual([401, "Quick connect is disabled"]);
    await a.standIn?.control("quick-connect", { on: true });
  });
});

describe("a minted token", () => {
  test.skipIf(!hasPair)("lets a login of one server be the same user on its clone", async () => {
    const login = await a.enter();
    const token = await b.mint(login.device, login.userId);
    b.later(() => b.admin("DELETE", `/Devices?id=${login.device.id}`));
    expect((await b.get("/Users/Me", token)).json().Id).toBe(login.userId);
    expect((await a.get("/Users/Me", login.token)).status).toBe(200);
  });

  test("minted again for the same user and device kills the first and closes its socket, under any client name", async () => {
    const { userId } = await a.enter();
    const device = a.device("One");
    const first = await a.mint(device, userId);
    const socket = a.socket(`?ApiKey=${first}`);
    await socket.opened;
    const second = await a.mint({ ...device, client: "Two" }, userId);
    expect(await socket.closed).toEqual({ code: 1000, reason: "System Shutdown" });
    expect((await a.get("/Users/Me", first)).status).toBe(401);
    expect((await a.get("/Users/Me", second)).status).toBe(200);
  });

  test("for a second user on a device closes nothing; the second's logout closes the first's socket", async () => {
    const { userId } = await a.enter();
    const other = await a.newUser();
    const device = a.device();
    const first = await a.mint(device, userId);
    const socket = a.socket(`?ApiKey=${first}`);
    await socket.opened;
    const second = await a.mint(device, other.id);
    socket.send("KeepAlive");
    await socket.next("KeepAlive");
    await a.post("/Sessions/Logout", second);
    expect((await socket.closed).code).toBe(1000);
    expect((await a.get("/Users/Me", first)).status).toBe(200);
  });

  test("of a disabled user is given, is 401 while disabled, and works when enabled again", async () => {
    const user = await a.newUser();
    await a.setPolicy(user.id, { IsDisabled: true });
    const token = await a.mint(a.device(), user.id);
    expect((await a.get("/Users/Me", token)).status).toBe(401);
    await a.setPolicy(user.id, { IsDisabled: false });
    expect((await a.get("/Users/Me", token)).status).toBe(200);
  });
});

describe("the session minting leaves", () => {
  test("is a ghost: it is listed and stays, though nobody has a socket", async () => {
    const { userId } = await a.enter();
    const device = a.device();
    await a.mint(device, userId);
    expect(await a.sessionsOf(device)).toHaveLength(1);
  });

  // SessionManager.CloseIfNeededAsync runs when a socket closes, and only then.
  test("ends when a socket is opened with the token and closed again; the token stays, GETs bring no session back", async () => {
    const { userId } = await a.enter();
    const device = a.device();
    const token = await a.mint(device, userId);
    const socket = a.socket(`?ApiKey=${token}`);
    await socket.opened;
    await socket.next("ForceKeepAlive");
    await socket.close();
    await eventually(async () => ((await a.sessionsOf(device)).length === 0 ? true : undefined));
    expect((await a.get("/Users/Me", token)).status).toBe(200);
    expect(await a.sessionsOf(device)).toEqual([]);
  });

  test("counts for MaxActiveSessions: the next Authorize is 403, until the ghost is gone", async () => {
    const user = await a.newUser({ MaxActiveSessions: 1 });
    const token = await a.mint(a.device(), user.id);
    const { Code } = (
      await a.call("POST", "/QuickConnect/Initiate", { authorization: authorization(a.device()) })
    ).json();
    const full = await a.admin("POST", `/QuickConnect/Authorize?code=${Code}&userId=${user.id}`);
    expect([full.status, full.text]).toEqual([403, "Error processing request."]);
    const socket = a.socket(`?ApiKey=${token}`);
    await socket.opened;
    await socket.close();
    await eventually(async () => {
      const again = await a.mint(a.device(), user.id).catch(() => undefined);
      return again;
    });
  });
});
