// `jellybloom up`. Not built yet: it says so and exits with 1.

import type { Io } from "./io.ts";
import type { UpConfig } from "./options.ts";

export async function runUp(_config: UpConfig, io: Io): Promise<number> {
  io.err("jellybloom up is not built yet.\n");
  return 1;
}
