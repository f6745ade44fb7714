// The demo's film: two minutes in which no two pictures are alike, made once by ffmpeg and kept. Where
// there is no ffmpeg, forty seconds of the same that are shipped with the project; the servers cannot
// transcode then, so that film is only played as it is.

import { execFile, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const version = 1;
const filmName = "The Bloom (2026)";
const shipped = fileURLToPath(new URL("./film/tiny.mp4", import.meta.url));

export interface Film {
  /** The media folder that the servers are given. */
  readonly folder: string;
  readonly path: string;
  readonly seconds: number;
  /** False without ffmpeg: then there is no HLS. */
  readonly canTranscode: boolean;
}

/** Makes the film under `cache`, or finds the one made before. `onMaking` is called when it takes a while. */
export async function makeFilm(cache: string, onMaking: () => void): Promise<Film> {
  const canTranscode = spawnSync("ffmpeg", ["-version"], { stdio: "ignore" }).status === 0;
  const seconds = canTranscode ? 120 : 40;
  const folder = join(cache, `${canTranscode ? "film" : "tiny-film"}-${version}`);
  const path = join(folder, "movies", filmName, `${filmName}.mp4`);
  const film = { folder, path, seconds, canTranscode };
  if (existsSync(path)) return film;
  mkdirSync(join(folder, "movies", filmName), { recursive: true });
  // Made aside and renamed: a film cut short by Ctrl-C is never taken for a whole one.
  const draft = join(folder, `draft-${process.pid}.part`);
  try {
    if (canTranscode) {
      onMaking();
      await encode(draft, seconds);
    } else copyFileSync(shipped, draft);
    renameSync(draft, path);
  } finally {
    rmSync(draft, { force: true });
  }
  return film;
}

/** testsrc2 draws a running counter and moving shapes. About 4 Mbit/s, so that there is something to carry. */
async function encode(path: string, seconds: number): Promise<void> {
  const picture = `testsrc2=size=640x360:rate=24:duration=${seconds}`;
  const sound = `sine=frequency=330:beep_factor=2:sample_rate=48000:duration=${seconds - 0.05}`;
  await run("ffmpeg", [
    ...["-v", "error", "-y", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound],
    ...["-c:v", "libx264", "-preset", "ultrafast", "-b:v", "4M", "-pix_fmt", "yuv420p", "-g", "72"],
    ...["-c:a", "aac", "-b:a", "64k", "-ac", "2", "-movflags", "+faststart", "-f", "mp4", path],
  ]);
}
