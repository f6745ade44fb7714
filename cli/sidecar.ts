// `jellybloom sidecar`. Not built yet: it says so and exits with 1.

import type { Io } from "./io.ts";
import type { SidecarConfig } from "./options.ts";

export async function runSidecar(_config: SidecarConfig, io: Io): Promise<number> {
  io.err("jellybloom sidecar is not built yet.\n");
  return 1;
}
