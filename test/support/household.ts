/**
 * A pair of stand-ins with users of a test's own: they are made on the first server before the second is copied from it,
 * because only then does a user have the same id on both, as with servers that were seeded.
 */
import { type StandIn, startStandIn } from "./jellyfin/start.ts";
import { until, type Viewer } from "./viewer.ts";

export type Household = {
  readonly a: StandIn;
  readonly b: StandIn;
  readonly stop: () => Promise<void>;
};

export type Person = { readonly name: string; readonly policy?: Record<string, unknown> };

/**
 * @param people each with a password that is their name. @param beforeCloning what else is done on the first server
 * alone, such as a login of the day before.
 */
export async function startHousehold(options: {
  readonly mediaDir: string;
  readonly people?: readonly Person[];
  readonly beforeCloning?: (a: StandIn) => Promise<void>;
}): Promise<Household> {
  const { mediaDir, people = [], beforeCloning } = options;
  const a = await startStandIn({ name: "a", mediaDir });
  for (const { name, policy } of people) {
    const made = await withKey(a, "POST", "/Users/New", { Name: name, Password: name });
    const user = (await made.json()) as { Id: string; Policy: Record<string, unknown> };
    if (policy !== undefined) {
      await withKey(a, "POST", `/Users/${user.Id}/Policy`, { ...user.Policy, ...policy });
    }
  }
  await beforeCloning?.(a);
  const b = await startStandIn({ name: "b", mediaDir, cloneOf: a });
  return {
    a,
    b,
    stop: async () => {
      await Promise.all([a.stop(), b.stop()]);
    },
  };
}

/** Asks a server, or a door, with the API key of a stand-in. */
export async function withKey(
  standIn: Pick<StandIn, "url" | "apiKey">,
  method: string,
  path: string,
  body?: unknown,
): Promise<Response> {
  const reply = await fetch(standIn.url + path, {
    method,
    headers: {
      authorization: `MediaBrowser Token="${standIn.apiKey}"`,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    body: body === undefined ? null : JSON.stringify(body),
  });
  if (!reply.ok) throw new Error(`${method} ${path} answered ${reply.status}`);
  return reply;
}

/** What this server, asked without any door, says to a token: the status of `/Users/Me`. */
export async function statusOfToken(url: string, token: string): Promise<number> {
  const reply = await fetch(`${url}/Users/Me`, {
    headers: { authorization: `MediaBrowser Token="${token}"` },
  });
  await reply.arrayBuffer();
  return reply.status;
}

/** The token that this server itself has for a viewer's device. */
export async function tokenAt(standIn: StandIn, viewer: Viewer): Promise<string> {
  const { tokens } = await standIn.state();
  const own = tokens.find(({ deviceId }) => deviceId === viewer.deviceId);
  if (own === undefined) throw new Error(`${standIn.name} has no token of this device`);
  return own.token;
}

type Door = { readonly admin: string };

/** Waits until the door counts so many replicas as ready. */
export async function doorSees(door: Door, readyReplicas: number, limitMs = 10_000): Promise<void> {
  await until(limitMs, `${readyReplicas} replicas that are ready for the door`, async () => {
    const ready = await said(door, /^jellybloom_replica_state\{.*state="ready".*\} 1$/gm);
    return ready === readyReplicas;
  });
}

/** Waits until the door counts so many replicas as ready, and sends people to all of them: none has to catch up. */
export async function doorUses(door: Door, replicas: number, limitMs = 10_000): Promise<void> {
  await doorSees(door, replicas, limitMs);
  await until(limitMs, "none that has to catch up", async () => {
    return (await said(door, /^jellybloom_replica_behind\{.*\} 1$/gm)) === 0;
  });
}

/** How many lines of a door's metrics say this. */
async function said({ admin }: Door, line: RegExp): Promise<number> {
  const text = await (await fetch(`${admin}/metrics`)).text();
  return text.match(line)?.length ?? 0;
}
