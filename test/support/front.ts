/**
 * What most files of test/cluster begin with: two stand-ins with the film behind one door, all three processes of their
 * own, for as long as the file's tests run.
 */
import { afterAll } from "vitest";
import { type DoorProcess, startDoor } from "./door.ts";
import { doorUses } from "./household.ts";
import { type StandIn, startPair } from "./jellyfin/start.ts";
import { makeMedia } from "./media.ts";

/** Starts them; they are ended after the last test of the file that asks. */
export async function pairBehindDoor(): Promise<{
  readonly pair: Awaited<ReturnType<typeof startPair>>;
  readonly door: DoorProcess;
}> {
  const media = await makeMedia();
  const pair = await startPair({ mediaDir: media.folder });
  const door = await startDoor({ replicas: [pair.a, pair.b], apiKey: pair.a.apiKey });
  afterAll(async () => {
    await door.stop();
    await pair.stop();
  });
  return { pair, door };
}

/** Whatever a test has done to them: both servers run, nothing staged is left, and these doors use both. */
export async function bothThere(
  { a, b }: { readonly a: StandIn; readonly b: StandIn },
  ...doors: readonly { readonly admin: string }[]
): Promise<void> {
  for (const server of [a, b]) {
    if (server.running) server.thaw();
    else await server.launch();
    await server.ready();
    await server.control("clear");
  }
  for (const door of doors) await doorUses(door, 2);
}
