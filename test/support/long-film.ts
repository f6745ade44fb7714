// A film larger than what a player, and all sockets on the way to it, read ahead: only then does the death of
// a server hit a direct play in its middle. It is the test film three times over beside a sound of white
// noise, which no codec makes small: about 570 KB a second, which browsers and ffmpeg play.

import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { makeMedia } from "./media.ts";

export const LONG_NAME = "Rain (2022)";
const LONG_SECONDS = 200;

/** A media folder of the test's own with the long film in it, which the test removes. */
export async function makeMediaWithLongFilm(): Promise<string> {
  const media = await makeMedia();
  const folder = mkdtempSync(join(tmpdir(), "jellybloom-long-film-"));
  cpSync(media.folder, folder, { recursive: true, preserveTimestamps: true });
  const place = join(folder, "movies", LONG_NAME);
  mkdirSync(place, { recursive: true });
  const noise = `anoisesrc=sample_rate=96000:duration=${LONG_SECONDS}:amplitude=0.9:seed=7`;
  await promisify(execFile)("ffmpeg", [
    ...["-v", "error", "-stream_loop", "2", "-i", media.film, "-f", "lavfi", "-i", noise],
    ...["-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "flac", "-sample_fmt", "s32"],
    ...["-compression_level", "0", "-ac", "2", "-strict", "-2", "-shortest"],
    ...["-movflags", "+faststart", join(place, `${LONG_NAME}.mp4`)],
  ]);
  return folder;
}
