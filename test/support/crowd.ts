/**
 * A crowd of viewers, each a user of their own, who go on doing what people do while a test works on what is behind the
 * door: most browse, each with a socket that must stay open, some play HLS segment by segment, some play a file as it
 * is. Everything that is asked is recorded, and a socket that closes is recorded as wrong, too.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { History } from "./history.ts";
import { FILM_NAME } from "./media.ts";
import { Viewer, type ViewerSocket } from "./viewer.ts";

export type CrowdOptions = {
  readonly people: number;
  /** Of them so many play HLS, and so many a file; the rest browses. */
  readonly hls?: number;
  readonly files?: number;
  /** Where each connects, in turn. */
  readonly doors: readonly string[];
};

/** Names of a crowd's users, to be made before the servers are cloned. */
export function crowdNames(people: number): { readonly name: string }[] {
  return Array.from({ length: people }, (_, index) => ({ name: `viewer${index}` }));
}

export class Crowd {
  readonly history = new History();
  readonly viewers: readonly Viewer[];
  readonly #sockets: ViewerSocket[] = [];
  readonly #options: CrowdOptions;
  readonly #work: Promise<void>[] = [];
  #isOver = false;

  private constructor(viewers: readonly Viewer[], options: CrowdOptions) {
    this.viewers = viewers;
    this.#options = options;
  }

  static async enter(options: CrowdOptions): Promise<Crowd> {
    const viewers: Viewer[] = [];
    for (const [index, { name }] of crowdNames(options.people).entries()) {
      const url = options.doors[index % options.doors.length] ?? "";
      viewers.push(await Viewer.enter(url, { name }));
    }
    return new Crowd(viewers, options);
  }

  /** Begins; `restMs` is how long each viewer rests between two things they do. */
  async begin(restMs = 400): Promise<void> {
    const { hls = 0, files = 0 } = this.#options;
    for (const [index, viewer] of this.viewers.entries()) {
      const socket = await viewer.socket();
      this.#sockets.push(socket);
      const deed =
        index < hls
          ? this.#playHls(viewer)
          : index < hls + files
            ? this.#playFile(viewer)
            : this.#browse(viewer, restMs);
      this.#work.push(deed);
    }
  }

  /** Everybody stops; answers what went wrong for anybody. */
  async end(): Promise<string[]> {
    this.#isOver = true;
    await Promise.all(this.#work);
    const closed = this.#sockets.filter(({ isOpen }) => !isOpen).length;
    for (const socket of this.#sockets) socket.close();
    const wrongs = this.history.wrongs();
    return closed === 0 ? wrongs : [...wrongs, `${closed} sockets were closed`];
  }

  /** How many live on each replica, by asking each for its placement. */
  async homes(): Promise<Record<string, number>> {
    const homes: Record<string, number> = {};
    for (const viewer of this.viewers) {
      const home = await viewer.home();
      homes[home] = (homes[home] ?? 0) + 1;
    }
    return homes;
  }

  async #browse(viewer: Viewer, restMs: number): Promise<void> {
    for (let turn = 0; !this.#isOver; turn += 1) {
      const path = turn % 2 === 0 ? "/Users/Me" : `/Items?userId=${viewer.userId}&recursive=true`;
      await this.#ask(viewer, "browse", path);
      await sleep(restMs * (0.5 + Math.random()));
    }
  }

  async #ask(viewer: Viewer, name: string, path: string): Promise<void> {
    await this.history.record(viewer.deviceId, name, async () => {
      const { status, text } = await viewer.call("GET", path);
      return { status, wrong: status === 200 ? undefined : `not 200: ${text.slice(0, 200)}` };
    });
  }

  /** A player: the playlists, then segment after segment at about the speed of a person who skips ahead. */
  async #playHls(viewer: Viewer): Promise<void> {
    const item = await viewer.item(FILM_NAME);
    while (!this.#isOver) {
      const { playlist, playSessionId } = await viewer.playHls(item, "ts");
      const body = { ItemId: item, PlaySessionId: playSessionId, PositionTicks: 0 };
      await viewer.call("POST", "/Sessions/Playing", { body });
      const main = await this.#list(viewer, playlist);
      const segments = main === undefined ? [] : await this.#lines(viewer, main);
      for (const segment of segments) {
        if (this.#isOver) break;
        await this.#segment(viewer, segment);
        await sleep(500);
      }
      await viewer.call("POST", "/Sessions/Playing/Stopped", { body });
    }
  }

  async #list(viewer: Viewer, playlist: string): Promise<string | undefined> {
    return (await this.#lines(viewer, playlist))[0];
  }

  /** The addresses in a playlist. */
  async #lines(viewer: Viewer, playlist: string): Promise<string[]> {
    let lines: string[] = [];
    await this.history.record(viewer.deviceId, "playlist", async () => {
      const reply = await fetch(playlist);
      const text = await reply.text();
      lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
      return {
        status: reply.status,
        wrong: lines.length > 0 ? undefined : `nothing in it: ${text}`,
      };
    });
    return lines.map((line) => new URL(line, playlist).href);
  }

  async #segment(viewer: Viewer, segment: string): Promise<void> {
    await this.history.record(viewer.deviceId, "segment", async () => {
      const reply = await fetch(segment);
      const bytes = (await reply.arrayBuffer()).byteLength;
      const isWhole = reply.status === 200 && bytes > 0 && bytes % 188 === 0;
      return { status: reply.status, wrong: isWhole ? undefined : `${bytes} bytes` };
    });
  }

  /** A player that reads a film slowly, from its beginning to its end, again and again. */
  async #playFile(viewer: Viewer): Promise<void> {
    const item = await viewer.item(FILM_NAME);
    while (!this.#isOver) {
      await this.history.record(viewer.deviceId, "file", async () => {
        const reply = await fetch(viewer.directPlay(item));
        const length = Number(reply.headers.get("content-length"));
        let read = 0;
        for await (const piece of reply.body ?? []) {
          read += piece.byteLength;
          if (!this.#isOver) await sleep(30);
        }
        return {
          status: reply.status,
          wrong: read === length ? undefined : `${read} of ${length}`,
        };
      });
    }
  }
}
