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

export const knownPlugins: readonly KnownPlugin[] = [
  {
    id: "60f478ab2dd64ea0af1004d033f75979",
    name: "Newsletters",
    where: "one",
    otherwise: "each server finds the new films itself and sends its own letter about them",
  },
  {
    id: "a84a949d4b734099aacb8341b4da17ba",
    name: "Jellyscrub",
    where: "not",
    otherwise:
      "it changes the files of each server's web client and writes its pictures beside the media from every server;" +
      " Jellyfin's own trickplay does the same without either",
  },
];

export function knownPlugin(id: string): KnownPlugin | undefined {
  return knownPlugins.find((plugin) => plugin.id === id);
}
