// Reads the Lua scripts: one file for each transition, named `<verb>-<number of keys>.lua`. What several
// scripts need lies in `includes/` and is put in where a line says `--- @include "name"`, so that Redis
// is given one whole text and each rule is written once.

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export interface Script {
  readonly lua: string;
  readonly numberOfKeys: number;
}

export const scriptsFolder = fileURLToPath(new URL("./scripts/", import.meta.url));

/** All scripts by verb. Throws when a file has no key count in its name or an include is missing. */
export function loadScripts(folder: string = scriptsFolder): Record<string, Script> {
  const scripts: Record<string, Script> = {};
  for (const file of readdirSync(folder).sort()) {
    if (!file.endsWith(".lua")) continue;
    const [, verb, count] = /^([a-zA-Z]+)-(\d+)\.lua$/.exec(file) ?? [];
    if (verb === undefined) throw new Error(`${file} is not named <verb>-<number of keys>.lua`);
    const text = readFileSync(`${folder}/${file}`, "utf8");
    const lua = text.replaceAll(/^--- @include "([a-zA-Z]+)"$/gm, (_line, name: string) =>
      readFileSync(`${folder}/includes/${name}.lua`, "utf8").trimEnd(),
    );
    scripts[verb] = { lua, numberOfKeys: Number(count) };
  }
  return scripts;
}
