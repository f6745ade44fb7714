// Plugins of which it is known how they behave when several servers run them (docs/plugins.md tells why).
// Ids are those of the plugins' own sources, in Jellyfin's plain form.

export interface KnownPlugin {
  readonly id: string;
  readonly name: string;
  /** `one`: on one server only; `not`: not together with Jellybloom. */
  readonly where: "every" | "one" | "not";
  /** What happens otherwise, as half a sentence. */
  readonly otherwise: string;
}

export const knownPlugins: readonly KnownPlugin[] = [];

export function knownPlugin(id: string): KnownPlugin | undefined {
  return knownPlugins.find((plugin) => plugin.id === id);
}
