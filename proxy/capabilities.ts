// What devices can do, kept beyond this process: a door that was restarted, or another door, can tell a
// server that a device lands at what it has told another server through a door that is no more.
//
// It promises: a note is written when a device says something else than before, or is heard elsewhere, or the
// note would end soon; no request waits for it; what a note says is sent as the device it is about and never
// as anybody else.

import { capabilitiesNoteValue, heardBy, readCapabilities } from "../core/cluster/capabilities.ts";
import type { Identity } from "../core/cluster/identity.ts";
import type { Memory } from "../core/cluster/memory.ts";
import type { JellyfinClient } from "../core/jellyfin/client.ts";
import type { Log } from "../core/service/log.ts";
import { type Store, StoreUnavailable } from "../core/store/store.ts";
import type { RequestFacts } from "./facts.ts";

export interface CapabilityNotesParts {
  readonly store: Pick<Store, "putNote" | "dropNotes">;
  readonly memory: Memory;
  readonly log: Pick<Log, "warn" | "error">;
  readonly clientOf: (replica: string) => JellyfinClient | undefined;
}

/** A device that nobody has used for this long says it anew. */
const noteTtlMs = 30 * 24 * 3_600_000;

export class CapabilityNotes {
  readonly #parts: CapabilityNotesParts;
  #isRefused = false;

  constructor(parts: CapabilityNotesParts) {
    this.#parts = parts;
  }

  /** A replica has taken what this device says of itself. */
  said(identityKey: string, replica: string, facts: RequestFacts, body: string | undefined): void {
    const value = capabilitiesNoteValue(facts.route.pattern, facts.rawQuery, body, replica);
    if (value !== undefined) this.#keep(identityKey, value);
  }

  /** Another replica has been told the same. */
  heard(identityKey: string, replica: string): void {
    const note = this.#parts.memory.note("capabilities", identityKey);
    const value = note === undefined ? undefined : heardBy(note.value, replica);
    if (value !== undefined) this.#keep(identityKey, value);
  }

  /** True when the device has said something, and that replica is not who heard it last. */
  isNewTo(identityKey: string, replica: string): boolean {
    const known = this.#read(identityKey);
    return known !== undefined && known.replica !== replica;
  }

  /** Tells a replica what the note says. Whether it worked is the replica's affair. */
  async tell(identity: Identity, replica: string): Promise<void> {
    const known = this.#read(identity.key);
    const client = this.#parts.clientOf(replica);
    const token = this.#parts.memory.openToken(identity, replica);
    if (known === undefined || client === undefined || token === undefined) return;
    const { client: app, device, deviceId, version } = identity;
    const { path, body } = known.request;
    const fields = { client: app, device, deviceId, version };
    const answer = await client.callAs(token, fields, "POST", path, body);
    if (answer.outcome === "answered" && answer.status < 300) this.heard(identity.key, replica);
  }

  /** The device has logged out. */
  drop(identityKey: string): void {
    const { memory, store } = this.#parts;
    const note = memory.note("capabilities", identityKey);
    if (note === undefined) return;
    memory.apply({ type: "note", note: { ...note, value: "", expiresAtMs: 0 } });
    this.#inBackground(store.dropNotes({ kind: "capabilities", id: identityKey }));
  }

  #read(identityKey: string): ReturnType<typeof readCapabilities> {
    const note = this.#parts.memory.note("capabilities", identityKey);
    if (note === undefined) return undefined;
    const known = readCapabilities(note.value);
    if (known === undefined) {
      this.#parts.log.warn("a note of a device's capabilities is not one in shape: ignored");
    }
    return known;
  }

  #keep(id: string, value: string): void {
    const { memory, store } = this.#parts;
    const known = memory.note("capabilities", id);
    const nowMs = memory.storeNowMs();
    if (known?.value === value && known.expiresAtMs - nowMs > noteTtlMs / 2) return;
    const note = { kind: "capabilities", id, replica: "", value } as const;
    memory.apply({ type: "note", note: { ...note, expiresAtMs: nowMs + noteTtlMs } });
    this.#inBackground(store.putNote(note, noteTtlMs));
  }

  #inBackground(deed: Promise<unknown>): void {
    const { memory, log } = this.#parts;
    deed.then(
      () => {
        this.#isRefused = false;
      },
      (error: unknown) => {
        // While the store is away this is remembered here, and written with the next change.
        if (error instanceof StoreUnavailable) memory.noteStoreFailure(error);
        else if (!(error instanceof RangeError)) {
          log.error({ err: error }, "a device's capabilities could not be written down");
        } else if (!this.#isRefused) {
          this.#isRefused = true;
          log.warn(`a device's capabilities are not written down: ${error.message}`);
        }
      },
    );
  }
}
