/** What we believe about play reports and watched state, and about copying the resulting state between servers. */
import { afterAll, describe, expect, test } from "vitest";
import { asLogin, authorization, contractServers, hasPair, type Login } from "./servers.ts";

const { a, b, leave } = await contractServers();
afterAll(leave);
const film = await a.film();
const seasons: { Id: string; SeriesId: string }[] = (
  await a.admin("GET", "/Items?recursive=true&includeItemTypes=Season")
).json().Items;

async function viewer(): Promise<Login> {
  const user = await a.newUser();
  const device = a.device();
  // A real server keys what it keeps in memory of user data by the row's number, and the next user has that of the last
  // one that was deleted: what they had watched is this one's (UserDataManager.GetCacheKey, User.InternalId).
  for (const id of [film.id, ...seasons.map(({ Id }) => Id)]) {
    await a.admin("DELETE", `/UserPlayedItems/${id}?userId=${user.id}`);
  }
  return asLogin(await a.login(device, user.name, user.password), device);
}

function report(login: Login, what: string, fields: Record<string, unknown>) {
  const authorizes = { authorization: authorization(login.device, login.token) };
  return a.call("POST", `/Sessions/Playing${what}`, {
    ...authorizes,
    body: { ItemId: film.id, ...fields },
  });
}

const dataOf = async (login: Login) =>
  (await a.admin("GET", `/UserItems/${film.id}/UserData?userId=${login.userId}`)).json();

const third = Math.round(film.ticks / 3);
/** Whether the film is long enough for this server to keep a position in it (MinResumeDurationSeconds, 300 by default). */
const { MinResumeDurationSeconds } = (await a.admin("GET", "/System/Configuration")).json();
const keepsPositions = film.ticks / 10_000_000 >= MinResumeDurationSeconds;

describe("play reports", () => {
  test("start counts the play, progress and stop store the position", async () => {
    const login = await viewer();
    expect((await report(login, "", { PositionTicks: 0 })).status).toBe(204);
    expect(await dataOf(login)).toMatchObject({ PlayCount: 1, PlaybackPositionTicks: 0 });
    expect((await report(login, "/Progress", { PositionTicks: third })).status).toBe(204);
    expect((await report(login, "/Stopped", { PositionTicks: third + 10 })).status).toBe(204);
    const expected = keepsPositions
      ? { PlaybackPositionTicks: third + 10, Played: false }
      : { Played: true };
    expect(await dataOf(login)).toMatchObject({ PlayCount: 1, ...expected });
  });

  test("progress on a server that never saw the start is stored", async () => {
    const login = await viewer();
    await report(login, "/Progress", { PositionTicks: third });
    expect(await dataOf(login)).toMatchObject(
      keepsPositions ? { PlaybackPositionTicks: third, PlayCount: 0 } : { Played: true },
    );
  });

  test("near the end counts as played, near the beginning as nothing", async () => {
    const login = await viewer();
    await report(login, "/Progress", { PositionTicks: Math.round(film.ticks * 0.01) });
    expect(await dataOf(login)).toMatchObject({ PlaybackPositionTicks: 0, Played: false });
    await report(login, "/Stopped", { PositionTicks: Math.round(film.ticks * 0.97) });
    expect(await dataOf(login)).toMatchObject({ PlaybackPositionTicks: 0, Played: true });
  });

  // SessionManager.OnPlaybackStopped returns before saving when playback failed.
  test("a stop that failed ends the playback and leaves the position alone", async () => {
    const login = await viewer();
    await report(login, "", { PositionTicks: 0 });
    await report(login, "/Progress", { PositionTicks: third });
    const before = await dataOf(login);
    await report(login, "/Stopped", { PositionTicks: 0, Failed: true });
    expect(await dataOf(login)).toEqual(before);
    expect((await a.sessionsOf(login.device))[0]?.NowPlayingItem).toBeUndefined();
  });

  test("show what is playing in the list of sessions", async () => {
    const login = await viewer();
    await report(login, "", { PositionTicks: 0, CanSeek: true, PlayMethod: "DirectPlay" });
    await report(login, "/Progress", {
      PositionTicks: third,
      IsPaused: true,
      PlayMethod: "DirectPlay",
    });
    const session = (await a.sessionsOf(login.device))[0];
    expect(session?.PlayState).toMatchObject({ PositionTicks: third, IsPaused: true });
    expect(session?.NowPlayingItem).toMatchObject({ Id: film.id });
    await report(login, "/Stopped", { PositionTicks: third });
  });

  test("a ping for a play nobody knows is 204", async () => {
    const login = await viewer();
    expect((await a.post("/Sessions/Playing/Ping?playSessionId=nobody", login.token)).status).toBe(
      204,
    );
  });
});

describe("the resulting state", () => {
  test("written with the API key is equal afterwards, and absent or null fields are left alone", async () => {
    const login = await viewer();
    const path = `/UserItems/${film.id}/UserData?userId=${login.userId}`;
    const state = {
      PlaybackPositionTicks: third,
      PlayCount: 3,
      IsFavorite: true,
      Played: false,
      LastPlayedDate: "2026-01-20T10:00:00.0000000Z",
    };
    const written = await a.admin("POST", path, state);
    expect([written.status, written.json()]).toEqual([200, expect.objectContaining(state)]);
    await a.admin("POST", path, { PlayCount: 4, LastPlayedDate: null });
    expect(await dataOf(login)).toMatchObject({ ...state, PlayCount: 4 });
  });

  test("played clears with DELETE, likes with DELETE of the rating", async () => {
    const login = await viewer();
    await a.post(`/UserPlayedItems/${film.id}`, login.token);
    await a.post(`/UserItems/${film.id}/Rating?likes=true`, login.token);
    expect(await dataOf(login)).toMatchObject({ Played: true, PlayCount: 1, Likes: true });
    await a.call("DELETE", `/UserPlayedItems/${film.id}`, { token: login.token });
    await a.call("DELETE", `/UserItems/${film.id}/Rating`, { token: login.token });
    const data = await dataOf(login);
    expect(data).toMatchObject({ Played: false, PlayCount: 0, PlaybackPositionTicks: 0 });
    expect(data.LastPlayedDate).toBeUndefined();
    expect(data.Likes).toBeUndefined();
  });

  test("old paths with the user in them do the same", async () => {
    const login = await viewer();
    const path = `/Users/${login.userId}/FavoriteItems/${film.id}`;
    expect((await a.post(path, login.token)).json()).toMatchObject({ IsFavorite: true });
    expect((await a.call("DELETE", path, { token: login.token })).json()).toMatchObject({
      IsFavorite: false,
    });
  });

  test("of an item the server does not have is 404, of another user 403", async () => {
    const login = await viewer();
    const unknown = await a.admin(
      "POST",
      `/UserItems/${"ab".repeat(16)}/UserData?userId=${login.userId}`,
      {},
    );
    expect(unknown.status).toBe(404);
    const other = await viewer();
    const foreign = await a.get(
      `/UserItems/${film.id}/UserData?userId=${other.userId}`,
      login.token,
    );
    expect(foreign.status).toBe(403);
  });

  test.skipIf(!hasPair)("copies from one server to the other, field by field", async () => {
    const { userId } = await a.enter();
    const path = `/UserItems/${film.id}/UserData?userId=${userId}`;
    const before = {
      a: (await a.admin("GET", path)).json(),
      b: (await b.admin("GET", path)).json(),
    };
    a.later(() => a.admin("POST", path, before.a));
    b.later(() => b.admin("POST", path, before.b));
    await a.admin("POST", path, {
      PlayCount: 7,
      PlaybackPositionTicks: third,
      IsFavorite: true,
      Played: false,
    });
    const state = (await a.admin("GET", path)).json();
    await b.admin("POST", path, state);
    expect((await b.admin("GET", path)).json()).toEqual(state);
  });
});

describe("a season", () => {
  // Folder.MarkPlayed goes through the children; UserData of a folder itself is computed.
  test.skipIf(seasons.length === 0)(
    "marked played marks its episodes, and its own copied data changes nothing",
    async () => {
      const login = await viewer();
      const season = seasons[0];
      const path = `/Shows/${season?.SeriesId}/Episodes?seasonId=${season?.Id}&userId=${login.userId}`;
      const played = async () =>
        (await a.admin("GET", path))
          .json()
          .Items.map((one: { UserData: { Played: boolean } }) => one.UserData.Played);
      await a.admin("POST", `/UserItems/${season?.Id}/UserData?userId=${login.userId}`, {
        Played: true,
      });
      expect(await played()).not.toContain(true);
      expect((await a.post(`/UserPlayedItems/${season?.Id}`, login.token)).status).toBe(200);
      expect(await played()).not.toContain(false);
    },
  );
});

describe("display preferences", () => {
  test("are kept by user, client and id", async () => {
    const login = await viewer();
    const path = `/DisplayPreferences/usersettings?userId=${login.userId}&client=contract`;
    const known = (await a.get(path, login.token)).json();
    const changed = {
      ...known,
      SortBy: "DateCreated",
      CustomPrefs: { ...known.CustomPrefs, mark: "1" },
    };
    expect((await a.post(path, login.token, changed)).status).toBe(204);
    expect((await a.get(path, login.token)).json()).toMatchObject({ SortBy: "DateCreated" });
  });
});
