/** What we believe about documents, users, passwords and keys: what carrying them to another server rests on. */
import { afterAll, describe, expect, test } from "vitest";
import { saysNothingNew } from "../../core/jellyfin/per-server.ts";
import { asLogin, contractServers, hasPair, type Login } from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);

/** A picture that every server can read: one transparent pixel. */
const pixel =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

async function enter(name: string, password: string): Promise<Login> {
  const device = a.device();
  return asLogin(await a.login(device, name, password), device);
}

const statusOf = async (token: string) => (await a.get("/Users/Me", token)).status;

describe("a document", () => {
  test.each([
    ["/System/Configuration"],
    ["/System/Configuration/encoding"],
    ["/System/Configuration/network"],
    ["/System/Configuration/livetv"],
  ])("%s written as it was read is the same afterwards", async (path) => {
    const before = (await a.admin("GET", path)).json();
    expect((await a.admin("POST", path, before)).status).toBe(204);
    const after = (await a.admin("GET", path)).json();
    expect(saysNothingNew(before, after)).toBe(true);
  });

  test("of branding is read whole and written without the picture's place", async () => {
    const before = (await a.admin("GET", "/System/Configuration/branding")).json();
    expect((await a.admin("POST", "/System/Configuration/branding", before)).status).toBe(204);
    const after = (await a.admin("GET", "/System/Configuration/branding")).json();
    expect(saysNothingNew(before, after)).toBe(true);
  });

  test("of a user is written with an API key, and read back as it was said", async () => {
    const { id } = await a.newUser();
    const user = (await a.admin("GET", `/Users/${id}`)).json();
    const configuration = {
      ...user.Configuration,
      SubtitleMode: "Always",
      HidePlayedInLatest: false,
    };
    const path = `/Users/Configuration?userId=${id}`;
    expect((await a.admin("POST", path, configuration)).status).toBe(204);
    const policy = { ...user.Policy, MaxActiveSessions: 5, InvalidLoginAttemptCount: 2 };
    expect((await a.admin("POST", `/Users/${id}/Policy`, policy)).status).toBe(204);
    const after = (await a.admin("GET", `/Users/${id}`)).json();
    expect(saysNothingNew(configuration, after.Configuration)).toBe(true);
    expect(saysNothingNew(policy, after.Policy)).toBe(true);
  });

  test("of preferences is written with an API key for a user and client, and read back", async () => {
    const { id } = await a.newUser();
    const path = `/DisplayPreferences/usersettings?userId=${id}&client=contract`;
    const before = (await a.admin("GET", path)).json();
    const said = { ...before, ScrollDirection: "Vertical", CustomPrefs: { mine: "yes" } };
    expect((await a.admin("POST", path, said)).status).toBe(204);
    const after = (await a.admin("GET", path)).json();
    expect(after.ScrollDirection).toBe("Vertical");
    expect(after.CustomPrefs.mine).toBe("yes");
  });

  test("that is a picture comes in base64 and is given to anybody", async () => {
    const { id } = await a.newUser();
    const path = `/UserImage?userId=${id}`;
    expect((await a.get(path)).status).toBe(404);
    const posted = await fetch(a.url + path, {
      method: "POST",
      headers: { authorization: `MediaBrowser Token="${a.apiKey}"`, "content-type": "image/png" },
      body: pixel,
    });
    expect(posted.status).toBe(204);
    const shown = await a.get(path);
    expect(shown.status).toBe(200);
    expect(shown.headers.get("content-type")).toMatch(/^image\//);
    expect((await a.admin("DELETE", path)).status).toBe(204);
    expect((await a.get(path)).status).toBe(404);
  });
});

describe("a user", () => {
  test("has a random id, and a name that is taken is refused", async () => {
    const { name } = await a.newUser();
    expect((await a.admin("POST", "/Users/New", { Name: name })).status).toBe(400);
  });

  test.skipIf(!hasPair)("has another id on another server", async () => {
    const made = await a.newUser();
    const other = (await b.admin("POST", "/Users/New", { Name: made.name })).json();
    b.later(() => b.admin("DELETE", `/Users/${other.Id}`));
    expect(other.Id).not.toBe(made.id);
  });

  test("is renamed with an API key by name and configuration, with the policy's providers beside them", async () => {
    const { id, name } = await a.newUser();
    const { Configuration, Policy } = (await a.admin("GET", `/Users/${id}`)).json();
    const body = { Id: id, Name: `${name}-x`, Configuration };
    expect((await a.admin("POST", `/Users?userId=${id}`, body)).status).toBe(400);
    const whole = { ...body, Policy };
    expect((await a.admin("POST", `/Users?userId=${id}`, whole)).status).toBe(204);
    expect((await a.admin("GET", `/Users/${id}`)).json().Name).toBe(`${name}-x`);
    expect((await a.admin("DELETE", `/Users/${id}`)).status).toBe(204);
    expect((await a.admin("DELETE", `/Users/${id}`)).status).toBe(404);
  });

  test("who is an administrator cannot be disabled by a policy", async () => {
    const { id } = await a.newUser({ IsAdministrator: true });
    expect((await a.setPolicy(id, { IsDisabled: true })).status).toBe(403);
  });
});

describe("a password", () => {
  test("changed by the user's own token leaves that token alone, and ends the others", async () => {
    const user = await a.newUser();
    const one = await enter(user.name, user.password);
    const other = await enter(user.name, user.password);
    const wrong = { CurrentPw: "wrong", NewPw: "two" };
    expect((await a.post("/Users/Password", one.token, wrong)).status).toBe(403);
    const right = { CurrentPw: user.password, NewPw: "two" };
    expect((await a.post("/Users/Password", one.token, right)).status).toBe(204);
    expect(await statusOf(one.token)).toBe(200);
    expect(await statusOf(other.token)).toBe(401);
    expect((await a.login(a.device(), user.name, "two")).status).toBe(200);
  });

  test("changed by an API key ends every token of the user", async () => {
    const user = await a.newUser();
    const one = await enter(user.name, user.password);
    const path = `/Users/Password?userId=${user.id}`;
    expect((await a.admin("POST", path, { NewPw: "two" })).status).toBe(204);
    expect(await statusOf(one.token)).toBe(401);
  });

  test("set back to none by an API key ends no token", async () => {
    const user = await a.newUser();
    const one = await enter(user.name, user.password);
    const path = `/Users/Password?userId=${user.id}`;
    expect((await a.admin("POST", path, { ResetPassword: true })).status).toBe(204);
    expect(await statusOf(one.token)).toBe(200);
    expect((await a.login(a.device(), user.name, "")).status).toBe(200);
  });

  test("that is wrong counts on its server, and locks the user out there at the limit", async () => {
    const user = await a.newUser({ LoginAttemptsBeforeLockout: 2 });
    const policy = async () => (await a.admin("GET", `/Users/${user.id}`)).json().Policy;
    expect((await a.login(a.device(), user.name, "no")).status).toBe(401);
    expect((await policy()).InvalidLoginAttemptCount).toBe(1);
    expect((await a.login(a.device(), user.name, "no")).status).toBe(401);
    expect((await policy()).IsDisabled).toBe(true);
  });

  test("forgotten is asked for by name; a PIN that nobody was given is unknown", async () => {
    const user = await a.newUser();
    const body = { EnteredUsername: user.name };
    const begun = await a.call("POST", "/Users/ForgotPassword", { body });
    expect(begun.status).toBe(200);
    expect(begun.json().PinFile).toEqual(expect.stringContaining("passwordreset"));
    const pin = { body: { Pin: "00-00-00-00" } };
    expect((await a.call("POST", "/Users/ForgotPassword/Pin", pin)).status).toBe(404);
  });
});

describe("an API key", () => {
  test("is made without being told, and is in the list; one name may be had twice", async () => {
    const app = `contract-${a.device().id}`;
    type Key = { AccessToken: string; AppName: string };
    const named = async (): Promise<Key[]> =>
      (await a.admin("GET", "/Auth/Keys")).json().Items.filter((key: Key) => key.AppName === app);
    for (let count = 0; count < 2; count++) {
      const made = await a.admin("POST", `/Auth/Keys?app=${app}`);
      expect([made.status, made.text]).toEqual([204, ""]);
    }
    const keys = await named();
    expect(keys.length).toBe(2);
    for (const { AccessToken } of keys) {
      expect((await a.get("/Users/Me", AccessToken)).status).toBe(400);
      expect((await a.admin("DELETE", `/Auth/Keys/${AccessToken}`)).status).toBe(204);
      expect((await a.get("/System/Info", AccessToken)).status).toBe(401);
      // One that is not there is no complaint.
      expect((await a.admin("DELETE", `/Auth/Keys/${AccessToken}`)).status).toBe(204);
    }
    expect(await named()).toEqual([]);
  });
});
