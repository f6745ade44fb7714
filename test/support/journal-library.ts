/** A library of files without pictures or sound, of which a stand-in says that each is ten minutes long. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export function makeLibrary(
  folder: string,
  { films, episodes }: { readonly films: number; readonly episodes: number },
): void {
  mkdirSync(join(folder, "movies"), { recursive: true });
  for (let film = 1; film <= films; film++) {
    writeFileSync(join(folder, "movies", `Film ${film}.bin`), `film ${film}`);
  }
  const season = join(folder, "tv", "Show", "Season 01");
  mkdirSync(season, { recursive: true });
  for (let episode = 1; episode <= episodes; episode++) {
    const name = `Show S01E${String(episode).padStart(2, "0")}.bin`;
    writeFileSync(join(season, name), `episode ${episode}`);
  }
}
