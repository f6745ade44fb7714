// A member is a replica as its sidecar announces it in the registry. Its proof is a MAC with the cluster
// key over everything the sidecar says, so that whoever can write the store cannot invite a false server
// to which the door would then send people's tokens (design rule 11).

import type { Member } from "../store/store.ts";

/** What is announced, without the proof and without the store's own time. */
export type MemberFacts = Omit<Member, "atMs" | "proof">;

/** The two verbs of the seal (core/service/seal.ts) that are needed here. */
export interface MemberSeal {
  mac(...parts: readonly string[]): string;
  verifyMac(mac: string, ...parts: readonly string[]): boolean;
}

function partsOf(facts: MemberFacts): string[] {
  return [
    "member",
    facts.replica,
    facts.url,
    facts.sidecarUrl,
    facts.serverId,
    facts.serverVersion,
    facts.bootNonce,
  ];
}

/** The announcement with its proof, ready for `touchMember`. */
export function proveMember(seal: MemberSeal, facts: MemberFacts): Omit<Member, "atMs"> {
  return { ...facts, proof: seal.mac(...partsOf(facts)) };
}

/** True when a process with the cluster key announced exactly this. A member without it is ignored. */
export function verifyMember(seal: MemberSeal, member: Member): boolean {
  return seal.verifyMac(member.proof, ...partsOf(member));
}
