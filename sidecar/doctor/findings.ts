// The doctor's judgement: what is different between the servers of a cluster, and what of it somebody would
// notice. Pure. What a start looks at is judged by ../findings.ts and not repeated; here is what costs more
// questions. Each finding is one sentence: what is so, what it means for those who watch, and what cures it.

import { type Finding, findings } from "../findings.ts";
import { twinCure, twinSentence } from "../presence.ts";
import type { Examined } from "./facts.ts";
import { knownPlugin } from "./plugins.ts";

/** How many names one sentence lists. */
const listLimit = 4;
/** Clocks may be apart by so much before a group that watches together drifts, in ms. */
const clockLimitMs = 2000;

/** What stands in the way first. */
export function diagnose(examined: readonly Examined[]): readonly Finding[] {
  const facts = examined.map((server) => server.facts);
  const asked = examined.filter(({ facts: { health } }) => health === "healthy");
  const found = [
    ...findings(facts, { listensBeyondLoopback: true }),
    ...sameServer(asked),
    ...keepers(asked),
    ...sharedFolders(asked),
    ...(asked.length > 1 ? ofSeveral(asked) : []),
    ...asked.flatMap(ofOne),
  ];
  return [
    ...found.filter(({ severity }) => severity === "refuse"),
    ...found.filter(({ severity }) => severity === "warn"),
  ];
}

function ofSeveral(asked: readonly Examined[]): readonly Finding[] {
  return [
    ...libraries(asked),
    ...administrators(asked),
    ...knownProxies(asked),
    ...publishedAddresses(asked),
    ...keys(asked),
    ...plugins(asked),
    ...clocks(asked),
    ...ffmpegs(asked),
    ...tasks(asked),
  ];
}

// ---- What corrupts ----------------------------------------------------------------------------------

/** Each sidecar leaves a session at its own server; two names at one server are one server. */
function sameServer(asked: readonly Examined[]): readonly Finding[] {
  return asked.flatMap(({ facts, keepers: seen = [] }) => {
    const clusters = new Map<string, Set<string>>();
    for (const { cluster, replica } of seen) {
      clusters.set(cluster, (clusters.get(cluster) ?? new Set()).add(replica));
    }
    return [...clusters.values()]
      .filter((names) => names.size > 1)
      .map((names) => refuse(`${twinSentence([...names], facts.url)}; ${twinCure}.`));
  });
}

function keepers(asked: readonly Examined[]): readonly Finding[] {
  const clusters = new Map<string, string[]>();
  for (const { facts, keepers: seen = [] } of asked) {
    for (const cluster of new Set(seen.map((keeper) => keeper.cluster))) {
      clusters.set(cluster, [...(clusters.get(cluster) ?? []), facts.name]);
    }
  }
  if (clusters.size < 2) return [];
  const list = [...clusters].map(([cluster, names]) => `${cluster} keeps ${names.join(", ")}`);
  return [
    refuse(
      `More than one Jellybloom keeps these servers (${list.join("; ")}): each ends the other's logins, and people` +
        " are logged out again and again; stop all but one, or give all the same --redis.",
    ),
  ];
}

function sharedFolders(asked: readonly Examined[]): readonly Finding[] {
  return asked.flatMap(({ facts, transcodeFolder, encodesSeenBy }) =>
    encodesSeenBy.length === 0
      ? []
      : [
          refuse(
            `${facts.name} and ${encodesSeenBy.join(", ")} share one transcode folder (${transcodeFolder}): each` +
              " deletes what the other encodes, and films stop in the middle; give each server a folder of its own" +
              " (Dashboard, Playback, Transcode path, or its own cache volume) and restart it.",
          ),
        ],
  );
}

// ---- One server -------------------------------------------------------------------------------------

function ofOne({ facts, needsRestart, plugins: own = [], network }: Examined): readonly Finding[] {
  const { name } = facts;
  const found: Finding[] = [];
  // A plugin that was only enabled or disabled says so by itself (LocalPlugin.GetPluginInfo).
  const waiting = own.filter(({ status }) => /^restart$/i.test(status));
  if (needsRestart === true || waiting.length > 0) {
    const why = waiting.length === 0 ? "" : ` (${shortList(waiting.map(labelOf))})`;
    found.push(
      warn(
        `${name} waits for a restart before its settings or plugins${why} count: until then it behaves otherwise than` +
          ` the others may; jellybloom drain ${name}, restart it, jellybloom undrain ${name}.`,
      ),
    );
  }
  const broken = own.filter(({ status }) => /^(malfunctioned|notsupported)$/i.test(status));
  if (broken.length > 0) {
    found.push(
      warn(
        `Plugins of ${name} do not work (${shortList(broken.map(labelOf))}): what they do is missing whenever` +
          " somebody is placed there; update or remove them (Dashboard, Plugins) and restart it.",
      ),
    );
  }
  if (network?.answersDiscovery === true && network.publishedAddresses.length === 0) {
    found.push(
      warn(
        `${name} answers apps that search the network, with its own address: an app that finds it so goes past the` +
          ` door and loses its picture with the server; switch off Dashboard, Networking, Allow automatic discovery of` +
          ` ${name}, and let the door answer (--discovery).`,
      ),
    );
  }
  if (network?.usesUpnp === true) {
    found.push(
      warn(
        `${name} opens a port at the router by UPnP: people from outside would reach the server itself and not the` +
          " door; switch off Dashboard, Networking, Enable automatic port mapping.",
      ),
    );
  }
  if (network?.requiresHttps === true) {
    found.push(
      warn(
        `${name} requires HTTPS: the door's requests to it are redirected and fail; switch off Dashboard, Networking,` +
          " Require HTTPS. TLS ends in front of the door.",
      ),
    );
  }
  return found;
}

// ---- Differences ------------------------------------------------------------------------------------

function libraries(asked: readonly Examined[]): readonly Finding[] {
  const [first, ...others] = asked.filter((server) => server.libraries !== undefined);
  if (first?.libraries === undefined) return [];
  return others.flatMap((other) => [
    ...librariesMissing(first, other),
    ...librariesMissing(other, first),
    ...(first.libraries ?? []).flatMap((library) => {
      const there = other.libraries?.find(({ name }) => name === library.name);
      if (there === undefined) return [];
      const found: Finding[] = [];
      const apart =
        [...there.locations].sort().join("\n") !== [...library.locations].sort().join("\n");
      if (apart) {
        found.push(
          warn(
            `The library ${library.name} has other folders on ${nameOf(other)} (${there.locations.join(", ")}) than on` +
              ` ${nameOf(first)} (${library.locations.join(", ")}): its items have other ids there, and a film cannot go` +
              " on there when its server dies; mount the media at the same paths and set the same folders.",
          ),
        );
      } else if (library.items !== undefined && there.items !== undefined) {
        found.push(...itemsMissing(library.name, [first, library.items], [other, there.items]));
        found.push(...itemsMissing(library.name, [other, there.items], [first, library.items]));
      }
      return found;
    }),
  ]);
}

function librariesMissing(has: Examined, lacks: Examined): readonly Finding[] {
  const known = new Set(lacks.libraries?.map(({ name }) => name));
  const missing = (has.libraries ?? []).map(({ name }) => name).filter((name) => !known.has(name));
  if (missing.length === 0) return [];
  return [
    warn(
      `${nameOf(lacks)} lacks libraries of ${nameOf(has)} (${shortList(missing)}): whoever is moved there does not` +
        ` find them; jellybloom reseed ${nameOf(lacks)}, or make them there with the same names and folders.`,
    ),
  ];
}

function itemsMissing(
  library: string,
  [has, items]: readonly [Examined, ReadonlyMap<string, string>],
  [lacks, there]: readonly [Examined, ReadonlyMap<string, string>],
): readonly Finding[] {
  const missing = [...items].filter(([id]) => !there.has(id)).map(([, name]) => name);
  if (missing.length === 0) return [];
  const count = `${missing.length} ${missing.length === 1 ? "item" : "items"}`;
  return [
    warn(
      `${nameOf(lacks)} lacks ${count} of ${library} that ${nameOf(has)} has (${shortList(missing.sort())}): they` +
        ` cannot be shown or played there; look whether its media is mounted, then scan the library on` +
        ` ${nameOf(lacks)} (Dashboard, Scheduled Tasks, Scan Media Library).`,
    ),
  ];
}

/** Ids and missing users are told by the findings of a start; these are of users that both know. */
function administrators(asked: readonly Examined[]): readonly Finding[] {
  const [first, ...others] = asked.filter(({ facts }) => facts.users !== undefined);
  return others.flatMap((other) => {
    const there = new Map(other.facts.users?.map((user) => [user.id, user]));
    const apart = (first?.facts.users ?? []).filter((user) => {
      const same = there.get(user.id);
      if (same === undefined) return false;
      return same.isAdministrator !== user.isAdministrator || same.isDisabled !== user.isDisabled;
    });
    if (apart.length === 0 || first === undefined) return [];
    return [
      warn(
        `Users have other rights on ${nameOf(other)} than on ${nameOf(first)} (${shortList(apart.map(({ name }) => name))}):` +
          " what they may do changes when they are moved; set them again through the door (Dashboard, Users), or" +
          ` jellybloom reseed ${nameOf(other)}.`,
      ),
    ];
  });
}

function knownProxies(asked: readonly Examined[]): readonly Finding[] {
  return apartFrom(
    asked,
    ({ network }) => (network === undefined ? undefined : listText(network.knownProxies)),
    (list) =>
      `The servers know different proxies (${list}): on one of them a visitor may count as local who is not; set` +
      " Dashboard, Networking, Known proxies alike on all and restart them one after the other.",
  );
}

function publishedAddresses(asked: readonly Examined[]): readonly Finding[] {
  return apartFrom(
    asked,
    ({ network }) => (network === undefined ? undefined : listText(network.publishedAddresses)),
    (list) =>
      `The servers publish different addresses (${list}): apps would remember a server instead of the door; set` +
      " Dashboard, Networking, Published Server URIs on all to the door's address.",
  );
}

function ffmpegs(asked: readonly Examined[]): readonly Finding[] {
  return apartFrom(
    asked,
    ({ ffmpegVersion }) => ffmpegVersion,
    (list) =>
      `The servers encode with different versions of ffmpeg (${list}): a converted picture may stutter once when it` +
      " is moved; use the same image or package on all.",
  );
}

function apartFrom(
  asked: readonly Examined[],
  wordOf: (server: Examined) => string | undefined,
  sentence: (list: string) => string,
): readonly Finding[] {
  const known = asked.flatMap((server) => {
    const value = wordOf(server);
    return value === undefined ? [] : [{ name: nameOf(server), value }];
  });
  if (new Set(known.map(({ value }) => value)).size < 2) return [];
  return [warn(sentence(known.map(({ name, value }) => `${name} has ${value}`).join(", ")))];
}

function keys(asked: readonly Examined[]): readonly Finding[] {
  const known = asked.filter((server) => server.keys !== undefined);
  const all = new Map(
    known.flatMap((server) => server.keys ?? []).map((key) => [key.fingerprint, key]),
  );
  const found: Finding[] = [];
  for (const server of known) {
    const own = new Set(server.keys?.map(({ fingerprint }) => fingerprint));
    // Keys that each server has under the same name are pairs which the cluster keeps, one for each.
    const apps = new Set(server.keys?.map(({ app }) => app));
    const missing = [...all.values()].filter(
      ({ fingerprint, app }) => !own.has(fingerprint) && !apps.has(app),
    );
    if (missing.length === 0) continue;
    const labels = missing.map(
      ({ app, fingerprint }) => `${app === "" ? "unnamed" : app} ${fingerprint}`,
    );
    found.push(
      warn(
        `${nameOf(server)} has no API key for ${shortList(labels)}: programs with such a key work at the other servers` +
          ` only by the door's help; jellybloom reseed ${nameOf(server)}, or make the key again through the door.`,
      ),
    );
  }
  return found;
}

function plugins(asked: readonly Examined[]): readonly Finding[] {
  const known = asked.filter((server) => server.plugins !== undefined);
  const all = new Map(
    known.flatMap((server) => server.plugins ?? []).map((plugin) => [plugin.id, plugin]),
  );
  const found: Finding[] = [];
  for (const [id, { name }] of all) {
    const has = known.filter((server) => server.plugins?.some((plugin) => plugin.id === id));
    const lacks = known.filter((server) => !has.includes(server));
    const rule = knownPlugin(id);
    if (rule?.where === "one" && has.length > 1) {
      found.push(
        warn(
          `The plugin ${name} is on ${namesOf(has)} and belongs on one server only: ${rule.otherwise}; disable it on` +
            " all but one (Dashboard, Plugins) and restart those.",
        ),
      );
    } else if (rule?.where === "not") {
      found.push(
        warn(
          `The plugin ${name} (on ${namesOf(has)}) does not work with several servers: ${rule.otherwise}; disable it` +
            " (Dashboard, Plugins) and restart the server.",
        ),
      );
    } else if (lacks.length > 0 && rule?.where !== "one") {
      found.push(
        warn(
          `The plugin ${name} is on ${namesOf(has)} and not on ${namesOf(lacks)}: what it does depends on where` +
            ` somebody is placed; install it on ${namesOf(lacks)} or remove it from ${namesOf(has)}.`,
        ),
      );
    }
    const versions = has.map((server) => {
      const version = server.plugins?.find((plugin) => plugin.id === id)?.version ?? "";
      return { server, version };
    });
    if (new Set(versions.map(({ version }) => version)).size > 1) {
      const list = versions.map(({ server, version }) => `${nameOf(server)} ${version}`).join(", ");
      found.push(
        warn(
          `The plugin ${name} has different versions (${list}): it may behave otherwise when somebody is moved; update` +
            " it on all to the same.",
        ),
      );
    }
  }
  return found;
}

function clocks(asked: readonly Examined[]): readonly Finding[] {
  const known = asked.flatMap(({ facts, clock }) =>
    clock === undefined ? [] : [{ name: facts.name, ...clock }],
  );
  const [earliest, ...others] = [...known].sort((left, right) => left.aheadMs - right.aheadMs);
  const latest = others.at(-1);
  if (earliest === undefined || latest === undefined) return [];
  const apartMs = latest.aheadMs - earliest.aheadMs - latest.sureMs - earliest.sureMs;
  if (apartMs <= clockLimitMs) return [];
  return [
    warn(
      `The clock of ${latest.name} is ${Math.round(apartMs / 1000)} s ahead of that of ${earliest.name}: what was watched` +
        " last may be listed in the wrong order, and people who watch together drift apart; let both machines keep" +
        " their time by NTP.",
    ),
  ];
}

/** Only where a Jellybloom keeps them: without one each server runs its own tasks, as it should. */
function tasks(asked: readonly Examined[]): readonly Finding[] {
  const kept = asked.filter(
    ({ keepers: seen = [], tasks: own }) => seen.length > 0 && own !== undefined,
  );
  const twice = new Map<string, string[]>();
  for (const { facts, tasks: own = [] } of kept) {
    for (const task of own.filter(({ triggers }) => triggers > 0)) {
      twice.set(task.name, [...(twice.get(task.name) ?? []), facts.name]);
    }
  }
  const doubled = [...twice].filter(([, names]) => names.length > 1).map(([task]) => task);
  if (doubled.length === 0) return [];
  return [
    warn(
      `${doubled.length} scheduled ${doubled.length === 1 ? "task runs" : "tasks run"} on each of several servers by` +
        ` themselves (${shortList(doubled.sort())}): they scan and write at the same time; give the sidecars --task-data` +
        " DIR, so that the cluster has one schedule.",
    ),
  ];
}

// ---- Words ------------------------------------------------------------------------------------------

function refuse(sentence: string): Finding {
  return { severity: "refuse", sentence };
}

function warn(sentence: string): Finding {
  return { severity: "warn", sentence };
}

function nameOf({ facts }: Examined): string {
  return facts.name;
}

function namesOf(servers: readonly Examined[]): string {
  return servers.map(nameOf).join(" and ");
}

function labelOf({ name, version }: { readonly name: string; readonly version: string }): string {
  return `${name} ${version}`;
}

function listText(items: readonly string[]): string {
  return items.length === 0 ? "none" : [...items].sort().join(" and ");
}

function shortList(items: readonly string[]): string {
  const more = items.length - listLimit;
  return items.slice(0, listLimit).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
