// A call through a gate, as the door that makes it and the gate that judges it have to agree on it: where the
// gate is, which headers carry the epoch and the proof, what the proof covers, and what the gate's own answers
// are called. Pure.

import type { Epoch } from "../store/store.ts";

/** Where the gate of a replica is below the address of its sidecar, or of the admin port of `up`. */
export function gatePrefix(replica: string): string {
  return `/jellybloom/gate/${replica}`;
}

/** Carries the epoch of the lease as the door knows it: `12 owner`. */
export const epochHeaderName = "x-jellybloom-epoch";

/** On every answer that came by a gate: what the gate made of the call. Without it no gate was there. */
export const gateHeaderName = "x-jellybloom-gate";

/**
 * - `proof`     403: no proof of the cluster key, or one that was used before
 * - `malformed` 400: the call says no epoch, or its body broke off
 * - `tooLarge`  413
 * - `epoch`     409: another epoch counts, or this replica does not lead: nothing was done
 * - `notGated`  404: no route of the gate
 * - `unsent`    502: the server could not be connected to: nothing was done
 * - `broke`     502: the server did not answer: it may have been done
 * - `answer`    the gate's own answer to the caller, from the cluster's tasks or life
 * - `passed`    the answer of the leader's server
 */
export type GateVerdict =
  | "proof"
  | "malformed"
  | "tooLarge"
  | "epoch"
  | "notGated"
  | "unsent"
  | "broke"
  | "answer"
  | "passed";

/** What the proof is made over: the request line's path and the epoch, so that neither can be changed. */
export function provenPath(path: string, epochHeader: string): string {
  return `${path}\n${epochHeader}`;
}

export function epochHeader({ number, owner }: Epoch): string {
  return `${number} ${owner}`;
}

/** Undefined for what is no epoch. */
export function readEpochHeader(text: string | undefined): Epoch | undefined {
  const [, digits, owner] = /^(\d{1,15}) ([\w.:/-]{1,200})$/.exec(text ?? "") ?? [];
  return digits === undefined || owner === undefined
    ? undefined
    : { number: Number(digits), owner };
}
