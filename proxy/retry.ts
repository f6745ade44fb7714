// What follows an attempt: nothing, another replica, a wait, the refusal itself, or the end of the
// connection. One pure function, built on what the replica may have seen (design, rules 4, 5 and 10).
// It is the only place that decides to send a request again.

import type { ReplicaState } from "../core/cluster/replica.ts";
import type { AnswerRule, Repeatable } from "../core/jellyfin/routes.ts";

/** How one attempt went. */
export type Outcome =
  | { readonly kind: "completed"; readonly status: number }
  | { readonly kind: "clientLeft" }
  /** No connection: the replica has seen nothing. */
  | { readonly kind: "notConnected"; readonly why: string }
  /** The request was sent and nothing came back: it may have been carried out, or may yet be. */
  | { readonly kind: "brokeBeforeReply"; readonly why: string }
  /** Bytes of an answer came; `sent` tells whether the client has seen any of it. */
  | { readonly kind: "brokeDuringReply"; readonly why: string; readonly sent: boolean }
  /** A whole answer that may be one replica's own opinion: 401, 403, 404, 500, 503. It is kept in hand. */
  | { readonly kind: "refused"; readonly status: number }
  /** The replica was found frozen while we waited for the first byte. */
  | { readonly kind: "timedOut"; readonly why: string };

export interface AttemptFacts {
  readonly repeatable: Repeatable;
  readonly answer: AnswerRule;
  /** What it does dies with its server. */
  readonly diesWithServer: boolean;
  /** Its change is in the journal: what a server did of it before it broke off is overwritten when that is back. */
  readonly isJournalled: boolean;
  /** A token was shown and the cluster knows it as a current one. */
  readonly tokenKnown: boolean;
  readonly isSocket: boolean;
  /** How the replica that was asked looks now. */
  readonly replicaState: ReplicaState | undefined;
  /** Ready replicas not asked yet for this request. */
  readonly replicasLeft: number;
  /** Refusals with this very status so far, this one included. */
  readonly sameRefusals: number;
  /** Attempts so far, this one included. */
  readonly attempts: number;
  readonly attemptsLimit: number;
}

export type Next =
  | { readonly next: "done" }
  /** Another replica, at once. */
  | { readonly next: "elsewhere"; readonly why: string }
  /** Any replica that can be had, after something has changed; the caller's time limit ends the wait. */
  | { readonly next: "hold"; readonly why: string }
  /** The refusal in hand is the cluster's answer. */
  | { readonly next: "show"; readonly why: string }
  /** No answer can be given that is true: the connection is closed. */
  | { readonly next: "cut"; readonly why: string };

const done: Next = { next: "done" };

export function decideNext(outcome: Outcome, facts: AttemptFacts): Next {
  switch (outcome.kind) {
    case "completed":
    case "clientLeft":
      return done;
    case "notConnected":
      return again(facts, outcome.why);
    case "brokeBeforeReply":
    case "timedOut":
      return mayBeSentAgain(facts)
        ? again(facts, outcome.why)
        : {
            next: "cut",
            why: `${outcome.why}; it may have been carried out and cannot be repeated`,
          };
    case "brokeDuringReply":
      if (outcome.sent) return { next: "cut", why: `${outcome.why}, in the middle of the answer` };
      return mayBeSentAgain(facts)
        ? again(facts, outcome.why)
        : { next: "cut", why: `${outcome.why}; it was carried out and cannot be repeated` };
    case "refused":
      return afterRefusal(outcome.status, facts);
  }
}

function again(facts: AttemptFacts, why: string): Next {
  if (facts.attempts >= facts.attemptsLimit) {
    return { next: "cut", why: `${why}, after ${facts.attempts} attempts` };
  }
  return facts.replicasLeft > 0 ? { next: "elsewhere", why } : { next: "hold", why };
}

/**
 * A request that reached a replica may go to another one when doing it twice is harmless, or when what it
 * did has certainly died with its server. A frozen server carries its backlog out when it thaws. One that the journal
 * knows may go to another, but does not wait for the same one.
 */
function mayBeSentAgain(facts: AttemptFacts): boolean {
  if (facts.repeatable === "yes") return true;
  if (facts.isJournalled && facts.replicasLeft > 0) return true;
  return facts.diesWithServer && facts.replicaState === "dead";
}

function afterRefusal(status: number, facts: AttemptFacts): Next {
  const elsewhere = facts.replicasLeft > 0;
  switch (status) {
    case 401:
    case 403: {
      // 403 is a word about the user's rights, except on a socket, where it is how Jellyfin says «unknown
      // token» (ExceptionMiddleware maps SecurityException to 403).
      if (status === 403 && !facts.isSocket) return { next: "show", why: "403 is about rights" };
      if (facts.answer === "final") return { next: "show", why: "this route's answers are final" };
      // A token nobody knew was shown to every ready replica before (logins.ts): it is not held.
      if (!facts.tokenKnown) return { next: "show", why: "no token that is current was shown" };
      // A refused request had no effect, so it may go elsewhere whatever it is.
      return elsewhere
        ? { next: "elsewhere", why: `${status} for a token that the cluster knows` }
        : { next: "show", why: "every ready replica refuses the token" };
    }
    case 404:
      if (facts.answer !== "doubt404")
        return { next: "show", why: "404 is this route's own answer" };
      return elsewhere
        ? { next: "elsewhere", why: "it may be something only another replica has" }
        : { next: "show", why: "no ready replica has it" };
    case 503:
      // While a server starts or stops it answers 503 to everything, before anything is carried out.
      return again(facts, "503 while the server starts or stops");
    default:
      // 500: tried once elsewhere if it may be repeated; the same answer twice is the answer.
      if (facts.sameRefusals >= 2) return { next: "show", why: `two replicas answered ${status}` };
      if (facts.repeatable !== "yes") return { next: "show", why: `${status}, and not repeatable` };
      return elsewhere
        ? { next: "elsewhere", why: `${status} may be this replica's own` }
        : { next: "show", why: `${status}, and no other replica is ready` };
  }
}
