// Which wrong passwords the other servers are told of. A hundred and twenty made-up names in a minute once kept all news
// back: somebody's wrong passwords counted at one server only, and at another they could be guessed at anew.

import { expect, test } from "vitest";
import { type Entry, newEntryId } from "../../../core/cluster/journal.ts";
import { wrongPasswordMac } from "../../../core/cluster/secret.ts";
import { createSeal } from "../../../core/service/seal.ts";
import type { Home } from "../../../core/store/store.ts";
import type { Attended } from "../../../proxy/attendant.ts";
import { createLoginNews, WrongPasswords } from "../../../proxy/attendants/login-news.ts";
import { readFacts, readHeaderFacts } from "../../../proxy/facts.ts";
import { bodyTextOf } from "../../../proxy/job.ts";

const dan = "d".repeat(32);
const eve = "e".repeat(32);

/** So many guesses each by that user id or name, in turn, and how many of the last one's are told. */
function told(wrong: WrongPasswords, userId: string, name: string, times: number, nowMs = 0) {
  let count = 0;
  for (let time = 0; time < times; time++) if (wrong.isTold(userId, name, nowMs)) count++;
  return count;
}

test.each<[string, (wrong: WrongPasswords) => void, number]>([
  ["ten of a user in a minute", () => undefined, 10],
  [
    "as many after a thousand names that nobody has",
    (wrong) => {
      for (let name = 0; name < 20_000; name++) wrong.isTold("", `NOBODY ${name}`, 0);
    },
    10,
  ],
  [
    "as many after guesses at many other users",
    (wrong) => {
      for (let user = 0; user < 500; user++) told(wrong, `user ${user}`, "", 20);
    },
    10,
  ],
  ["what is left after some of the same minute", (wrong) => void told(wrong, dan, "DAN", 4), 6],
  ["as many in the next minute", (wrong) => void told(wrong, dan, "DAN", 20, -60_001), 10],
  [
    "no more though names are made up between, so that they are forgotten",
    (wrong) => {
      told(wrong, dan, "DAN", 10);
      for (let name = 0; name < 20_000; name++) wrong.isTold("", `NOBODY ${name}`, 0);
    },
    0,
  ],
])("are told: %s", (_what, before, expected) => {
  const wrong = new WrongPasswords();
  before(wrong);
  expect(told(wrong, dan, "DAN", 20)).toBe(expected);
});

test("of names that nobody has ten each are told, and a hundred and twenty in all", () => {
  const wrong = new WrongPasswords();
  expect(told(wrong, "", "NOBODY", 20)).toBe(10);
  let others = 0;
  for (let name = 0; name < 1000; name++) others += told(wrong, "", `NOBODY ${name}`, 20);
  expect(others).toBe(110);
  expect(told(wrong, "", "NOBODY", 20, 60_001)).toBe(10);
});

/** A door that tells what it has to, and a guess that it has passed on. */
function newsOf() {
  const written: Entry[] = [];
  const seal = createSeal("a cluster key of some length");
  const home: Home = { userId: dan, replica: "a", epoch: { number: 1, owner: "" }, movedAtMs: 0 };
  const { attendant } = createLoginNews({
    writer: {
      write: async (entry) => {
        written.push(entry);
        return 1;
      },
    },
    seal,
    memory: {
      userIdOfName: (name) => (name.toUpperCase() === "DAN" ? dan : undefined),
      homes: new Map([[dan, home]]),
    },
    clock: { monotonicMs: () => 0 },
    log: { error: () => undefined },
    isCluster: () => true,
  });
  const guess = (path: string, body: object | string) => {
    const origin = { address: "127.0.0.1", scheme: "http", host: "" } as const;
    const facts = readFacts("POST", path, readHeaderFacts({}), origin, []);
    const bodyText = typeof body === "string" ? body : JSON.stringify(body);
    attendant.ended?.({ facts, bodyText } as Attended, 401, "a");
  };
  return { guess, written, seal };
}

test.each([
  ["behind the mark of UTF-8", '\ufeff{"Username":"dan"}'],
  ["in UTF-16", Buffer.from('{"Username":"dan"}', "utf16le")],
  ["the last of several spellings", '{"username":"fay","Username":"eve","USERNAME":"dan"}'],
])("a wrong password is told of whom the server takes it for: %s", (what, body) => {
  const { guess, written, seal } = newsOf();
  const wide = "application/json; charset=utf-16";
  const contentType = what === "in UTF-16" ? wide : "application/json";
  guess("/Users/AuthenticateByName", bodyTextOf(Buffer.from(body), contentType));
  const [effect] = written;
  const payload = effect?.type === "effect" ? effect.payload : undefined;
  expect(payload).toEqual({ what: "wrongPassword", who: wrongPasswordMac(seal, "dan") });
});

test("a user is one by name and by id, in whatever case, and the news names nobody in clear", () => {
  const { guess, written, seal } = newsOf();
  for (let name = 0; name < 200; name++) {
    guess("/Users/AuthenticateByName", { Username: newEntryId(), Pw: "x" });
  }
  expect(written).toHaveLength(120);
  for (let time = 0; time < 4; time++) {
    for (const Username of ["dan", "Dan"])
      guess("/Users/AuthenticateByName", { Username, Pw: "x" });
    guess(`/Users/${dan}/Authenticate`, { Pw: "x" });
    guess(`/Users/${eve}/Authenticate`, { Pw: "x" });
  }
  const news = written.slice(120).map((entry) => (entry.type === "effect" ? entry : undefined));
  expect(news).toHaveLength(10);
  const who = wrongPasswordMac(seal, "dan");
  for (const effect of news) {
    if (effect?.userId === "") expect(effect.payload).toEqual({ what: "wrongPassword", who });
    else expect(effect?.userId).toBe(dan);
  }
  expect(JSON.stringify(written)).not.toMatch(/"dan"|"Pw"/i);
});
