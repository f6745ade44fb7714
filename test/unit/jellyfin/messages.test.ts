// The envelope of socket messages: types found cheaply, our own keep-alives, what is hidden and remembered.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  forceKeepAlive,
  isClientKeepAlive,
  isSwallowed,
  keepAliveReply,
  keepAliveRequest,
  messageType,
  noSubscriptions,
  remember,
  replay,
  serverMessage,
  sessionsPeriodMs,
} from "../../../core/jellyfin/messages.ts";

const sessionsStart = '{"MessageType":"SessionsStart","Data":"0,1500"}';
const tasksStart = '{"MessageType":"ScheduledTasksInfoStart","Data":"0,1000"}';

describe("the type of a message", () => {
  test.each([
    ['{"MessageType":"KeepAlive"}', "KeepAlive"],
    [sessionsStart, "SessionsStart"],
    [' { "MessageType" : "KeepAlive" } ', "KeepAlive"],
    ['{"MessageId":"ae3b","Data":60,"MessageType":"ForceKeepAlive"}', "ForceKeepAlive"],
    ['{"MessageId":"ae3b","MessageType":"KeepAlive"}', "KeepAlive"],
    ['{"MessageId":"a","MessageType":"Sessions","Data":[]}', "Sessions"],
    ['{"Data":{"MessageType":"Inner"},"MessageType":"Outer"}', "Outer"],
    ['{"Data":{"a":1,"MessageType":"Inner"}}', undefined],
    ['{"Data":"x,\\"MessageType\\":\\"Inner\\"}","MessageType":"Outer","Z":1}', "Outer"],
    ['{"MessageType":5}', undefined],
    ['{"MessageType":"Keep', undefined],
    ["", undefined],
    ["null", undefined],
    ["not a message", undefined],
    ['x,"MessageType":"KeepAlive"}', undefined],
  ])("%s", (text, expected) => {
    expect(messageType(text)).toBe(expected);
  });

  test("is found in a large message wherever it stands", () => {
    const data = JSON.stringify(
      Array.from({ length: 5000 }, (_, index) => ({ Name: `session ${index}` })),
    );
    expect(messageType(`{"MessageId":"a","Data":${data},"MessageType":"Sessions"}`)).toBe(
      "Sessions",
    );
    expect(messageType(`{"MessageType":"Sessions","Data":${data}}`)).toBe("Sessions");
    expect(messageType(`{"MessageId":"a","MessageType":"Sessions","Data":${data}}`)).toBe(
      "Sessions",
    );
  });

  test("is what a parser would say, for any message", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("KeepAlive", "Sessions", "Play"),
        fc.jsonValue(),
        fc.constantFrom(0, 1, 2),
        (type, data, place) => {
          const names = ["Data", "MessageId"];
          names.splice(place, 0, "MessageType");
          const values = { MessageType: type, Data: data, MessageId: "1" };
          expect(messageType(JSON.stringify(values, undefined, 0))).toBe(type);
          const ordered = names.map(
            (name) => `"${name}":${JSON.stringify(Reflect.get(values, name))}`,
          );
          expect(messageType(`{${ordered.join(",")}}`)).toBe(type);
        },
      ),
    );
    fc.assert(fc.property(fc.string(), (text) => void messageType(text)));
  });
});

describe("keep-alives", () => {
  test("read as what they are, and no two have one id", () => {
    expect(JSON.parse(forceKeepAlive(60))).toEqual({
      MessageId: expect.stringMatching(/^[0-9a-f]{32}$/),
      Data: 60,
      MessageType: "ForceKeepAlive",
    });
    expect(messageType(keepAliveReply())).toBe("KeepAlive");
    expect(messageType(keepAliveRequest)).toBe("KeepAlive");
    expect(new Set(Array.from({ length: 100 }, keepAliveReply)).size).toBe(100);
  });

  test("of a client are answered here, in any letter case", () => {
    expect(isClientKeepAlive("KeepAlive")).toBe(true);
    expect(isClientKeepAlive("keepalive")).toBe(true);
    expect(isClientKeepAlive("SessionsStart")).toBe(false);
    expect(isClientKeepAlive(undefined)).toBe(false);
  });
});

test("a client never hears that a server goes away, nor its keep-alives", () => {
  for (const type of ["ServerShuttingDown", "ServerRestarting", "ForceKeepAlive", "KeepAlive"]) {
    expect(isSwallowed(type)).toBe(true);
  }
  for (const type of [
    "Sessions",
    "RestartRequired",
    "UserDataChanged",
    "SyncPlayCommand",
    undefined,
  ]) {
    expect(isSwallowed(type)).toBe(false);
  }
});

describe("subscriptions", () => {
  test("are remembered until they are ended, and replayed in their order", () => {
    let kept = remember(noSubscriptions, sessionsStart);
    kept = remember(kept, tasksStart);
    kept = remember(kept, '{"MessageType":"activitylogentrystart","Data":"0,1500"}');
    expect(replay(kept)).toEqual([
      sessionsStart,
      tasksStart,
      '{"MessageType":"activitylogentrystart","Data":"0,1500"}',
    ]);
    kept = remember(kept, '{"MessageType":"SessionsStop"}');
    kept = remember(kept, '{"MessageType":"ActivityLogEntryStop"}');
    expect(replay(kept)).toEqual([tasksStart]);
  });

  test("begun again replace the former, so that they are replayed once", () => {
    const slower = '{"MessageType":"SessionsStart","Data":"0,5000"}';
    expect(replay(remember(remember(noSubscriptions, sessionsStart), slower))).toEqual([slower]);
  });

  test("are a new value with each change and the same without one", () => {
    const one = remember(noSubscriptions, sessionsStart);
    expect(noSubscriptions.size).toBe(0);
    expect(remember(one, keepAliveRequest)).toBe(one);
    expect(remember(one, '{"MessageType":"ScheduledTasksInfoStop"}')).toBe(one);
    expect(remember(one, "junk")).toBe(one);
    expect(remember(one, '{"MessageType":"SessionsStop"}').size).toBe(0);
    expect(one.size).toBe(1);
  });

  test("too large to be real are not kept", () => {
    const huge = `{"MessageType":"SessionsStart","Data":"${"0".repeat(5000)}"}`;
    expect(remember(noSubscriptions, huge)).toBe(noSubscriptions);
  });

  test.each([
    [sessionsStart, 1500],
    ['{"MessageType":"SessionsStart"}', 0],
    ['{"MessageType":"SessionsStart","Data":"junk"}', 0],
    [tasksStart, undefined],
  ])("tell how often the list of sessions is wanted: %s", (message, periodMs) => {
    expect(sessionsPeriodMs(remember(noSubscriptions, message))).toBe(periodMs);
  });
});

test("a message of our own reads as a server's, and each has an id of its own", () => {
  const [one, other] = [serverMessage("Sessions", [1]), serverMessage("Sessions", [1])];
  expect(messageType(one)).toBe("Sessions");
  expect(JSON.parse(one)).toMatchObject({ Data: [1], MessageType: "Sessions" });
  expect(one).not.toBe(other);
});
