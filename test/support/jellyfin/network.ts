/**
 * From which address a request really comes, and what that address may do. ASP.NET's forwarded-headers middleware walks
 * X-Forwarded-For from the right for as long as the nearest hop is a known proxy; with no known proxy it ignores the
 * header altogether (Jellyfin.Server/Extensions/ApiServiceCollectionExtensions.cs). Loopback counts as known as soon as
 * any proxy is.
 */
import { BlockList, isIP, isIPv4 } from "node:net";

function plainAddress(address: string): string {
  return address.startsWith("::ffff:") ? address.slice(7) : address;
}

function blockList(entries: readonly string[]): BlockList {
  const list = new BlockList();
  for (const entry of entries) {
    const [address = "", bits] = entry.split("/");
    if (isIP(address) === 0) continue;
    const family = isIPv4(address) ? "ipv4" : "ipv6";
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  return list;
}

function contains(list: BlockList, address: string): boolean {
  return isIP(address) !== 0 && list.check(address, isIPv4(address) ? "ipv4" : "ipv6");
}

const LOCAL = blockList([
  "127.0.0.0/8",
  "10.0.0.0/8",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "169.254.0.0/16",
  "::1",
  "fc00::/7",
  "fe80::/10",
]);

/** Whether Jellyfin counts the address as its own network, where no subnet is configured. */
export function isInLocalNetwork(address: string): boolean {
  return contains(LOCAL, address);
}

export class ForwardedFor {
  readonly #known: BlockList | undefined;

  /** @param knownProxies addresses and subnets of `NetworkConfiguration.KnownProxies`; read at the start only. */
  constructor(knownProxies: readonly string[]) {
    this.#known =
      knownProxies.length === 0 ? undefined : blockList([...knownProxies, "127.0.0.0/8", "::1"]);
  }

  /** The address the server takes for the client's. */
  addressOf(peer: string, header: string | string[] | undefined): string {
    let address = plainAddress(peer);
    if (this.#known === undefined || header === undefined) return address;
    const hops = (Array.isArray(header) ? header.join(",") : header).split(",");
    for (const hop of hops.reverse()) {
      if (!contains(this.#known, address)) break;
      const next = withoutPort(hop.trim());
      if (isIP(next) === 0) break;
      address = plainAddress(next);
    }
    return address;
  }
}

function withoutPort(text: string): string {
  const bracket = /^\[(.+)\](?::\d+)?$/.exec(text);
  if (bracket?.[1] !== undefined) return bracket[1];
  return /^\d+\.\d+\.\d+\.\d+:\d+$/.test(text) ? text.slice(0, text.lastIndexOf(":")) : text;
}
