// What in a server's documents is its own and stays as it is when a document is carried to another server: paths,
// ports, names, hardware. One table says which keys and why; everything that is not in it is the same on every
// server. Pure: values in, values out.
//
// Jellyfin's documents are posted whole (ConfigurationController, UserController): what a post leaves out becomes a
// default. So a document that goes to another server is that server's own values put into the whole of the new one.

export type Fields = Readonly<Record<string, unknown>>;

/** One value, by its document and its key (with a dot where it lies in an object), and why it is left alone. */
export interface PerServerKey {
  readonly document: string;
  readonly key: string;
  readonly why: string;
}

const folder = "a folder of this server";
const hardware = "hardware of this server";
const address = "an address of this server";
const power = "how much this machine can do";
const history = "what happened on this server";

const rows = (document: string, keys: Readonly<Record<string, string>>): readonly PerServerKey[] =>
  Object.entries(keys).map(([key, why]) => ({ document, key, why }));

/**
 * The table. Documents are called as in `/System/Configuration/{key}`; `system` is `/System/Configuration` itself,
 * `libraryOptions` those of any library.
 */
export const perServerTable: readonly PerServerKey[] = [
  ...rows("system", {
    CachePath: folder,
    MetadataPath: folder,
    ServerName: "the server's name, by which its owner tells it from the others",
    PreviousVersion: history,
    PreviousVersionStr: history,
    IsPortAuthorized: history,
    IsStartupWizardCompleted: history,
    EnableMetrics: "who collects this server's metrics is its owner's affair",
    LogFileRetentionDays: "how much room there is for this server's log",
    CacheSize: power,
    ImageExtractionTimeoutMs: power,
    ParallelImageEncodingLimit: power,
    LibraryScanFanoutConcurrency: power,
    LibraryMetadataRefreshConcurrency: power,
    QuickConnectAvailable: "logins are carried to every server by QuickConnect, so it stays on",
    "TrickplayOptions.EnableHwAcceleration": hardware,
    "TrickplayOptions.EnableHwEncoding": hardware,
    "TrickplayOptions.ProcessPriority": power,
    "TrickplayOptions.ProcessThreads": power,
  }),
  ...rows("network", {
    BaseUrl: "doors are told the base path of each server at their start",
    EnableHttps: "TLS ends in front of the door",
    RequireHttps: "TLS ends in front of the door",
    CertificatePath: "a certificate of this server",
    CertificatePassword: "a certificate of this server",
    InternalHttpPort: address,
    InternalHttpsPort: address,
    PublicHttpPort: address,
    PublicHttpsPort: address,
    AutoDiscovery: "clients must find the door and not this server",
    EnableUPnP: "clients must find the door and not this server",
    EnableIPv4: address,
    EnableIPv6: address,
    LocalNetworkAddresses: address,
    KnownProxies: "the addresses from which doors reach this server",
    IgnoreVirtualInterfaces: address,
    VirtualInterfaceNames: address,
    EnablePublishedServerUriByRequest: address,
    PublishedServerUriBySubnet: address,
  }),
  ...rows("encoding", {
    EncodingThreadCount: power,
    TranscodingTempPath: folder,
    FallbackFontPath: folder,
    EncoderAppPath: "a program on this server",
    EncoderAppPathDisplay: "a program on this server",
    HardwareAccelerationType: hardware,
    VaapiDevice: hardware,
    QsvDevice: hardware,
    EnableTonemapping: hardware,
    EnableVppTonemapping: hardware,
    EnableVideoToolboxTonemapping: hardware,
    EnableDecodingColorDepth10Hevc: hardware,
    EnableDecodingColorDepth10Vp9: hardware,
    EnableDecodingColorDepth10HevcRext: hardware,
    EnableDecodingColorDepth12HevcRext: hardware,
    EnableEnhancedNvdecDecoder: hardware,
    PreferSystemNativeHwDecoder: hardware,
    EnableIntelLowPowerH264HwEncoder: hardware,
    EnableIntelLowPowerHevcHwEncoder: hardware,
    EnableHardwareEncoding: hardware,
    HardwareDecodingCodecs: hardware,
  }),
  ...rows("branding", {
    SplashscreenLocation: "a file of this server; the picture itself is carried",
  }),
  ...rows("livetv", { MediaLocationsCreated: history }),
  ...rows("libraryOptions", {
    EnableRealtimeMonitor: "one server watches the folders and tells the others",
    PathInfos:
      "folders of a library come and go by routes of their own, and some lie in this server's data",
  }),
];

/** Documents that are a server's own as a whole, and why. */
export const perServerDocuments: Readonly<Record<string, string>> = {
  database: "which database this server has",
};

const keysByDocument = new Map<string, readonly string[]>(
  [...new Set(perServerTable.map(({ document }) => document))].map((document) => [
    document,
    perServerTable.filter((row) => row.document === document).map(({ key }) => key),
  ]),
);

/**
 * Keys of a document, with a dot where one lies in an object, that belong to the server as it is installed: it keeps
 * them when its data become a copy of another server's. What happened on a server is told by the data that came.
 */
export function installationKeys(document: string): readonly string[] {
  return perServerTable
    .filter((row) => row.document === document && row.why !== history)
    .map(({ key }) => key);
}

/**
 * The document as this server is to have it: everything `wanted` says, in the spelling of `local` where letter case
 * differs, and the server's own values left as they are. A value that is this server's own and that it does not
 * have is left out.
 */
export function merged(document: string, wanted: Fields, local: Fields): Fields {
  const result = spelledLike(wanted, local);
  for (const key of keysByDocument.get(document) ?? []) leaveAlone(result, local, key.split("."));
  return result;
}

/** Whether a server that has `local` is given nothing new by `wanted`: it says the same in every key. */
export function saysNothingNew(wanted: Fields, local: Fields): boolean {
  return Object.entries(wanted).every(([key, value]) => isSame(value, local[key]));
}

/** Equal as JSON, in any order of keys; an absent value and null are one. */
export function isSame(left: unknown, right: unknown): boolean {
  if (left === right) return true;
  if (left === undefined || left === null) return right === undefined || right === null;
  if (Array.isArray(left)) {
    return (
      Array.isArray(right) &&
      left.length === right.length &&
      left.every((value, index) => isSame(value, right[index]))
    );
  }
  if (!isRecord(left) || !isRecord(right)) return false;
  const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
  return [...keys].every((key) => isSame(left[key], right[key]));
}

/** System.Text.Json minds no letter case, as Jellyfin sets it up (JsonDefaults); a comparison does. */
function spelledLike(wanted: Fields, local: Fields): Record<string, unknown> {
  const spelling = new Map(Object.keys(local).map((key) => [key.toLowerCase(), key]));
  const result: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(wanted)) {
    const name = spelling.get(key.toLowerCase()) ?? key;
    const known = local[name];
    result[name] = isRecord(value) && isRecord(known) ? spelledLike(value, known) : value;
  }
  return result;
}

function leaveAlone(result: Record<string, unknown>, local: Fields, path: readonly string[]): void {
  const [first = "", ...rest] = path;
  // A server that has nothing of this name yet was not asked: the spelling of the request counts then.
  const name =
    first in local ? first : (Object.keys(result).find((key) => same(key, first)) ?? first);
  if (rest.length > 0) {
    const inner = result[name];
    if (!isRecord(inner)) return;
    const copy = { ...inner };
    const own = local[name];
    leaveAlone(copy, isRecord(own) ? own : {}, rest);
    result[name] = copy;
    return;
  }
  if (local[name] === undefined) delete result[name];
  else result[name] = local[name];
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function same(left: string, right: string): boolean {
  return left.toLowerCase() === right.toLowerCase();
}
