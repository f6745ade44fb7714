// What the journal's follower (follower.ts) asks of those who know one kind of change. A handler decides nothing
// about order, cursors, waiting or repeating: the follower does. It only makes an effect from what its own server
// says, and brings its own server to what an effect says.

import type { Effect, Intent, IntentKind, Outcome, Placed } from "../../core/cluster/journal.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import type { Clock } from "../../core/service/clock.ts";
import type { Seal } from "../../core/service/seal.ts";
import type { Store } from "../../core/store/store.ts";

/** What a handler works with: its own server and what the cluster knows. */
export interface JournalHands {
  readonly replica: string;
  readonly client: JellyfinClient;
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  readonly clock: Clock;
  readonly log: {
    debug(message: string): void;
    info(message: string): void;
    warn(message: string): void;
  };
  /** When this sidecar began, on the wall clock: before that another process may have done what it cannot remember. */
  readonly startedAtMs: number;
  /** The client of another replica's server, for what is too big for the journal. */
  readonly peer: (replica: string) => JellyfinClient | undefined;
  /** Whether this sidecar leads at this moment. */
  readonly leads: () => boolean;
}

/** How the making of an effect ended. */
export type Published =
  /** Payloads of the effects to write, in order; none: the change is nobody else's business. */
  | { readonly outcome: "effects"; readonly effects: readonly EffectDraft[] }
  /** Server or token not there now: it is asked again, a bounded number of times. */
  | { readonly outcome: "again"; readonly why: string }
  /** It waits for the end of another change of the same, and keeps nobody else waiting. */
  | { readonly outcome: "later"; readonly why: string }
  /** It cannot be made; said in the log once. */
  | { readonly outcome: "given up"; readonly why: string };

export type EffectDraft = Pick<Effect, "userId" | "itemId" | "payload">;

/** How the applying of an effect ended. */
export type Applied =
  | { readonly outcome: "done" }
  /** This server has it already, or has something newer. */
  | { readonly outcome: "skipped" }
  /** It waits for an item that this server does not have yet, without blocking others. */
  | { readonly outcome: "aside"; readonly itemId: string }
  /**
   * The server is away or busy, or failed at it: it is asked again, and what follows in its lane waits. `isAnswer`: it
   * has answered, and may answer so for ever; fewer tries are made before the lane goes on without it.
   */
  | { readonly outcome: "again"; readonly why: string; readonly isAnswer?: boolean }
  /** The server refuses it and always will; said in the log once. */
  | { readonly outcome: "refused"; readonly why: string };

/** How effects that wait aside stand to others of their kind: each by a name that is the handler's own. */
export interface AsideOrder {
  /** It says all that there is to say of this: one that waits is dropped when a newer is done. */
  readonly whole?: string;
  /** What has to wait as long as this does. */
  readonly holds?: string;
  /** It waits as long as an older one that holds this. */
  readonly waitsFor?: string;
}

/** What a handler says of a kind whose changes are values of named fields, of which the newest alone counts. */
export interface FieldRules {
  /** Names of what an entry changes; none when the entry makes no sense. */
  namesOf(entry: Intent | Effect): readonly string[];
  /** What an effect says of each; none when the effect makes no sense. */
  valuesOf(effect: Effect): Readonly<Record<string, unknown>>;
  /**
   * Looks whether this server has what the journal says of one lane, and puts it right where `mayWrite`, asked
   * immediately before, still allows it.
   */
  verify(
    known: KnownLane,
    hands: JournalHands,
    mayWrite: () => Promise<boolean>,
  ): Promise<Verified>;
  /** The payload of an effect that says these values, of which nobody asked for any at a door. */
  payloadOf(values: Readonly<Record<string, unknown>>): unknown;
  /** Effects of one lane whose intents may wait for a newer one are at least this far apart, in ms; 0: never. */
  apartMs(intent: Intent): number;
}

/** What the journal last said of one lane, by field. */
export interface KnownLane {
  readonly userId: string;
  readonly itemId: string;
  readonly values: Readonly<Record<string, unknown>>;
}

export type Verified =
  | { readonly outcome: "equal" }
  | { readonly outcome: "put right"; readonly fields: readonly string[] }
  | { readonly outcome: "again"; readonly why: string };

/** What is known about the circumstances of an intent. */
export interface PublishContext {
  /**
   * Something of the same lane was written here by the follower while the request was under way: what the server
   * says now may be that, and not what the request made of it.
   */
  readonly isRaced: boolean;
  /**
   * What this server has done besides and nobody was told of yet, of the same lane, as of now: what was asked of it before is
   * among it. Undefined: of something of the same it is not known yet whether it was done.
   */
  readonly untold: () => Promise<readonly Intent[] | undefined>;
}

export interface JournalHandler {
  /**
   * Present: the newest intent of each field wins, and an older effect that comes later never does. Absent: each
   * effect counts, and they are applied in the journal's order.
   */
  readonly fields?: FieldRules;
  /**
   * Without fields: an own effect that is read again, after a start or a loss, is applied like any other. Older ones of
   * others are, before it; and where the server's data were put back it lacks what it once did itself.
   */
  readonly repeatsOwn?: boolean;
  /**
   * Without fields: what an effect that waits aside, and is tried again when its lane has gone on, must not overtake or
   * be overtaken by. Absent: the handler looks to that itself.
   */
  order?(effect: Effect): AsideOrder;
  /**
   * Without fields: what an entry says all of, so that an older effect of the same is not applied after what this server did
   * itself and has not told. Absent or undefined: effects say what is to be done, and each is.
   */
  subject?(entry: Intent | Effect): string | undefined;
  readonly kinds: readonly IntentKind[];
  /** Entries of one lane are handled one after another, in the journal's order; lanes run beside each other. */
  lane(entry: Intent | Effect): string;
  /**
   * Makes the effects of an intent that this replica's server answered with success (or that `redo` has just carried
   * out here).
   */
  publish(
    intent: Placed<Intent>,
    outcome: Outcome | undefined,
    hands: JournalHands,
    context: PublishContext,
  ): Promise<Published>;
  /**
   * Brings this replica's server to what the effect says. Asked on every replica but the one that has it. `fresh`:
   * the fields of it of which nothing newer is known here; all of them for a kind without fields.
   */
  apply(effect: Placed<Effect>, hands: JournalHands, fresh: ReadonlySet<string>): Promise<Applied>;
  /**
   * Carries out, on this replica, an intent whose replica died before its effect was published; only the leader's is
   * asked. `publish` follows when it answers `done`. `isAgreed`: a server has answered it with success, and so found that
   * its caller may have it and knew what they had to know.
   */
  redo(
    intent: Placed<Intent>,
    hands: JournalHands,
    isAgreed: boolean,
    context?: RedoContext,
  ): Promise<Applied>;
  /**
   * Without fields: the handler makes one word on each subject of all that the journal says of it, and brings its server
   * to that. Absent: an effect says by itself what is to be done.
   */
  readonly words?: JournalWords;
}

/** How a handler keeps the journal's word on each of its subjects. */
export interface JournalWords {
  /** The lane that all of them are handled in. */
  readonly lane: string;
  /** What an entry is about; an empty one is not known yet. */
  subjects(entry: Intent | Effect): readonly string[];
  /**
   * Takes in an effect, own ones as well, in the journal's order and before anything is applied. `isDone`: it will not be, for
   * the server here has it.
   */
  note(effect: Placed<Effect>, isDone: boolean): void;
  /** Whether nothing is known of any subject. */
  isEmpty(): boolean;
  /** Entries up to this number may never have been read here. */
  noteLoss(number: number): void;
  /** The subjects of which something was said lately. `nowMs`: on the store's clock. */
  recent(nowMs: number): readonly string[];
  /**
   * Brings the server here to the word on this subject. Asked a while after a change of it ended, and when the server has
   * come back, which may do only then what it was sent before. `mayWrite`: asked where the server says something else,
   * immediately before it is written to; false while a change of this may be under way there.
   */
  look(subject: string, hands: JournalHands, mayWrite: () => Promise<boolean>): Promise<Applied>;
}

/** What is known about an intent that is to be done again. */
export interface RedoContext {
  /** This server may have been sent the request, or this sidecar may have done it again before it was restarted. */
  readonly mayBeHere: boolean;
  /**
   * What this server has done besides and nobody was told of yet, of the same lane, as of now: what was asked of it before is
   * among it. Undefined: of something of the same it is not known yet whether it was done.
   */
  readonly untold: () => Promise<readonly Intent[] | undefined>;
}
