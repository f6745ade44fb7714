// Two servers with one tuner between them that can do one stream, and a folder in which both record.

import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CLUSTER_KEY, type DoorProcess, startDoor } from "./door.ts";
import { type StandIn, startPair } from "./jellyfin/start.ts";
import { makeMedia } from "./media.ts";
import { Tuner } from "./tuner.ts";

export interface Television {
  readonly pair: { readonly a: StandIn; readonly b: StandIn };
  readonly door: DoorProcess;
  readonly tuner: Tuner;
  /** Names of the files that were recorded, and how large one is in bytes. */
  recordings(): string[];
  sizeOf(name: string): number;
  stop(): Promise<void>;
}

export async function startTelevision(args: readonly string[] = []): Promise<Television> {
  const media = await makeMedia();
  const tuner = await Tuner.start(media.film);
  const folder = mkdtempSync(join(tmpdir(), "jellybloom-recordings-"));
  const pair = await startPair({ mediaDir: media.folder });
  const change = { TunerHosts: [{ Url: tuner.url, TunerCount: 1 }], RecordingPath: folder };
  for (const server of [pair.a, pair.b]) {
    await server.control("configure", { document: "livetv", change });
  }
  const door = await startDoor({
    replicas: [pair.a, pair.b],
    apiKey: pair.a.apiKey,
    args: ["--cluster-key", CLUSTER_KEY, ...args],
  });
  return {
    pair,
    door,
    tuner,
    recordings: () => readdirSync(folder),
    sizeOf: (name) => statSync(join(folder, name)).size,
    async stop() {
      await door.stop();
      await pair.stop();
      tuner.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
