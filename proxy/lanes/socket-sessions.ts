// The list of sessions as clients with a socket are told it (they said `SessionsStart`). A server pushes the
// sessions of its own memory when one of those changed; here the other servers' are put to them, and when
// only another server's session changed, the client is told, too.
//
// It promises: a client hears a list no more often than it asked for, none before its server has sent it one
// (a server tells only whom it may), and none at all once it has ended the subscription; one list of a server
// is kept for each subscriber and no longer than the subscriber is there.

import { hash } from "node:crypto";
import { serverMessage } from "../../core/jellyfin/messages.ts";
import { parsedObject } from "../../core/service/json.ts";
import type { Log } from "../../core/service/log.ts";
import type { SocketSessions } from "./socket-host.ts";
import type { SocketPair } from "./socket-pair.ts";

/** A longer list is carried as it is. */
const listLengthMax = 4 * 1024 * 1024;
/** Who asked for every change is told this often at most. */
const shortestPeriodMs = 100;
/** What ends by itself, such as the sessions of a server that is gone, is noticed within this. */
const lookIntervalMs = 10_000;

interface Feed {
  /** What its server said last, and which server that was. */
  list: readonly unknown[];
  replica: string;
  /** The server itself has said something that was not told yet. */
  isNews: boolean;
  isBusy: boolean;
  toldMs: number;
  toldHash: string;
  dueMs: number;
  timer: NodeJS.Timeout | undefined;
}

export class SessionsFeed {
  readonly #sessions: SocketSessions;
  readonly #nowMs: () => number;
  readonly #log: Pick<Log, "error">;
  readonly #feeds = new Map<SocketPair, Feed>();
  readonly #stopListening: () => void;

  constructor(sessions: SocketSessions, nowMs: () => number, log: Pick<Log, "error">) {
    this.#sessions = sessions;
    this.#nowMs = nowMs;
    this.#log = log;
    this.#stopListening = sessions.onChanged((replica) => {
      for (const [pair, feed] of this.#feeds) {
        if (feed.replica !== replica) this.#arm(pair, feed, 0);
      }
    });
  }

  /** A server's message `Sessions`; false: it is to be carried as it is. */
  heard(pair: SocketPair, text: string): boolean {
    if (pair.identityKey === undefined || text.length > listLengthMax) return false;
    const list = listOf(text);
    if (list === undefined) return false;
    let feed = this.#feeds.get(pair);
    if (feed === undefined) {
      feed = {
        list,
        replica: pair.replica,
        isNews: true,
        isBusy: false,
        toldMs: Number.NEGATIVE_INFINITY,
        toldHash: "",
        dueMs: 0,
        timer: undefined,
      };
      this.#feeds.set(pair, feed);
    }
    feed.list = list;
    feed.replica = pair.replica;
    feed.isNews = true;
    this.#arm(pair, feed, 0);
    return true;
  }

  forget(pair: SocketPair): void {
    const feed = this.#feeds.get(pair);
    if (feed === undefined) return;
    clearTimeout(feed.timer);
    this.#feeds.delete(pair);
  }

  close(): void {
    this.#stopListening();
    for (const pair of [...this.#feeds.keys()]) this.forget(pair);
  }

  /** Looks after `waitMs`, and not before the client wants to hear again. An earlier look stays. */
  #arm(pair: SocketPair, feed: Feed, waitMs: number): void {
    const nowMs = this.#nowMs();
    const periodMs = Math.max(pair.sessionsPeriodMs ?? 0, shortestPeriodMs);
    const dueMs = Math.max(nowMs + waitMs, feed.toldMs + periodMs);
    if (feed.timer !== undefined && feed.dueMs <= dueMs) return;
    clearTimeout(feed.timer);
    feed.dueMs = dueMs;
    feed.timer = setTimeout(() => {
      feed.timer = undefined;
      this.#tell(pair, feed).catch((error: unknown) => {
        // Only a fault of ours leads here; the server's next list is another try.
        this.#log.error({ err: error }, "a list of sessions could not be told");
      });
    }, dueMs - nowMs).unref();
  }

  async #tell(pair: SocketPair, feed: Feed): Promise<void> {
    const { identityKey } = pair;
    if (pair.sessionsPeriodMs === undefined || identityKey === undefined) {
      this.forget(pair);
      return;
    }
    if (feed.isBusy || pair.isClientFull) {
      this.#arm(pair, feed, shortestPeriodMs);
      return;
    }
    feed.isBusy = true;
    const isNews = feed.isNews;
    feed.isNews = false;
    try {
      const shown = await this.#sessions.pushed(identityKey, feed.replica, feed.list);
      if (pair.isOver || this.#feeds.get(pair) !== feed) return;
      const told = hash("sha1", JSON.stringify(shown));
      if (pair.sessionsPeriodMs !== undefined && (isNews || told !== feed.toldHash)) {
        pair.tell(serverMessage("Sessions", shown));
        feed.toldMs = this.#nowMs();
        feed.toldHash = told;
      }
    } finally {
      feed.isBusy = false;
    }
    this.#arm(pair, feed, feed.isNews ? 0 : lookIntervalMs);
  }
}

function listOf(text: string): unknown[] | undefined {
  const data = parsedObject(text)?.Data;
  return Array.isArray(data) ? data : undefined;
}
