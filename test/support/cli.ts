/** Runs a command of `jellybloom` inside the test's process, as its owner would type it, and tells what it said. */
import { main } from "../../cli/main.ts";

export async function runCli(
  argv: readonly string[],
  { onLine = () => undefined }: { readonly onLine?: (line: string) => unknown } = {},
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  let out = "";
  let err = "";
  const code = await main(argv, {
    out: (text) => {
      out += text;
      onLine(text);
    },
    err: (text) => {
      err += text;
    },
    env: {},
  });
  return { code, out, err };
}
