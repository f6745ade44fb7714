/** What we believe about sessions, sockets, remote control and the feed of changed user data. */
import { afterAll, describe, expect, test } from "vitest";
import { idOfText } from "../support/jellyfin/ids.ts";
import {
  asLogin,
  authorization,
  contractServers,
  eventually,
  hasPair,
  type Login,
} from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);
const film = await a.film();

const asDevice = (login: Login) => ({ authorization: authorization(login.device, login.token) });

describe("a session", () => {
  // SessionManager.CreateSessionInfo: MD5 of client + device id, so every server gives it the same id.
  test("has an id made of client and device id", async () => {
    const login = await a.enter();
    expect(login.sessionId).toBe(idOfText(login.device.client + login.device.id));
  });

  test.skipIf(!hasPair)("has the same id on every server", async () => {
    const onA = await a.enter();
    const onB = await b.enter(onA.device);
    b.later(() => b.admin("DELETE", `/Devices?id=${onA.device.id}`));
    expect(onB.sessionId).toBe(onA.sessionId);
  });

  test("is not made by an ordinary GET, but by a report", async () => {
    const login = await a.enter();
    const socket = a.socket(`?ApiKey=${login.token}`);
    await socket.opened;
    await socket.close();
    await eventually(async () =>
      (await a.sessionsOf(login.device)).length === 0 ? true : undefined,
    );
    await a.call("GET", "/UserViews", asDevice(login));
    expect(await a.sessionsOf(login.device)).toEqual([]);
    const body = {
      PlayableMediaTypes: ["Video"],
      SupportedCommands: [],
      SupportsMediaControl: true,
    };
    const reply = await a.call("POST", "/Sessions/Capabilities/Full", { ...asDevice(login), body });
    expect(reply.status).toBe(204);
    expect(await a.sessionsOf(login.device)).toHaveLength(1);
  });

  test("of another user is hidden from an ordinary user and shown to the API key", async () => {
    const admin = await a.enter();
    const user = await a.newUser();
    const device = a.device();
    const own = asLogin(await a.login(device, user.name, user.password), device);
    const seen: { Id: string }[] = (await a.get("/Sessions", own.token)).json();
    expect(seen.map((one) => one.Id)).toContain(own.sessionId);
    expect(seen.map((one) => one.Id)).not.toContain(admin.sessionId);
    expect(await a.sessionsOf(admin.device)).toHaveLength(1);
  });

  test("takes remote control only with capabilities and a socket", async () => {
    const login = await a.enter();
    const body = {
      PlayableMediaTypes: ["Video"],
      SupportedCommands: ["Play"],
      SupportsMediaControl: true,
    };
    await a.call("POST", "/Sessions/Capabilities/Full", { ...asDevice(login), body });
    const state = async () => (await a.sessionsOf(login.device))[0];
    expect(await state()).toMatchObject({ SupportsRemoteControl: false });
    const socket = a.socket(`?ApiKey=${login.token}`);
    await socket.opened;
    await eventually(async () =>
      (await state())?.SupportsRemoteControl === true ? true : undefined,
    );
    const path = `/Sessions?controllableByUserId=${login.userId}`;
    const controllable: { Id: string }[] = (await a.get(path, login.token)).json();
    expect(controllable.map((one) => one.Id)).toContain(login.sessionId);
    await socket.close();
  });
});

describe("a socket", () => {
  test("is told to keep alive within 60 s at once, and its KeepAlive is answered", async () => {
    const { token } = await a.enter();
    const socket = a.socket(`?ApiKey=${token}`);
    expect((await socket.next("ForceKeepAlive")).Data).toBe(60);
    socket.send("KeepAlive");
    await socket.next("KeepAlive");
    await socket.close();
  });

  test("is opened with the Authorization header as well", async () => {
    const login = await a.enter();
    const socket = a.socket("", asDevice(login));
    await socket.opened;
    await socket.close();
  });

  // WebSocketHandlerMiddleware takes every upgrade, whatever the path.
  test("is opened on any path", async () => {
    const { token } = await a.enter();
    const socket = a.socket(`/../anything?ApiKey=${token}`);
    await socket.opened;
    await socket.close();
  });

  test("that subscribed to sessions hears nothing until one changes, then the list", async () => {
    const socket = a.socket("", { authorization: authorization(a.device(), a.apiKey) });
    await socket.opened;
    socket.send("SessionsStart", "0,500");
    const login = await a.enter();
    const listed = await eventually(() =>
      socket.messages.find(
        (one) =>
          one.MessageType === "Sessions" &&
          (one.Data as { DeviceId: string }[]).some(
            (session) => session.DeviceId === login.device.id,
          ),
      ),
    );
    expect(listed.MessageType).toBe("Sessions");
    socket.send("SessionsStop");
    await socket.close();
  });
});

describe("a command", () => {
  test("reaches the socket of the session it names", async () => {
    const target = await a.enter();
    const sender = await a.enter();
    const socket = a.socket(`?ApiKey=${target.token}`);
    await socket.opened;
    const send = (path: string, body?: unknown) =>
      a.call("POST", `/Sessions/${target.sessionId}${path}`, {
        ...asDevice(sender),
        ...(body === undefined ? {} : { body }),
      });
    expect((await send("/Playing/Pause")).status).toBe(204);
    expect((await socket.next("Playstate")).Data).toMatchObject({ Command: "Pause" });
    expect((await send("/Message", { Header: "Hello", Text: "World" })).status).toBe(204);
    expect((await socket.next("GeneralCommand")).Data).toMatchObject({
      Name: "DisplayMessage",
      Arguments: { Header: "Hello", Text: "World" },
    });
    expect((await send(`/Playing?playCommand=PlayNow&itemIds=${film.id}`)).status).toBe(204);
    expect((await socket.next("Play")).Data).toMatchObject({ PlayCommand: "PlayNow" });
    await socket.close();
  });

  test("to a session without a socket is 204 and nothing happens", async () => {
    const target = await a.enter();
    const sender = await a.enter();
    const reply = await a.call(
      "POST",
      `/Sessions/${target.sessionId}/Playing/Pause`,
      asDevice(sender),
    );
    expect(reply.status).toBe(204);
  });

  test("to an unknown session is a plain-text 404", async () => {
    const sender = await a.enter();
    const reply = await a.call(
      "POST",
      `/Sessions/${"ab".repeat(16)}/Playing/Pause`,
      asDevice(sender),
    );
    expect([reply.status, reply.text]).toEqual([404, "Error processing request."]);
  });
});

describe("the feed of changed user data", () => {
  test("reaches the user's own socket within about a second, with the item's parent", async () => {
    const user = await a.newUser();
    const device = a.device();
    const login = asLogin(await a.login(device, user.name, user.password), device);
    const socket = a.socket(`?ApiKey=${login.token}`);
    await socket.opened;
    await a.post(`/UserFavoriteItems/${film.id}`, login.token);
    const message = await socket.next("UserDataChanged", 3000);
    const data = message.Data as {
      UserId: string;
      UserDataList: { ItemId: string; IsFavorite: boolean }[];
    };
    expect(data.UserId).toBe(user.id);
    expect(data.UserDataList.find((one) => one.ItemId === film.id)).toMatchObject({
      IsFavorite: true,
    });
    expect(data.UserDataList.length).toBeGreaterThan(1);
    await socket.close();
  });

  test("does not carry progress", async () => {
    const user = await a.newUser();
    const device = a.device();
    const login = asLogin(await a.login(device, user.name, user.password), device);
    const socket = a.socket(`?ApiKey=${login.token}`);
    await socket.opened;
    const body = { ItemId: film.id, PositionTicks: Math.round(film.ticks / 2) };
    await a.call("POST", "/Sessions/Playing/Progress", { ...asDevice(login), body });
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(socket.messages.map((one) => one.MessageType)).not.toContain("UserDataChanged");
    await socket.close();
  });

  // SessionInfo.ContainsUser looks at AdditionalUsers; the adder must be another device than the socket's.
  test("reaches a socket of the API key for every user added to its session", async () => {
    const user = await a.newUser();
    const listener = a.device("Feed");
    const socket = a.socket("", { authorization: authorization(listener, a.apiKey) });
    await socket.opened;
    const session = await eventually(async () => (await a.sessionsOf(listener))[0]);
    const adder = { authorization: authorization(a.device(), a.apiKey) };
    const added = await a.call("POST", `/Sessions/${String(session.Id)}/User/${user.id}`, adder);
    expect(added.status).toBe(204);
    const device = a.device();
    const login = asLogin(await a.login(device, user.name, user.password), device);
    await a.post(`/UserPlayedItems/${film.id}`, login.token);
    const message = await socket.next("UserDataChanged", 3000);
    expect(message.Data).toMatchObject({ UserId: user.id });
    await socket.close();
  });
});
