// `jellybloom proxy`. Not built yet: it says so and exits with 1.

import type { Io } from "./io.ts";
import type { ProxyConfig } from "./options.ts";

export async function runProxy(_config: ProxyConfig, io: Io): Promise<number> {
  io.err("jellybloom proxy is not built yet.\n");
  return 1;
}
