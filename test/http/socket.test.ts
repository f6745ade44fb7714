// What a client is promised of its WebSocket, on real connections: it stays open while servers come and go,
// and hears and says everything once.

import { connect } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import type { SocketLimits } from "../../proxy/lanes/socket.ts";
import {
  Client,
  type Door,
  openDoor,
  SocketServerStandIn,
  sleep,
  TableHost,
  until,
} from "../support/socket-world.ts";

const start = '{"MessageType":"SessionsStart","Data":"0,1500"}';
const tasks = '{"MessageType":"ScheduledTasksInfoStart","Data":"0,1000"}';
const tasksStop = '{"MessageType":"ScheduledTasksInfoStop"}';
const keepAlive = '{"MessageType":"KeepAlive"}';

const cleanUps: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function world(limits: Partial<SocketLimits> = {}) {
  const a = await new SocketServerStandIn("a").start();
  const b = await new SocketServerStandIn("b").start();
  const host = new TableHost([a, b]);
  const door = await openDoor(host, limits);
  cleanUps.push(
    () => a.kill(),
    () => b.kill(),
    () => door.close(),
  );
  return { a, b, host, door };
}

async function joined(door: Door, token = "t1"): Promise<Client> {
  const client = await new Client(door, token).decided();
  expect(client.isOpen).toBe(true);
  await until(() => client.heard.length > 0);
  return client;
}

function message(number: number): string {
  return `{"MessageType":"GeneralCommand","Data":${number},"MessageId":"m${number}"}`;
}

describe("a handshake", () => {
  test("leads to the user's home with that replica's own token", async () => {
    const { a, b, host, door } = await world();
    host.homes.set("user-of-t1", "b");
    await joined(door);
    expect(a.handshakes).toBe(0);
    expect(b.sockets[0]?.url).toBe("/socket?ApiKey=t1-at-b");
    expect(b.sockets[0]?.headers["x-forwarded-for"]).toBe("192.0.2.7");
    expect(door.ends).toEqual([{ status: 101, replica: "b", reason: "home", attempts: 1 }]);
    expect(door.lane.open).toBe(1);
    expect(door.metrics.socketsOpen.value).toBe(1);
  });

  test("is refused at once without a token, and with a revoked one, and no replica is asked", async () => {
    const { a, b, host, door } = await world();
    host.standings.set("gone", "revoked");
    for (const token of [undefined, "gone"]) {
      expect((await new Client(door, token).decided()).status).toBe(403);
    }
    expect(a.handshakes + b.handshakes + host.targets + host.recognitions).toBe(0);
  });

  test("is refused as Jellyfin refuses: a 403 without a body, and the connection ends", async () => {
    const { door } = await world();
    const answer = await raw(door.port, handshake("/socket"));
    expect(answer).toBe("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  });

  test("with an unknown token is refused when no replica accepts it, and carried when one does", async () => {
    const { host, door } = await world();
    host.standings.set("who", "unknown").set("sso", "unknown");
    host.recognised.add("sso");
    expect((await new Client(door, "who").decided()).status).toBe(403);
    await joined(door, "sso");
    expect(host.recognitions).toBe(2);
  });

  test("that one replica refuses is taken to another", async () => {
    const { a, b, door } = await world();
    a.refusalStatus = 403;
    await joined(door);
    expect(a.handshakes).toBe(1);
    expect(b.sockets).toHaveLength(1);
    expect(door.ends[0]).toMatchObject({ status: 101, replica: "b", attempts: 2 });
  });

  test("is refused when every ready replica refuses", async () => {
    const { a, b, door } = await world();
    a.refusalStatus = 403;
    b.refusalStatus = 401;
    expect((await new Client(door, "t1").decided()).status).toBe(403);
    expect(door.ends[0]).toMatchObject({ status: 403, reason: "every replica refused" });
  });

  test("is not refused while a replica that did not refuse may return", async () => {
    const { a, b, door } = await world();
    a.refusalStatus = 403;
    await b.kill();
    const client = new Client(door, "t1");
    await sleep(800);
    expect(client.status).toBeUndefined();
    await b.start();
    expect((await client.decided()).isOpen).toBe(true);
  });

  test("that no replica can take in time is cut without an answer", async () => {
    const { a, b, door } = await world({ apiHoldLimitMs: 300 });
    await a.kill();
    await b.kill();
    expect(await raw(door.port, handshake("/socket?ApiKey=t1"))).toBe("");
    expect(door.ends[0]).toMatchObject({ status: undefined, reason: "no replica in time" });
    await until(() => door.connections.size === 0, 500);
  });

  test("waits for a replica that starts", async () => {
    const { a, b, door } = await world();
    a.refusalStatus = 503;
    await b.kill();
    const client = new Client(door, "t1");
    await sleep(400);
    a.refusalStatus = undefined;
    expect((await client.decided()).isOpen).toBe(true);
  });

  test("passes over a frozen replica", async () => {
    const { a, b, host, door } = await world({ connectLimitMs: 200 });
    a.isFrozen = true;
    await joined(door);
    expect(b.sockets).toHaveLength(1);
    expect(host.suspected).toEqual(["a: socket: no answer in time"]);
  });

  test("of a client that leaves meanwhile is given up and its replica freed", async () => {
    const { a, b, door } = await world({ connectLimitMs: 2000 });
    a.isFrozen = true;
    b.isFrozen = true;
    const client = new Client(door, "t1");
    await until(() => a.handshakes === 1);
    client.socket.terminate();
    await until(() => door.ends.length === 1, 300);
    expect(door.ends[0]).toMatchObject({ status: undefined, reason: "client left" });
    await until(() => door.connections.size === 0, 500);
  });

  test("that is none is answered with 400 and reaches no replica", async () => {
    const { a, door } = await world();
    const asked =
      "GET /socket?ApiKey=t1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    expect(await raw(door.port, asked)).toMatch(/^HTTP\/1\.1 400 /);
    expect(a.handshakes).toBe(0);
  });
});

describe("messages", () => {
  test("begin with the door's ForceKeepAlive, and the replica's own is not heard", async () => {
    const { a, door } = await world();
    const client = await joined(door);
    a.say(message(1));
    await until(() => client.news.length === 1);
    expect(client.heard).toHaveLength(2);
    expect(client.heard[0]).toMatch(
      /^\{"MessageId":"[0-9a-f]{32}","Data":60,"MessageType":"ForceKeepAlive"\}$/,
    );
  });

  test("go both ways in order, text as text and binary as binary", async () => {
    const { a, door } = await world();
    const client = await joined(door);
    for (let number = 0; number < 200; number++) {
      client.socket.send(message(number));
      a.say(message(number));
    }
    client.socket.send(Buffer.from("bytes"));
    a.say(Buffer.from("bytes"));
    const expected = [
      ...Array.from({ length: 200 }, (_, number) => message(number)),
      "binary:bytes",
    ];
    await until(() => a.told.length === 201 && client.news.length === 201);
    expect(a.told).toEqual(expected);
    expect(client.news).toEqual(expected);
  });

  test("of megabytes from a replica arrive whole", async () => {
    const { a, door } = await world();
    const client = await joined(door);
    const text = `{"Data":"${"x".repeat(3_000_000)}","MessageType":"Sessions"}`;
    a.say(text);
    await until(() => client.news.length === 1);
    expect(client.news[0] === text).toBe(true);
  });

  test("a client's KeepAlive is answered by the door, with a new id each time, and goes no further", async () => {
    const { a, door } = await world();
    const client = await joined(door);
    client.socket.send(keepAlive);
    client.socket.send(keepAlive);
    await until(() => client.heard.length === 3);
    expect(client.heard[1]).toMatch(/"MessageType":"KeepAlive"/);
    expect(client.heard[1]).not.toBe(client.heard[2]);
    expect(a.told).toEqual([]);
  });
});

describe("when a server goes away", () => {
  test("the client's socket stays open and hears the next server within 2 s of a kill", async () => {
    const { a, b, door } = await world();
    const client = await joined(door);
    const killedMs = performance.now();
    await a.kill();
    await until(() => b.openSockets.length === 1);
    b.say(message(1));
    await until(() => client.news.length === 1);
    expect(performance.now() - killedMs).toBeLessThan(2000);
    expect(client.isOpen).toBe(true);
    expect(door.metrics.redials.connected.value).toBe(1);
  });

  test("its goodbye is never heard", async () => {
    const { a, b, door } = await world();
    const client = await joined(door);
    await a.terminate();
    await until(() => b.openSockets.length === 1);
    b.say('{"MessageId":"4","MessageType":"ServerRestarting"}');
    b.say(message(1));
    await until(() => client.news.length === 1);
    expect(client.heard.filter((text) => text.includes("Server"))).toEqual([]);
    expect(client.isOpen).toBe(true);
  });

  test("capabilities, subscriptions and what was said meanwhile arrive once each, in this order", async () => {
    const { a, b, host, door } = await world();
    const client = await joined(door);
    client.socket.send(tasks);
    client.socket.send(start);
    client.socket.send('{"MessageType":"ActivityLogEntryStart","Data":"0,1"}');
    client.socket.send('{"MessageType":"ActivityLogEntryStop"}');
    await until(() => a.told.length === 4);
    host.gone.add("b");
    await a.kill();
    client.socket.send(message(1));
    client.socket.send('{"MessageType":"SessionsStop"}');
    client.socket.send('{"MessageType":"SessionsStart","Data":"0,3000"}');
    client.socket.send(message(2));
    client.socket.send(keepAlive);
    await until(() => client.heard.length === 2);
    host.capabilitiesMs = 100;
    host.gone.delete("b");
    await until(() => b.told.length >= 5);
    await sleep(50);
    expect(b.told).toEqual([
      "capabilities",
      tasks,
      '{"MessageType":"SessionsStart","Data":"0,3000"}',
      message(1),
      message(2),
    ]);
  });

  test("a subscription that ended is not begun again", async () => {
    const { a, b, door } = await world();
    const client = await joined(door);
    client.socket.send(tasks);
    client.socket.send(tasksStop);
    await until(() => a.told.length === 2);
    await a.kill();
    await until(() => b.openSockets.length === 1 && b.told.length === 1);
    await sleep(50);
    expect(b.told).toEqual(["capabilities"]);
  });

  test("keep-alives are answered with no server at all, and the first to return is dialled", async () => {
    const { a, b, door } = await world({ apiHoldLimitMs: 300 });
    const client = await joined(door);
    await a.kill();
    await b.kill();
    await sleep(700);
    client.socket.send(keepAlive);
    await until(() => client.heard.length === 2);
    await b.start();
    await until(() => b.openSockets.length === 1, 2000);
    b.say(message(1));
    await until(() => client.news.length === 1);
  });

  test("a server that freezes is found out by its silence, and left", async () => {
    const { a, b, host, door } = await world({
      upstreamKeepAliveMs: 100,
      upstreamReplyLimitMs: 600,
    });
    const client = await joined(door);
    await until(() => a.told.length >= 3);
    expect(a.openSockets).toHaveLength(1);
    a.answersKeepAlive = false;
    await until(() => a.openSockets.length === 0 || b.openSockets.length === 1, 8000);
    expect(host.suspected).toContain("a: socket: silent");
    expect(client.isOpen).toBe(true);
  });

  test("a replica that is said to be gone is left at once", async () => {
    const { b, host, door } = await world();
    const client = await joined(door);
    host.loseReplica("a");
    await until(() => b.openSockets.length === 1, 1000);
    b.say(message(1));
    await until(() => client.news.length === 1);
  });

  test("a server that closes every socket at once is not dialled in a circle", async () => {
    const { a, b, host, door } = await world({ redialPauseLimitMs: 2000 });
    host.gone.add("b");
    const client = await joined(door);
    const closer = setInterval(() => {
      for (const { socket } of a.openSockets) socket.close(1000, "System Shutdown");
    }, 1);
    await sleep(1000);
    clearInterval(closer);
    expect(a.handshakes).toBeLessThan(12);
    expect(b.handshakes).toBe(0);
    expect(client.isOpen).toBe(true);
  });

  test("a known token that every replica then refuses ends in a cut, not in a Close", async () => {
    const { a, b, door } = await world();
    const client = await joined(door);
    a.refusalStatus = 403;
    b.refusalStatus = 403;
    for (const { socket } of a.openSockets) socket.close(1000, "System Shutdown");
    await until(() => client.closeCode !== undefined);
    expect(client.closeCode).toBe(1006);
  });

  test("500 sockets follow one kill within 5 s, a bounded number at a time", async () => {
    const { a, b, door } = await world();
    const clients = Array.from({ length: 500 }, (_, number) => new Client(door, `t${number}`));
    await Promise.all(clients.map((client) => client.decided()));
    expect(a.openSockets).toHaveLength(500);
    await a.kill();
    await until(() => b.openSockets.length === 500, 5000);
    await until(() => b.told.length === 500);
    b.say(message(1));
    await until(() => clients.every((client) => client.news.length === 1));
    for (const { socket } of clients) socket.close(1000);
    await until(() => door.lane.open === 0 && b.openSockets.length === 0);
    await until(() => door.connections.size === 0);
    expect(door.metrics.socketsOpen.value).toBe(0);
  });
});

describe("when a home moves", () => {
  test("1,000 numbered messages across two moves reach one replica each, none lost, none twice", async () => {
    const { a, b, host, door } = await world();
    const client = await joined(door);
    client.socket.send(start);
    for (let number = 0; number < 1000; number++) {
      client.socket.send(message(number));
      if (number === 300) host.moveHome("t1", "b");
      if (number === 700) host.moveHome("t1", "a");
      if (number % 10 === 0) await sleep(1);
    }
    const numbers = () => [...a.told, ...b.told].filter((text) => text.includes("GeneralCommand"));
    await until(() => numbers().length >= 1000);
    await sleep(100);
    expect(numbers()).toHaveLength(1000);
    expect(new Set(numbers()).size).toBe(1000);
    expect(b.told.filter((text) => text.includes("GeneralCommand")).length).toBeGreaterThan(50);
    expect(a.openSockets).toHaveLength(1);
    expect(b.openSockets).toHaveLength(0);
    expect(b.sockets[0]?.closeCode).toBe(1000);
    expect(b.told.slice(0, 2)).toEqual(["capabilities", start]);
  });

  test("what the old replica says before it has closed is heard before the new one", async () => {
    const { a, b, host, door } = await world({ closeLimitMs: 2000 });
    const client = await joined(door);
    // It does not see the Close yet, and so goes on talking.
    a.sockets[0]?.socket.pause();
    host.moveHome("t1", "b");
    await until(() => b.openSockets.length === 1);
    b.say(message(3));
    a.say(message(1));
    await until(() => client.news.length === 1);
    await sleep(50);
    a.say(message(2));
    await until(() => client.news.length === 2);
    a.sockets[0]?.socket.resume();
    await until(() => client.news.length === 3 && a.openSockets.length === 0);
    expect(client.news).toEqual([message(1), message(2), message(3)]);
  });

  test("to a replica that cannot be reached, the old one is kept until it can", async () => {
    const { a, b, host, door } = await world();
    const client = await joined(door);
    await b.kill();
    host.moveHome("t1", "b");
    await sleep(300);
    a.say(message(1));
    await until(() => client.news.length === 1);
    expect(client.isOpen).toBe(true);
  });

  test("by itself back to a replica that is well again, its sockets return, and none is cut", async () => {
    const { a, b, door } = await world({
      connectLimitMs: 200,
      upstreamKeepAliveMs: 300,
      upstreamReplyLimitMs: 300,
    });
    a.isFrozen = true;
    const client = await joined(door);
    expect(b.openSockets).toHaveLength(1);
    await sleep(700);
    expect(b.openSockets).toHaveLength(1);
    a.isFrozen = false;
    await until(() => a.openSockets.length === 1 && b.openSockets.length === 0, 2000);
    a.say(message(1));
    await until(() => client.news.length === 1);
    expect(client.isOpen).toBe(true);
  });

  test("the sockets of other users stay where they are", async () => {
    const { a, b, host, door } = await world();
    await joined(door, "t1");
    await joined(door, "t2");
    host.moveHome("t1", "b");
    await until(() => b.openSockets.length === 1 && a.openSockets.length === 1);
    expect(a.openSockets[0]?.url).toContain("t2");
  });
});

describe("a login that ends", () => {
  test("ends its sockets as a server does, and no others", async () => {
    const { host, door } = await world();
    const client = await joined(door, "t1");
    const other = await joined(door, "t2");
    for (const listener of host.ended) listener("identity-of-t1");
    await until(() => client.closeCode !== undefined);
    expect([client.closeCode, client.closeReason]).toEqual([1000, "System Shutdown"]);
    expect(other.isOpen).toBe(true);
  });

  test("is noticed when the server closes the socket first", async () => {
    const { a, host, door } = await world();
    const client = await joined(door);
    host.standings.set("t1", "revoked");
    a.openSockets[0]?.socket.close(1000, "System Shutdown");
    await until(() => client.closeCode !== undefined);
    expect([client.closeCode, client.closeReason]).toEqual([1000, "System Shutdown"]);
  });
});

describe("when a client leaves", () => {
  test("its replica is told with the same code", async () => {
    const { a, door } = await world();
    const client = await joined(door);
    client.socket.close(4001, "bye");
    await until(() => a.sockets[0]?.closeCode === 4001, 500);
  });

  test("without a word, its replica is freed within 100 ms", async () => {
    const { a, door } = await world();
    const client = await joined(door);
    client.socket.terminate();
    await until(() => a.sockets[0]?.closeCode !== undefined, 100);
    expect(a.sockets[0]?.closeCode).toBe(1000);
    expect(door.lane.open).toBe(0);
  });

  test("while its socket is dialled again, nothing stays behind", async () => {
    const { a, b, door } = await world({ connectLimitMs: 2000 });
    const client = await joined(door);
    b.isFrozen = true;
    await a.kill();
    await until(() => b.handshakes === 1);
    client.socket.terminate();
    await until(() => door.lane.open === 0 && door.connections.size === 0);
    await sleep(100);
    expect(b.openSockets).toHaveLength(0);
  });

  test("by falling silent, it is cut and its replica freed, while one that answers pings stays", async () => {
    const { a, door } = await world({ socketIdleLimitMs: 400 });
    const silent = await new Client(door, "t1", { autoPong: false }).decided();
    const calm = await joined(door, "t2");
    await until(() => silent.closeCode !== undefined, 2000);
    expect(silent.closeCode).toBe(1006);
    expect(silent.heard.length).toBeGreaterThan(1);
    await until(() => a.openSockets.length === 1, 500);
    await sleep(600);
    expect(calm.isOpen).toBe(true);
  });
});

describe("limits", () => {
  test("a client that says too much while there is no server is cut", async () => {
    const { a, b, door } = await world({ queuedMessagesLimit: 10, apiHoldLimitMs: 5000 });
    const client = await joined(door);
    await a.kill();
    await b.kill();
    await until(() => door.logged.length > 0);
    for (let number = 0; number < 10; number++) client.socket.send(message(number));
    await sleep(50);
    expect(client.isOpen).toBe(true);
    client.socket.send(message(10));
    await until(() => client.closeCode === 1006);
  });

  test("an oversized message is closed with 1009, bad UTF-8 with 1007, a bad frame with 1002", async () => {
    const { a, door } = await world();
    const large = await joined(door, "t1");
    large.socket.send("x".repeat(70_000));
    await until(() => large.closeCode === 1009);
    const garbled = await joined(door, "t2");
    garbled.socket.send(Buffer.from([0xff, 0xfe]), { binary: false });
    await until(() => garbled.closeCode === 1007);
    const broken = await joined(door, "t3");
    broken.socket.send("x", { mask: false });
    await until(() => broken.closeCode === 1002);
    await until(() => a.openSockets.length === 0);
    expect(a.told).toEqual([]);
    expect(door.lane.open).toBe(0);
  });

  test("a flood towards a server that does not read stops at the client, and arrives when it reads", async () => {
    const { a, door } = await world({ socketBufferLimitBytes: 128 * 1024 });
    a.isDeaf = true;
    const client = await joined(door);
    const text = `{"MessageType":"X","Data":"${"x".repeat(50_000)}"}`;
    const before = process.memoryUsage().arrayBuffers;
    for (let count = 0; count < 400; count++) client.socket.send(text);
    await sleep(500);
    // What does not go on stays with the client: 20 MB were sent, most of them are still there.
    expect(client.socket.bufferedAmount).toBeGreaterThan(5_000_000);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(40_000_000);
    a.isDeaf = false;
    a.sockets[0]?.socket.resume();
    await until(() => a.told.length === 400, 10_000);
    expect(a.told.every((each) => each === text)).toBe(true);
  });

  test("a client that does not read stops its server, and is cut when it never does", async () => {
    const { a, door } = await world({ socketIdleLimitMs: 1000 });
    const client = await joined(door);
    client.socket.pause();
    const text = `{"MessageType":"X","Data":"${"x".repeat(50_000)}"}`;
    for (let count = 0; count < 1000; count++) a.say(text);
    await sleep(300);
    expect(a.sockets[0]?.socket.bufferedAmount).toBeGreaterThan(10_000_000);
    await until(() => door.lane.open === 0, 3000);
    await until(() => a.openSockets.length === 0);
  });

  test("no token is ever logged", async () => {
    const { a, b, door } = await world({ apiHoldLimitMs: 300 });
    const client = await joined(door, "verysecret");
    await a.kill();
    await b.kill();
    await until(() => door.metrics.redials.failed.value > 0);
    client.socket.terminate();
    expect(door.logged.length).toBeGreaterThan(0);
    expect(door.logged.join("")).not.toContain("verysecret");
  });
});

test("a drain cuts clients without a Close frame and closes their replicas' sockets in good order", async () => {
  const { a, b, host, door } = await world();
  host.homes.set("user-of-t2", "b");
  const clients = [await joined(door, "t1"), await joined(door, "t2")];
  await door.lane.closeAll(1001);
  await until(() => clients.every(({ closeCode }) => closeCode === 1006));
  expect([a.sockets[0]?.closeCode, b.sockets[0]?.closeCode]).toEqual([1001, 1001]);
  expect(door.lane.open).toBe(0);
  expect([host.moved.size, host.goneListeners.size, host.ended.size]).toEqual([0, 0, 0]);
  expect(await raw(door.port, handshake("/socket?ApiKey=t1"))).toBe("");
});

test("a second socket of the same device does not disturb the first", async () => {
  const { a, door } = await world();
  const first = await joined(door, "t1");
  const second = await joined(door, "t1");
  second.socket.close(1000);
  await until(() => a.openSockets.length === 1);
  a.say(message(1));
  await until(() => first.news.length === 1);
});

function handshake(target: string): string {
  return (
    `GET ${target} HTTP/1.1\r\nHost: door\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
  );
}

/** All that the door answers until the connection ends. */
function raw(port: number, text: string): Promise<string> {
  return new Promise((resolve) => {
    let answer = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    socket.on("data", (data) => {
      answer += data.toString("latin1");
    });
    socket.on("error", () => undefined);
    socket.on("close", () => resolve(answer));
  });
}
