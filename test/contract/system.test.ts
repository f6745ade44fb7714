/** What we believe about a server as a whole: health, addresses, tasks, restart, playlists and collections. */
import { afterAll, describe, expect, test } from "vitest";
import { asLogin, contractServers, eventually, hasPair } from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);
const film = await a.film();
const network = (await a.admin("GET", "/System/Configuration/network")).json();
const knowsProxies = Array.isArray(network.KnownProxies) && network.KnownProxies.length > 0;

describe("health", () => {
  test("of a ready server is 200 and the one word Healthy, never to be kept", async () => {
    const reply = await a.get("/health");
    expect([reply.status, reply.text]).toEqual([200, "Healthy"]);
    expect(reply.headers.get("cache-control")).toMatch(/no-store/);
  });

  test("the ping is a JSON sentence, for GET and POST", async () => {
    for (const method of ["GET", "POST"]) {
      const reply = await a.call(method, "/System/Ping");
      expect([reply.status, reply.json()]).toEqual([200, "Jellyfin Server"]);
    }
  });

  test("a finished wizard is closed to strangers", async () => {
    expect((await a.get("/System/Info/Public")).json().StartupWizardCompleted).toBe(true);
    expect((await a.get("/Startup/Configuration")).status).toBe(401);
    expect((await a.call("POST", "/Startup/Complete")).status).toBe(401);
  });

  test.skipIf(!hasPair)("a clone has the same server id and the same users", async () => {
    const id = async (server: typeof a) => (await server.get("/System/Info/Public")).json().Id;
    expect(await id(b)).toBe(await id(a));
    expect(await b.userId()).toBe(await a.userId());
  });
});

describe("a caller's address", () => {
  // Forwarded headers count only from known proxies; then the server decides by the client's own address.
  test.skipIf(!knowsProxies)("is taken from X-Forwarded-For of a known proxy", async () => {
    const { token } = await a.enter();
    const from = async (address: string) =>
      (
        await a.call("GET", "/System/Endpoint", { token, headers: { "x-forwarded-for": address } })
      ).json();
    expect(await from("8.8.8.8")).toEqual({ IsLocal: false, IsInNetwork: false });
    expect(await from("192.168.1.20")).toEqual({ IsLocal: false, IsInNetwork: true });
    // The nearest hop counts first; what a client wrote further left does not, once a hop is not known.
    expect(await from("127.0.0.1, 8.8.8.8")).toEqual({ IsLocal: false, IsInNetwork: false });
  });

  test.skipIf(!knowsProxies)(
    "decides that a stranger from outside cannot restart the server",
    async () => {
      const reply = await a.call("POST", "/System/Restart", {
        headers: { "x-forwarded-for": "8.8.8.8" },
      });
      expect([reply.status, reply.text]).toEqual([401, ""]);
      const user = await a.newUser();
      const device = a.device();
      const { token } = asLogin(await a.login(device, user.name, user.password), device);
      const ordinary = await a.call("POST", "/System/Restart", {
        token,
        headers: { "x-forwarded-for": "8.8.8.8" },
      });
      expect(ordinary.status).toBe(403);
      expect((await a.get("/health")).text).toBe("Healthy");
    },
  );
});

describe("scheduled tasks", () => {
  const tasks = async () =>
    (await a.admin("GET", "/ScheduledTasks")).json() as {
      Id: string;
      Key: string;
      Triggers: unknown[];
    }[];
  const cacheTask = async () => {
    const found = (await tasks()).find((task) => task.Key === "DeleteCacheFiles");
    if (found === undefined) throw new Error("there is no task DeleteCacheFiles");
    return found;
  };

  test.skipIf(!hasPair)("have the same ids on every server", async () => {
    const other: { Id: string }[] = (await b.admin("GET", "/ScheduledTasks")).json();
    expect(other.map((task) => task.Id).sort()).toEqual(
      (await tasks()).map((task) => task.Id).sort(),
    );
  });

  test("are parked by an empty list of triggers and come back by a full one", async () => {
    const { Id, Triggers } = await cacheTask();
    const path = `/ScheduledTasks/${Id}/Triggers`;
    a.later(() => a.admin("POST", path, Triggers));
    expect((await a.admin("POST", path, [])).status).toBe(204);
    expect((await cacheTask()).Triggers).toEqual([]);
    const every = [{ Type: "IntervalTrigger", IntervalTicks: 864_000_000_000 }];
    expect((await a.admin("POST", path, every)).status).toBe(204);
    expect((await cacheTask()).Triggers).toMatchObject(every);
    await a.admin("POST", path, Triggers);
  });

  test("run when told, with 204 at once, and remember when", async () => {
    const { Id } = await cacheTask();
    const began = Date.now();
    expect((await a.admin("POST", `/ScheduledTasks/Running/${Id}`)).status).toBe(204);
    await eventually(async () => {
      const task = (await a.admin("GET", `/ScheduledTasks/${Id}`)).json();
      const end = Date.parse(task.LastExecutionResult?.EndTimeUtc ?? "");
      return task.State === "Idle" && end >= began - 1000 ? true : undefined;
    }, 15_000);
  });

  test("that do not run cannot be stopped (500), unknown ones are 404, strangers 401", async () => {
    const { Id } = await cacheTask();
    const idle = await a.admin("DELETE", `/ScheduledTasks/Running/${Id}`);
    expect([idle.status, idle.text]).toEqual([500, "Error processing request."]);
    const unknown = await a.admin("POST", "/ScheduledTasks/Running/unknown");
    expect([unknown.status, unknown.json().title]).toEqual([404, "Not Found"]);
    expect((await a.call("POST", `/ScheduledTasks/Running/${Id}`)).status).toBe(401);
  });
});

describe("playlists and collections", () => {
  const name = `contract-${Date.now()}`;
  const makePlaylist = (server: typeof a, userId: string, named: string) =>
    server.admin("POST", "/Playlists", {
      Name: named,
      Ids: [film.id],
      UserId: userId,
      MediaType: "Video",
    });
  const drop = (server: typeof a, id: string) =>
    server.later(() => server.admin("DELETE", `/Items/${id}`));
  const itemsOf = async (path: string, token: string): Promise<{ Id: string }[]> =>
    (await a.get(path, token)).json().Items;

  test.skipIf(!hasPair)("a playlist made on two servers has one id", async () => {
    const userId = await a.userId();
    const one = (await makePlaylist(a, userId, name)).json().Id;
    const two = (await makePlaylist(b, userId, name)).json().Id;
    drop(a, one);
    drop(b, two);
    expect(two).toBe(one);
  });

  test("a second playlist of a name gets another id", async () => {
    const userId = await a.userId();
    const ids = [];
    for (let made = 0; made < 2; made += 1)
      ids.push((await makePlaylist(a, userId, `${name}-2`)).json().Id);
    for (const id of ids) drop(a, id);
    expect(ids[0]).not.toBe(ids[1]);
  });

  test("an item appended twice is there twice; an entry moves for its owner, not for the API key", async () => {
    const login = await a.enter();
    const id = (await makePlaylist(a, login.userId, `${name}-3`)).json().Id;
    drop(a, id);
    for (let times = 0; times < 2; times += 1) {
      await a.admin("POST", `/Playlists/${id}/Items?ids=${film.id}&userId=${login.userId}`);
    }
    const path = `/Playlists/${id}/Items?userId=${login.userId}`;
    expect(await itemsOf(path, login.token)).toHaveLength(3);
    const move = `/Playlists/${id}/Items/${film.id}/Move/1`;
    expect((await a.admin("POST", move)).status).toBe(400);
    expect((await a.post(move, login.token)).status).toBe(204);
  });

  // CollectionManager writes the folder anew: the links of the first are gone.
  test("a second collection of a name has the same id and empties the first", async () => {
    const made = (await a.admin("POST", `/Collections?name=${name}&ids=${film.id}`)).json().Id;
    drop(a, made);
    const { token, userId } = await a.enter();
    const inside = () => itemsOf(`/Items?parentId=${made}&userId=${userId}`, token);
    expect(await inside()).toHaveLength(1);
    expect((await a.admin("POST", `/Collections?name=${name}`)).json().Id).toBe(made);
    expect(await inside()).toHaveLength(0);
  });
});

describe("users", () => {
  test.skipIf(!hasPair)(
    "made on two servers get different ids; a name twice on one is 400",
    async () => {
      const user = await a.newUser();
      const body = { Name: user.name, Password: "x" };
      const other = (await b.admin("POST", "/Users/New", body)).json();
      b.later(() => b.admin("DELETE", `/Users/${other.Id}`));
      expect(other.Id).not.toBe(user.id);
      expect((await a.admin("POST", "/Users/New", body)).status).toBe(400);
    },
  );

  test("without a token the list of users is closed, the public one open", async () => {
    expect((await a.get("/Users")).status).toBe(401);
    expect((await a.get("/Users/Public")).status).toBe(200);
  });
});

describe("a page of another origin", () => {
  // CorsHosts is `*` by default, and the preflight is answered before anybody asks for a token.
  test("may ask anything", async () => {
    const headers = { origin: "http://elsewhere.example" };
    const plain = await a.call("GET", "/System/Info/Public", { headers });
    expect(plain.headers.get("access-control-allow-origin")).toBe("*");
    const asks = {
      ...headers,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization",
    };
    const preflight = await a.call("OPTIONS", "/Sessions/Playing", { headers: asks });
    expect([preflight.status, preflight.headers.get("access-control-allow-origin")]).toEqual([
      204,
      "*",
    ]);
    expect(preflight.headers.get("access-control-allow-headers")).toMatch(/authorization/i);
  });
});

describe("the web client's way in", () => {
  test("the bare address leads to /web/", async () => {
    const reply = await a.get("/");
    expect(reply.status).toBe(302);
    expect(reply.headers.get("location")).toMatch(/web\/?$/);
    expect((await a.get("/web/")).headers.get("content-type")).toMatch(/^text\/html/);
  });

  test("an empty id is the root folder, not an error", async () => {
    const { token } = await a.enter();
    const reply = await a.get(`/Items/${"0".repeat(32)}`, token);
    expect(reply.json()).toMatchObject({ Type: "UserRootFolder", IsFolder: true });
  });
});
