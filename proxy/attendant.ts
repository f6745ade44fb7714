// Attendants: what the door does for routes that one server's own memory could not answer for a cluster:
// sessions as a union, QuickConnect codes that outlive their server, SyncPlay groups, plays, television,
// tasks. The door's one loop carries requests; an attendant is asked at fixed places in it, so that each
// of these lives in a file of its own and none of them changes the loop.
//
// It promises the loop that an attendant never throws for anything the world can do, waits only within the
// request's own time, and is never asked about a route that it did not name.

import type { Identity } from "../core/cluster/identity.ts";
import type { Route } from "../core/jellyfin/routes.ts";
import type { HeldReply } from "./client.ts";
import type { RequestFacts } from "./facts.ts";

/** A request as an attendant sees it. */
export interface Attended {
  readonly facts: RequestFacts;
  /** Who asks, as far as the cluster knows by now. */
  readonly identity: Identity | undefined;
  /** As the client sent them: name, value, name, value … */
  readonly rawHeaders: readonly string[];
  /** The body where it was small enough to keep; undefined when there is none. */
  readonly body: Buffer | undefined;
  /** The body as text; undefined when it is not at hand. */
  readonly bodyText: string | undefined;
  /** When the request's time is up, in ms of the monotonic clock. */
  readonly deadlineMs: number;
  /** The client has gone away. */
  readonly hasLeft: boolean;
  /** Replicas that this request has had its answer or its failure from. */
  readonly tried: ReadonlySet<string>;
  /** Replicas that failed since something last changed. */
  readonly failed: ReadonlySet<string>;
  /** Replicas whose own refusal this request has had. */
  readonly refusedBy: ReadonlySet<string>;
  /** How often each status was such a refusal. */
  readonly refusals: ReadonlyMap<number, number>;
  /** The replica that an attendant has passed the request to itself, whose answer is given as the door's own. */
  passedTo?: string;
}

/** The replica whose memory a request is bound to, with what binds it, for the reason. */
export interface Bound {
  readonly replica: string;
  readonly kind: string;
  /** No other may do it: the request waits within its time; empty, there is nobody now who may. */
  readonly isOnly?: boolean;
}

/** What takes the place of a request's path, query or body on its way to one replica. */
export interface Rewritten {
  /** Undefined: as it was. */
  readonly path?: string;
  readonly rawQuery?: string;
  readonly body?: Buffer;
}

/** An answer to a request that broke off. */
export interface Rescued {
  readonly reply: HeldReply;
  readonly replica: string;
}

export interface Attendant {
  /** For the log. */
  readonly name: string;
  /** Whether it has anything to do with a route; asked once for each route. */
  readonly attends: (route: Route) => boolean;
  /** Before any replica is asked: an answer of the door's own, or undefined to go on. */
  readonly before?: (asked: Attended) => Promise<HeldReply | undefined>;
  /** Before it is placed once more, elsewhere or after a wait: what it is bound to may have moved meanwhile. */
  readonly again?: (asked: Attended) => Promise<void>;
  /** The replica that must answer, from memory alone. It counts only while that replica is ready, unless it is the only one. */
  readonly bound?: (asked: Attended) => Bound | undefined;
  /** What the chosen replica is to see in place of what the client said; from memory alone. */
  readonly rewrite?: (asked: Attended, replica: string) => Rewritten | undefined;
  /** A whole answer (any status below 400) in hand: answers what the client is shown. */
  readonly after?: (asked: Attended, reply: HeldReply, replica: string) => Promise<HeldReply>;
  /**
   * A whole answer in hand that may be this replica's own opinion (401, 403, 404 or 500 and above), before
   * the loop judges it. `again`: what it complained of was put right, the request is placed anew, as if that
   * replica had not been asked. `show`: it is the cluster's answer. Undefined: the loop's own rules.
   */
  readonly refused?: (
    asked: Attended,
    reply: HeldReply,
    replica: string,
  ) => Promise<"again" | "show" | undefined>;
  /**
   * True when the request may be carried out on another ready replica though one that was sent it froze or broke
   * off, whatever its route says.
   */
  readonly repeats?: (asked: Attended) => boolean;
  /**
   * It broke off and may not be sent again: an answer after all, by whom; undefined: there is none. It may wait beyond
   * the request's own time, within a limit of its own.
   */
  readonly rescued?: (asked: Attended) => Promise<Rescued | undefined>;
  /** The request has ended; `status` is undefined when it was cut, `replica` empty when none was asked. */
  readonly ended?: (asked: Attended, status: number | undefined, replica: string) => void;
}
