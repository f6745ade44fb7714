/**
 * Media for tests, made once by a real ffmpeg and kept in a cache: a short film whose pictures all differ, two episodes,
 * posters, subtitles, and a large file of pseudo-random bytes for downloads. The folder's name carries a version, so a
 * change here never meets old files; it is built aside and renamed, so two test processes cannot see a half-made one.
 */
import { execFile } from "node:child_process";
import { createCipheriv } from "node:crypto";
import { once } from "node:events";
import {
  copyFileSync,
  createWriteStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const VERSION = 4;

/** The film: not a whole number of segments, so that the last one is short, and its sound ends with its picture. */
export const FILM_SECONDS = 70.5;
export const FILM_FRAMES_PER_SECOND = 24;
export const FILM_NAME = "Clockwork (2020)";
export const BIG_NAME = "Noise (2021)";
export const EPISODE_NAMES = ["Tides S01E01 Ebb", "Tides S01E02 Flow"] as const;
export const BIG_BYTES = 200 * 1024 * 1024;

export type Media = { readonly folder: string; readonly film: string; readonly big: string };

/** A fixed date for all files: validators must be the same on every machine and for every server. */
const MODIFIED_AT = new Date("2026-01-02T03:04:05Z");

function cacheFolder(): string {
  const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "node_modules");
  return existsSync(root)
    ? join(root, ".cache", "jellybloom-media")
    : join(tmpdir(), "jellybloom-media");
}

/**
 * The media folder. `big` adds the 200 MB file (about a second to make); without it the library is small.
 * @throws Error where ffmpeg is missing.
 */
export async function makeMedia(options: { big?: boolean } = {}): Promise<Media> {
  const kind = options.big === true ? "big" : "small";
  const folder = join(cacheFolder(), `${kind}-${VERSION}`);
  if (!existsSync(folder)) await build(folder, options.big === true);
  return {
    folder,
    film: join(folder, "movies", FILM_NAME, `${FILM_NAME}.mp4`),
    big: join(folder, "movies", BIG_NAME, `${BIG_NAME}.bin`),
  };
}

async function build(folder: string, big: boolean): Promise<void> {
  mkdirSync(dirname(folder), { recursive: true });
  const draft = mkdtempSync(join(dirname(folder), "draft-"));
  try {
    const film = join(draft, "movies", FILM_NAME, `${FILM_NAME}.mp4`);
    await makeFilm(film, FILM_SECONDS);
    await makePictures(dirname(film));
    writeFileSync(join(dirname(film), `${FILM_NAME}.en.srt`), SUBTITLES);
    const season = join(draft, "tv", "Tides (2021)", "Season 1");
    mkdirSync(season, { recursive: true });
    await makeFilm(join(season, `${EPISODE_NAMES[0]}.mp4`), 12);
    copyFileSync(join(season, `${EPISODE_NAMES[0]}.mp4`), join(season, `${EPISODE_NAMES[1]}.mp4`));
    if (big) {
      const noise = join(draft, "movies", BIG_NAME);
      mkdirSync(noise, { recursive: true });
      await makeNoise(join(noise, `${BIG_NAME}.bin`), BIG_BYTES);
    }
    for (const name of readdirSync(draft, { recursive: true, encoding: "utf8" })) {
      utimesSync(join(draft, name), MODIFIED_AT, MODIFIED_AT);
    }
    renameSync(draft, folder);
  } catch (error) {
    rmSync(draft, { recursive: true, force: true });
    // Somebody else was faster: theirs is as good as ours.
    if (!existsSync(folder)) throw error;
  }
}

/** testsrc2 draws a running counter and moving shapes: no two frames are alike. */
async function makeFilm(path: string, seconds: number): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const picture = `testsrc2=size=320x180:rate=${FILM_FRAMES_PER_SECOND}:duration=${seconds}`;
  const sound = `sine=frequency=440:sample_rate=48000:duration=${seconds - 0.05}`;
  await run("ffmpeg", [
    ...["-v", "error", "-y", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound],
    ...["-c:v", "libx264", "-preset", "ultrafast", "-crf", "30", "-pix_fmt", "yuv420p", "-g", "72"],
    ...["-c:a", "aac", "-b:a", "64k", "-ac", "2", "-movflags", "+faststart", path],
  ]);
}

async function makePictures(folder: string): Promise<void> {
  const make = (name: string, size: string) =>
    run("ffmpeg", [
      ...["-v", "error", "-y", "-f", "lavfi", "-i", `testsrc2=size=${size}:duration=1`],
      ...["-frames:v", "1", join(folder, name)],
    ]);
  await make("poster.jpg", "200x300");
  await make("backdrop.jpg", "640x360");
}

/**
 * A file of bytes that repeat nowhere and are the same every time: the key stream of AES in counter mode.
 * @param bytes the file's length, a multiple of the block that is written at once or not.
 */
export async function makeNoise(path: string, bytes: number): Promise<void> {
  const cipher = createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), Buffer.alloc(16, 9));
  const zeros = Buffer.alloc(1024 * 1024);
  const file = createWriteStream(path);
  for (let left = bytes; left > 0; left -= zeros.length) {
    const part = cipher.update(left < zeros.length ? zeros.subarray(0, left) : zeros);
    if (!file.write(part)) await once(file, "drain");
  }
  file.end();
  await once(file, "close");
  utimesSync(path, MODIFIED_AT, MODIFIED_AT);
}

const SUBTITLES = [
  "1\n00:00:01,000 --> 00:00:05,000\nFirst line\n",
  "2\n00:00:06,000 --> 00:00:09,500\nSecond <i>line</i>\n",
].join("\n");
