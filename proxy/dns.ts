// DNS discovery: the replicas behind a name, such as a headless service of Kubernetes. Two forms:
//
//   dns:jellyfin.media.svc:8096          every address of the name (A and AAAA), at this port
//   dns:_http._tcp.jellyfin.media.svc    SRV records, which also tell the port and the pod's own name
//
// A replica needs a name that is the same at every door. SRV gives the pod's (`jellyfin-0`); an address has
// only itself, so it is called after that (`10-0-0-5`). A sidecar that announces the same address names it
// better, and its word is taken (roster.ts). It promises that a resolver which fails changes nothing.

import { lookup, type Resolver } from "node:dns/promises";
import type { ReplicaConfig } from "../core/cluster/replica.ts";

export interface DnsName {
  readonly name: string;
  /** 0: the records tell it. */
  readonly port: number;
}

/** How often a name is asked for, in ms: about what headless services are cached for. */
export const dnsIntervalMs = 5000;
const addressesLimit = 64;

/**
 * The replicas that DNS names now. Rejects with the resolver's error.
 * `basePath` is Jellyfin's BaseUrl, which DNS cannot tell.
 */
export async function findByDns(
  { name, port }: DnsName,
  basePath: string,
  resolver: Pick<Resolver, "resolveSrv">,
): Promise<ReplicaConfig[]> {
  if (name.startsWith("_")) {
    const records = await resolver.resolveSrv(name);
    return records.slice(0, addressesLimit).flatMap((record) => {
      const host = record.name.replace(/\.$/, "");
      const own = nameOf(host.split(".")[0] ?? "");
      const origin = originOf(host, port === 0 ? record.port : port);
      return own === undefined || origin === undefined ? [] : [{ name: own, origin, basePath }];
    });
  }
  const addresses = await lookup(name, { all: true, order: "verbatim" });
  return addresses.slice(0, addressesLimit).flatMap(({ address, family }) => {
    const own = nameOf(address.replaceAll(/[.:]+/g, "-"));
    const origin = originOf(family === 6 ? `[${address}]` : address, port);
    return own === undefined || origin === undefined ? [] : [{ name: own, origin, basePath }];
  });
}

/** What may be a replica's name; undefined for anything else a resolver says. */
function nameOf(text: string): string | undefined {
  const name = text.replace(/^-+/, "").slice(0, 63);
  return /^[A-Za-z0-9_-]{1,63}$/.test(name) ? name : undefined;
}

function originOf(host: string, port: number): string | undefined {
  const url = `http://${host}:${port}`;
  return URL.canParse(url) ? new URL(url).origin : undefined;
}
