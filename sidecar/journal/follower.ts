// The follower: reads the journal, and keeps its own server and the journal the same. It publishes what its
// server has made of a change, brings its server to what others have made of theirs, and, while its replica
// leads, carries out again what a server took to its grave.
//
// It promises that
//
// * a change that succeeded somewhere has an effect in the journal, sooner or later, or something newer says
//   the same fields;
// * of each field the newest intent wins on every replica, in whatever order effects come, and whatever a
//   server does late: a lane is looked at once more when it has been quiet for a moment;
// * an effect for an item that is not there yet waits aside and holds nobody up;
// * it goes on where it was, because an effect counts as read only when it is done;
// * nothing that somebody else wrote into the store makes it stop: what is not ours is counted and passed by.
//
// Steps are ordered so that dying between any two is safe: an effect is written before its intent counts as
// closed, and noted as done after the server has it. What is done twice changes nothing the second time.

import {
  type Effect,
  type Entry,
  entryValue,
  type Intent,
  newEntryId,
  type Outcome,
  type Placed,
  readEntry,
} from "../../core/cluster/journal.ts";
import { noGeneration } from "../../core/cluster/journal-cursor.ts";
import type { Redone } from "../../core/cluster/redone.ts";
import { forgetOldest, remember } from "../../core/service/forget.ts";
import { backOffMs, rest, sleep, untilAborted } from "../../core/service/loop.ts";
import type { JournalCursor, JournalEnds, JournalEntry } from "../../core/store/journal.ts";
import { StoreUnavailable } from "../../core/store/store.ts";
import type {
  Applied,
  AsideOrder,
  EffectDraft,
  JournalHandler,
  JournalHands,
  Published,
} from "./handler.ts";
import { Lanes, type WorkEnd } from "./lanes.ts";
import type { Known, KnownField, Ledger } from "./ledger.ts";
import {
  hasSucceeded,
  isSuperseded,
  mayComeLate,
  type NewerOf,
  type OpenIntent,
  OpenIntents,
  type RedoLimits,
  redoStep,
} from "./open-intents.ts";
import { rightsOver, rightsTo } from "./rights.ts";

export interface FollowerLimits extends RedoLimits {
  /** Lanes worked at beside each other. */
  readonly parallelLimit: number;
  /** Works that wait before reading the journal pauses. */
  readonly worksLimit: number;
  readonly pageEntries: number;
  readonly openLimit: number;
  /** Entries before the place where it begins that are heard where nothing is known of the journal's words. */
  readonly recallLimit: number;
  readonly seenIdsLimit: number;
  readonly retryMinMs: number;
  readonly retryMaxMs: number;
  /** How often an effect is tried at a server that is there before it is put aside. */
  readonly triesLimit: number;
  /** The same where the server has answered each time, and may answer so for ever. */
  readonly answersLimit: number;
  /** A change that a server refuses because it does not know our key is asked for again after this. */
  readonly keyRefusedRetryMs: number;
  /** What waits aside, and is answered by a server that is there that it cannot, is given up after this. */
  readonly failingLimitMs: number;
  readonly storeRetryMs: number;
  /** How long an older effect waits for a newer intent of its field to end. */
  readonly deferLimitMs: number;
  /** A lane that nothing happened in for so long is compared with its server. */
  readonly settleMs: number;
  /** How far back lanes are looked at when a server comes back: what it was sent before it fell silent. */
  readonly lookBackMs: number;
  readonly recentLimit: number;
  /** An own effect that is not read in the journal by then is written again. */
  readonly echoLimitMs: number;
  readonly asideRetryMs: number;
  /** The same for a minute after something was put aside: a server that just began may only not know its items yet. */
  readonly youngAsideRetryMs: number;
  /** Items of effects that wait aside which are asked for in one step. */
  readonly asideItemsPerStep: number;
  readonly noteEveryMs: number;
  /** Lanes that are written again when the journal was lost. */
  readonly republishLimit: number;
  /** Servers that could not be compared are compared again after this, and then after twice that, and so on. */
  readonly reconcileRetryMs: number;
  readonly reconcileRetryMaxMs: number;
  /** How often it is tried. */
  readonly reconcileTriesLimit: number;
}

export const followerLimits: FollowerLimits = {
  parallelLimit: 16,
  worksLimit: 1000,
  pageEntries: 500,
  openLimit: 20_000,
  recallLimit: 20_000,
  seenIdsLimit: 20_000,
  retryMinMs: 100,
  retryMaxMs: 5000,
  triesLimit: 12,
  // About two seconds: all lists have one lane, and a server that comes back is used once its lanes are done.
  answersLimit: 5,
  keyRefusedRetryMs: 5000,
  failingLimitMs: 3_600_000,
  storeRetryMs: 500,
  deferLimitMs: 1500,
  settleMs: 1200,
  lookBackMs: 20_000,
  recentLimit: 5000,
  echoLimitMs: 10_000,
  asideRetryMs: 30_000,
  youngAsideRetryMs: 1500,
  asideItemsPerStep: 50,
  noteEveryMs: 5000,
  republishLimit: 1000,
  reconcileRetryMs: 10_000,
  reconcileRetryMaxMs: 10 * 60_000,
  reconcileTriesLimit: 12,
  afterNoAnswerMs: 300,
  // Longer than a door holds a request of this kind when it may still succeed elsewhere.
  afterSilenceMs: 3500,
  afterLongSilenceMs: 15_000,
  afterDeathMs: 1000,
  afterMuteMs: 8000,
  givenUpAfterMs: 10 * 60_000,
};

/** What happened to one entry, for the metrics. */
export type FollowerEvent =
  | "published"
  | "applied"
  | "skipped"
  | "aside"
  | "refused"
  | "redone"
  | "cancelled"
  | "givenUp"
  | "putRight"
  | "notOurs"
  | "unknownKind"
  | "duplicate"
  | "seen"
  | "lost";

export interface FollowerParts {
  readonly hands: JournalHands;
  readonly handlers: readonly JournalHandler[];
  readonly ledger: Ledger;
  readonly limits: FollowerLimits;
  /** Where to begin, asked once the store was read; undefined: with the oldest entry that is kept. */
  readonly startFrom: () => JournalCursor | undefined;
  /** Whether a server that answered can still be reached from here. Never rejects. */
  readonly isReachable: (replica: string) => Promise<boolean>;
  /** Whether the server here has answered that it does not know our API key. Never rejects. */
  readonly isKeyRefused: () => Promise<boolean>;
  /** This identity's token here is needed. */
  readonly urgent: (identityKey: string) => void;
  readonly onEvent: (event: FollowerEvent) => void;
  /** Tells whoever may be waiting for it that a change was done again here, and to what. Never rejects. */
  readonly noteRedone: (intent: Intent, redone: Redone) => Promise<void>;
  /** Keeps a copy of the cursor in the store. Never rejects. */
  readonly noteCursor: (cursor: JournalCursor) => Promise<void>;
  /** Compares this server with the others. False: it could not be done now, and is asked for again. */
  readonly reconcile: (cause: Loss, signal: AbortSignal) => Promise<boolean>;
}

/** Why something of the journal was never read here. */
export type Loss =
  /** The store lost entries: every sidecar finds that at the same time. */
  | "lost"
  /** It is kept no longer: this replica was away for too long. */
  | "away";

interface ClosedIntent {
  readonly lane: string;
  readonly handler: JournalHandler;
  readonly subjects: readonly string[];
}

/** A subject whose word is to be compared with the server. */
interface Look {
  readonly handler: JournalHandler;
  readonly subject: string;
  /** On the monotonic clock. */
  readonly atMs: number;
  /** Once more then, because something was said of it since it was asked for. */
  readonly untilMs: number;
  readonly tries: number;
}

interface Recent {
  readonly lane: string;
  readonly handler: JournalHandler;
  readonly atMs: number;
}

const notAllowed = { outcome: "refused", why: "whoever asked for it may not have it" } as const;

export class Follower {
  readonly #parts: FollowerParts;
  readonly #handlers = new Map<string, JournalHandler>();
  readonly #lanes: Lanes;
  readonly #open = new OpenIntents();
  /** Lanes of intents that were closed a while ago, for outcomes that come later. */
  readonly #closed = new Map<string, ClosedIntent>();
  readonly #seenIds = new Set<string>();
  /** Effects that are neither done nor aside, by number, in the journal's order. */
  readonly #pending = new Map<number, number>();
  /** By lane: when it may be compared with its server, on the monotonic clock. */
  readonly #settling = new Map<string, { handler: JournalHandler; atMs: number; tries: number }>();
  /** By subject of a handler that keeps words. */
  readonly #looks = new Map<string, Look>();
  /** By lane: when the follower last wrote to the server there, on the store's clock. */
  readonly #wroteAt = new Map<string, number>();
  readonly #publishedAt = new Map<string, number>();
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #said = new Set<string>();
  readonly #goneAsked = new Map<string, { isGone: boolean; atMs: number }>();
  /** What waits aside, by number. */
  readonly #asideOrders = new Map<number, AsideOrder>();
  /** By number of what waits aside: since when its server answers that it cannot. */
  readonly #failingSinceMs = new Map<number, number>();
  /** Lanes that the return of the server put into doubt, until they have been looked at. */
  readonly #inDoubt = new Set<string>();
  /** By lane: the oldest effect after which it was not compared with its server yet; a restart begins before it. */
  readonly #unsettled = new Map<string, number>();
  readonly #started: Promise<void>;
  #markStarted: () => void = () => undefined;
  #recent: Recent[] = [];
  #cursor: JournalCursor | undefined;
  #endKnown = 0;
  #isLive = false;
  #isHealthy = false;
  #awaySinceMs: number | undefined;
  #healthySinceMs = 0;
  #savedNumber = -1;
  #notedAtMs = Number.NEGATIVE_INFINITY;
  #notedNumber = -1;
  #asideAtMs = 0;
  #asideTurn = 0;
  #youngAsideUntilMs = 0;
  /** Why the servers are still to be compared; undefined: they need not be. Noted in the ledger, too. */
  #loss: { readonly cause: Loss } | undefined;
  /** Everything up to here was in the journal when its end was reached. */
  #liveFrom = 0;
  #reconcileAtMs = 0;
  #reconcileTries = 0;
  #reconciling: Promise<void> | undefined;

  constructor(parts: FollowerParts) {
    this.#parts = parts;
    this.#started = new Promise((resolve) => {
      this.#markStarted = resolve;
    });
    for (const handler of parts.handlers) {
      for (const kind of handler.kinds) {
        if (!this.#handlers.has(kind)) this.#handlers.set(kind, handler);
      }
    }
    const { parallelLimit, retryMinMs, retryMaxMs } = parts.limits;
    this.#lanes = new Lanes({
      ...{ parallelLimit, retryMinMs, retryMaxMs },
      onFault: (error) => this.#say("warn", `the journal: ${String(error)}`),
    });
    this.#lanes.pause();
  }

  // ---- What others ask ------------------------------------------------------------------------------

  /** Up to and with which number everything is done, aside, or nobody's business here. */
  get appliedNumber(): number {
    for (const number of this.#pending.keys()) return number - 1;
    return this.#cursor?.number ?? 0;
  }

  get cursor(): JournalCursor | undefined {
    return this.#cursor;
  }

  /** Entries that are known to be in the journal and not done here yet, and since when the oldest waits, in ms. */
  lag(): { readonly entries: number; readonly oldestMs: number } {
    const unread = Math.max(0, this.#endKnown - (this.#cursor?.number ?? 0));
    let oldestAtMs = Number.POSITIVE_INFINITY;
    for (const atMs of this.#pending.values()) {
      oldestAtMs = atMs;
      break;
    }
    const nowMs = this.#parts.hands.memory.storeNowMs();
    return {
      entries: unread + this.#pending.size,
      oldestMs: Number.isFinite(oldestAtMs) ? Math.max(0, nowMs - oldestAtMs) : 0,
    };
  }

  get openCount(): number {
    return this.#open.size;
  }

  get asideCount(): number {
    return this.#parts.ledger.asides().length;
  }

  get isReconciling(): boolean {
    return this.#loss !== undefined;
  }

  /** The server is there, or is not. */
  noteHealth(isHealthy: boolean): void {
    if (isHealthy === this.#isHealthy) return;
    this.#isHealthy = isHealthy;
    if (!isHealthy) {
      this.#awaySinceMs ??= this.#nowMs();
      this.#lanes.pause();
      return;
    }
    const sinceMs = this.#awaySinceMs ?? this.#nowMs();
    this.#healthySinceMs = this.#nowMs();
    this.#youngAsideUntilMs = this.#nowMs() + youngAsideMs;
    this.#asideAtMs = 0;
    this.#failingSinceMs.clear();
    this.#awaySinceMs = undefined;
    // What it was sent before it fell silent it may do only now: an older change after a newer effect.
    const { lookBackMs, settleMs } = this.#parts.limits;
    this.#lookAtRecent(true);
    this.#later(settleMs, () => this.#lookAtRecent(false));
    for (const { lane, handler, atMs } of this.#recent) {
      if (atMs < sinceMs - lookBackMs) continue;
      this.#inDoubt.add(lane);
      this.#settle(lane, handler, settleMs / 2);
    }
    this.#lanes.resume();
  }

  /** Since the server was last seen to come back, in ms; 0 while it is away. */
  healthyForMs(): number {
    return this.#isHealthy ? this.#nowMs() - this.#healthySinceMs : 0;
  }

  /** The library changed: what waits for an item may go on. */
  noteLibraryChanged(): void {
    this.#asideAtMs = 0;
  }

  /** Resolves when everything that is in the journal now is done here, or `signal` aborts. */
  async caughtUp(signal: AbortSignal): Promise<void> {
    const ends = await this.#untilStore(() => this.#parts.hands.store.journalEnds(), signal);
    if (ends === undefined) return;
    this.#endKnown = Math.max(this.#endKnown, ends.last);
    while (!signal.aborted && !(this.#isCaughtUp(ends) && this.#inDoubt.size === 0)) {
      await sleep(50, signal);
    }
  }

  /**
   * Resolves when this server has all that others were told of this lane by now, or `signal` aborts. What nobody knows
   * the end of is not waited for: who asked for that has had no answer.
   */
  async settled(lane: string, signal: AbortSignal): Promise<void> {
    const ends = await this.#untilStore(() => this.#parts.hands.store.journalEnds(), signal);
    if (ends === undefined) return;
    const { replica } = this.#parts.hands;
    const isTold = (open: OpenIntent): boolean =>
      open.placed.number <= ends.last && hasSucceeded(open) && open.outcome?.replica !== replica;
    const isRead = (): boolean => this.#isLive && (this.#cursor?.number ?? 0) >= ends.last;
    while (!signal.aborted && !(isRead() && !this.#open.inLane(lane).some(isTold))) {
      await sleep(20, signal);
    }
    // The lane's works are done in order: behind this one nothing of them is left.
    if (!signal.aborted) await untilAborted(this.#lanes.reached(lane), signal);
  }

  /** Resolves when it is known where this begins and where the journal ends, or `signal` aborts. */
  async started(signal: AbortSignal): Promise<void> {
    await untilAborted(this.#started, signal);
  }

  #isCaughtUp({ last }: JournalEnds): boolean {
    return this.#isLive && !this.isReconciling && this.appliedNumber >= last;
  }

  /**
   * The server told of a change, by the feed: what is known of this lane, whether something of it is under way,
   * and when the journal last said anything about it.
   */
  standing(lane: string): {
    readonly known: Known | undefined;
    readonly isOpen: boolean;
    readonly quietMs: number;
  } {
    const changedAt = this.#changedAt.get(lane);
    const hasWork = this.#settling.has(lane);
    return {
      known: this.#parts.ledger.known(lane),
      // What was not read yet may explain what the server has.
      isOpen: !this.#isLive || hasWork || this.#open.inLane(lane).length > 0,
      quietMs: changedAt === undefined ? Number.POSITIVE_INFINITY : this.#nowMs() - changedAt,
    };
  }

  readonly #changedAt = new Map<string, number>();

  /** Looks once more whether the server has what the journal says of this lane. */
  check(kind: string, lane: string): void {
    const handler = this.#handlers.get(kind);
    if (handler !== undefined) this.#settle(lane, handler, 0);
  }

  /** Publishes what was seen at the server and nobody asked for at a door. Rejects with StoreUnavailable. */
  async publishSeen(kind: Effect["kind"], draft: EffectDraft): Promise<void> {
    await this.#append([
      {
        ...draft,
        type: "effect",
        id: newEntryId(),
        of: "",
        ofNumber: 0,
        kind,
        replica: this.#parts.hands.replica,
      },
    ]);
    this.#parts.onEvent("seen");
  }

  // ---- Reading --------------------------------------------------------------------------------------

  /** Follows the journal until `signal` aborts. Survives the store going away and coming back. */
  async run(signal: AbortSignal): Promise<void> {
    const { hands, ledger } = this.#parts;
    await untilAborted(hands.memory.loaded, signal);
    if (signal.aborted) return;
    this.#cursor = this.#parts.startFrom();
    const cause = ledger.word(lossWord);
    if (cause === "lost" || cause === "away") this.#loss = { cause };
    for (const { entry } of ledger.asides()) this.#rememberAside(entry);
    await this.#untilStore(() => this.#recallWords(signal), signal);
    const tick = this.#runTicks(signal);
    while (!signal.aborted) {
      try {
        await this.#follow(signal);
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
        await sleep(this.#parts.limits.storeRetryMs, signal);
      }
    }
    await tick;
    await this.#reconciling;
    this.#lanes.stop();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#save();
    await this.#noteCursor(true);
  }

  /**
   * Where nothing is known of any word, after a start without a ledger, what is left of the journal before the place where
   * this begins is heard and not done. Rejects with StoreUnavailable.
   */
  async #recallWords(signal: AbortSignal): Promise<void> {
    const keepers = [...new Set(this.#handlers.values())].filter(
      ({ words }) => words?.isEmpty() === true,
    );
    const begin = this.#cursor;
    if (begin === undefined || keepers.length === 0) return;
    const { store, seal } = this.#parts.hands;
    const { recallLimit, pageEntries } = this.#parts.limits;
    const { first, generation } = await store.journalEnds();
    if (generation !== begin.generation) return;
    let cursor: JournalCursor = {
      generation,
      number: Math.max(first - 1, begin.number - recallLimit),
    };
    while (cursor.number < begin.number && !signal.aborted) {
      const page = await store.readJournal(cursor, pageEntries);
      if (page.outcome === "lost" || page.entries.length === 0) return;
      for (const raw of page.entries) {
        const read = raw.number <= begin.number ? readEntry(raw, seal) : undefined;
        if (read?.outcome !== "read" || read.placed.entry.type !== "effect") continue;
        const placed = read.placed as Placed<Effect>;
        const handler = this.#handlers.get(placed.entry.kind);
        if (handler !== undefined && keepers.includes(handler)) handler.words?.note(placed, true);
      }
      cursor = page.cursor;
    }
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const { store } = this.#parts.hands;
    const ends = await store.journalEnds();
    this.#endKnown = ends.last;
    this.#markStarted();
    this.#cursor ??= { generation: ends.generation, number: Math.max(0, ends.first - 1) };
    if ((await this.#catchUp(signal)) === "lost" || signal.aborted) return;
    this.#becomeLive();
    const full = new AbortController();
    const ended = await store.followJournal(
      this.#cursor,
      (entries, cursor) => {
        if (full.signal.aborted) return;
        for (const entry of entries) this.#take(entry);
        this.#reached(cursor);
        // More than can be worked at: read on in pages, each when the last one is nearly done.
        if (this.#lanes.size > this.#parts.limits.worksLimit) full.abort();
      },
      AbortSignal.any([signal, full.signal]),
    );
    if (ended === "lost") await this.#lose(await store.journalEnds());
  }

  /** Page by page to the end; each page waits until there is room for it. */
  async #catchUp(signal: AbortSignal): Promise<"end" | "lost"> {
    const { hands, limits } = this.#parts;
    while (!signal.aborted && this.#cursor !== undefined) {
      await this.#lanes.below(limits.worksLimit, signal);
      const page = await hands.store.readJournal(this.#cursor, limits.pageEntries);
      if (page.outcome === "lost") {
        await this.#lose(page.ends);
        return "lost";
      }
      for (const entry of page.entries) this.#take(entry);
      this.#reached(page.cursor);
      if (page.entries.length === 0) return "end";
    }
    return "end";
  }

  #reached(cursor: JournalCursor): void {
    this.#cursor = cursor;
    this.#endKnown = Math.max(this.#endKnown, cursor.number);
  }

  /** At the end of the journal: what was closed before and has no effect has none for certain. */
  #becomeLive(): void {
    this.#isLive = true;
    this.#liveFrom = this.#cursor?.number ?? 0;
    for (const open of [...this.#open.all()]) this.#maybePublish(open);
  }

  #take(raw: JournalEntry): void {
    const read = readEntry(raw, this.#parts.hands.seal);
    if (read.outcome === "refused") {
      this.#parts.onEvent("notOurs");
      this.#say("warn", `an entry of the journal is passed by: ${read.why}`);
      return;
    }
    const { placed } = read;
    const { entry } = placed;
    if (entry.type === "outcome") this.#takeOutcome(entry);
    else if (!this.#handlers.has(entry.kind)) {
      this.#parts.onEvent("unknownKind");
      this.#say("warn", `the journal has changes of the kind ${entry.kind}, which are passed by`);
    } else if (this.#isSeen(entry.id)) this.#parts.onEvent("duplicate");
    else if (entry.type === "intent") this.#takeIntent(placed as Placed<Intent>);
    else this.#takeEffect(placed as Placed<Effect>, raw);
  }

  #isSeen(id: string): boolean {
    if (this.#seenIds.has(id)) return true;
    this.#seenIds.add(id);
    forgetOldest(this.#seenIds, this.#parts.limits.seenIdsLimit);
    return false;
  }

  #takeIntent(placed: Placed<Intent>): void {
    const { entry } = placed;
    const handler = this.#handlers.get(entry.kind);
    if (handler === undefined) return;
    const lane = handler.lane(entry);
    const open: OpenIntent = {
      placed,
      handler,
      lane,
      fields: handler.fields?.namesOf(entry) ?? [],
      seenAtMs: this.#nowMs(),
      outcome: undefined,
      outcomeAtMs: 0,
      isInHand: false,
      publishedAtMs: undefined,
      isAwaited: false,
      isDeferred: false,
      isRedone: false,
      nextRedoAtMs: 0,
      redoTries: 0,
    };
    // Read again after a start: what is newer is known already, and will not be told once more.
    if (this.#isOutdated(open)) {
      this.#rememberClosed(open);
      return;
    }
    this.#open.add(open);
    this.#noteRecent(lane, handler);
    if (this.#open.size <= this.#parts.limits.openLimit) return;
    const { oldest } = this.#open;
    if (oldest === undefined) return;
    this.#close(oldest);
    this.#parts.onEvent("givenUp");
    this.#say("warn", "more changes are open than can be remembered: the oldest is given up");
  }

  #takeOutcome(outcome: Outcome): void {
    const open = this.#open.get(outcome.of);
    const { replica } = this.#parts.hands;
    if (open === undefined) {
      // It was carried out here after all, when another replica had done it: the journal's word counts.
      const closed = this.#closed.get(outcome.of);
      if (closed !== undefined && outcome.replica === replica) {
        this.#settle(closed.lane, closed.handler);
        this.#lookAtAll(closed.handler, closed.subjects);
      }
      return;
    }
    if (outcome.status >= 400) {
      this.#parts.onEvent("cancelled");
      this.#close(open);
      return;
    }
    open.outcome = outcome;
    open.outcomeAtMs = this.#nowMs();
    this.#maybePublish(open);
    // An older effect may have waited to know how this ends.
    this.#lanes.wake(open.lane);
  }

  #takeEffect(placed: Placed<Effect>, raw: JournalEntry): void {
    const { entry, number } = placed;
    const handler = this.#handlers.get(entry.kind);
    if (handler === undefined) return;
    const open = this.#open.get(entry.of);
    // The first of several is written last.
    if (open !== undefined && isFirstOf(entry)) this.#closeWithOlder(open);
    const lane = handler.lane(entry);
    this.#noteRecent(lane, handler);
    this.#changedAt.delete(lane);
    this.#changedAt.set(lane, this.#nowMs());
    forgetOldest(this.#changedAt, this.#parts.limits.recentLimit);
    if (handler.fields !== undefined && !this.#unsettled.has(lane)) {
      this.#unsettled.set(lane, number);
      forgetOldest(this.#unsettled, this.#parts.limits.recentLimit);
    }
    const isOwn = entry.replica === this.#parts.hands.replica;
    handler.words?.note(placed, (isOwn && this.#isLive) || this.#parts.ledger.isDone(number));
    this.#lookAtAll(handler, subjectsOf(handler, entry));
    if (isOwn && handler.fields === undefined && (this.#isLive || !handler.repeatsOwn)) {
      this.#parts.ledger.noteDone(number);
      return;
    }
    if (isOwn && this.#isLive) {
      this.#learn(handler, lane, placed, undefined);
      this.#settle(lane, handler);
      return;
    }
    // An own effect that is read again after a start is looked at like any other: it may be newer than what
    // was applied before.
    if (this.#parts.ledger.isDone(number)) {
      this.#settle(lane, handler);
      return;
    }
    this.#pending.set(number, placed.atMs);
    this.#lanes.push(lane, (tries) => this.#apply(handler, lane, placed, raw, tries));
  }

  #noteRecent(lane: string, handler: JournalHandler): void {
    if (handler.fields === undefined) return;
    this.#recent.push({ lane, handler, atMs: this.#nowMs() });
    const { recentLimit } = this.#parts.limits;
    if (this.#recent.length > 2 * recentLimit) this.#recent = this.#recent.slice(-recentLimit);
  }

  #close(open: OpenIntent): void {
    if (!this.#open.delete(open)) return;
    this.#rememberClosed(open);
    this.#lanes.wake(open.lane);
    const { handler, placed, lane } = open;
    const subjects = subjectsOf(handler, placed.entry);
    this.#lookAtAll(handler, subjects);
    if (!mayComeLate(open)) return;
    for (const afterMs of lateLooksMs) {
      this.#later(afterMs, () => {
        this.#lookAtAll(handler, subjects, 0);
        this.#settle(lane, handler, 0);
      });
    }
  }

  /**
   * A change has its effect: nothing will come of an older one in whose fields it had its say. Who was to tell of that
   * one, or to do it again, passes over it without a word, so that each sidecar has to see it for itself; one that
   * stayed open would keep the lane from being compared with its server.
   */
  #closeWithOlder(open: OpenIntent): void {
    const { replica } = this.#parts.hands;
    const { id } = open.placed.entry;
    const said = { type: "outcome", id: "", of: id, replica, status: 204 } as const;
    const newer = this.#newerIn(open.lane);
    for (const other of this.#open.inLane(open.lane)) {
      if (other.placed.number >= open.placed.number) continue;
      if (isSuperseded(other, newer, [{ ...open, outcome: said }])) this.#close(other);
    }
    this.#close(open);
  }

  #rememberClosed({ lane, handler, placed }: OpenIntent): void {
    const subjects = subjectsOf(handler, placed.entry);
    this.#closed.set(placed.entry.id, { lane, handler, subjects });
    forgetOldest(this.#closed, this.#parts.limits.recentLimit);
  }

  /** By field of a lane: the number of the newest change that is known to have an effect. */
  #newerIn(lane: string): NewerOf {
    const known = this.#parts.ledger.known(lane);
    return (field) => known?.fields[field]?.number ?? 0;
  }

  /** Whether the journal has said something newer of each of its fields. */
  #isOutdated(open: OpenIntent): boolean {
    return isSuperseded(open, this.#newerIn(open.lane), []);
  }

  // ---- Applying -------------------------------------------------------------------------------------

  async #apply(
    handler: JournalHandler,
    lane: string,
    placed: Placed<Effect>,
    raw: JournalEntry,
    tries: number,
  ): Promise<WorkEnd> {
    const { hands, limits, onEvent } = this.#parts;
    const { entry } = placed;
    const fresh = this.#fresh(handler, lane, placed);
    if (fresh === "wait") return { again: "a newer change of the same is under way", afterMs: 50 };
    if (handler.fields !== undefined && fresh.size === 0) {
      onEvent("skipped");
      this.#done(placed.number);
      this.#settle(lane, handler);
      return "done";
    }
    if (this.#isHeld(handler, placed)) {
      this.#putAside(raw, entry.itemId);
      return "done";
    }
    const isOfSubject = handler.subject !== undefined || handler.words !== undefined;
    if (isOfSubject && !this.#isLive && this.#lanes.size < limits.worksLimit) {
      return { again: "what came after it is not read yet", afterMs: 50 };
    }
    const subjects = subjectsOf(handler, entry);
    // A deletion of several may be about one that nobody changes, and which no look brings.
    const isLeft =
      this.#isOvertaken(handler, lane, placed) ||
      (subjects.length > 0 && subjects.every((subject) => this.#isChanging(handler, subject)));
    const applied: Applied = isLeft
      ? { outcome: "skipped" }
      : await handler.apply(placed, hands, fresh);
    switch (applied.outcome) {
      case "done":
        this.#noteWrote(lane);
        onEvent("applied");
        break;
      case "skipped":
        onEvent("skipped");
        break;
      case "aside":
        this.#putAside(raw, applied.itemId);
        return "done";
      case "again":
        // A server that is there and cannot do this one thing does not keep its lane waiting for ever.
        if (!this.#isHealthy || tries < this.#triesOf(applied)) return { again: applied.why };
        if (await this.#isKeyRefused()) return this.#whenKeyIsBack(applied.why);
        this.#say("warn", `a change of ${entry.kind} waits: ${applied.why}`);
        this.#putAside(raw, entry.itemId);
        return "done";
      case "refused":
        onEvent("refused");
        this.#say("warn", `a change of ${entry.kind} is not taken by the server: ${applied.why}`);
        this.#done(placed.number);
        this.#settle(lane, handler);
        return "done";
    }
    this.#learn(handler, lane, placed, fresh);
    this.#takeAside(placed.number);
    this.#dropOlder(handler, placed);
    this.#done(placed.number);
    this.#settle(lane, handler);
    return "done";
  }

  /** The fields of an effect of which nothing newer is known here. */
  #fresh(
    handler: JournalHandler,
    lane: string,
    placed: Placed<Effect>,
  ): ReadonlySet<string> | "wait" {
    if (handler.fields === undefined) return new Set();
    const number = numberOf(placed);
    const known = this.#parts.ledger.known(lane);
    const fresh = new Set(
      handler.fields
        .namesOf(placed.entry)
        .filter((field) => number > (known?.fields[field]?.number ?? 0)),
    );
    if (fresh.size === 0) return fresh;
    const { deferLimitMs } = this.#parts.limits;
    for (const open of this.#open.inLane(lane)) {
      if (open.placed.number <= number || !open.fields.some((field) => fresh.has(field))) continue;
      // Somewhere, perhaps here, the same field is being changed: writing the older value now could come
      // after the newer one.
      const isUnknown = open.outcome === undefined;
      if (isUnknown && this.#nowMs() - open.seenAtMs < deferLimitMs) return "wait";
      if (hasSucceeded(open) && open.outcome?.replica === this.#parts.hands.replica) {
        for (const field of open.fields) fresh.delete(field);
      }
    }
    return fresh;
  }

  #learn(
    handler: JournalHandler,
    lane: string,
    placed: Placed<Effect>,
    only: ReadonlySet<string> | undefined,
  ): void {
    if (handler.fields === undefined) return;
    const { entry } = placed;
    const number = numberOf(placed);
    const known = this.#parts.ledger.known(lane);
    const learned: Record<string, KnownField> = {};
    for (const [field, value] of Object.entries(handler.fields.valuesOf(entry))) {
      if (only !== undefined && !only.has(field)) continue;
      if (number > (known?.fields[field]?.number ?? 0)) learned[field] = { number, value };
    }
    if (Object.keys(learned).length === 0) return;
    const { kind, userId, itemId } = entry;
    const fields = { ...known?.fields, ...learned };
    this.#parts.ledger.setKnown(lane, { kind, userId, itemId, fields });
    this.#dropSuperseded(lane);
  }

  #dropSuperseded(lane: string): void {
    for (const open of this.#open.inLane(lane)) if (this.#isOutdated(open)) this.#close(open);
  }

  #done(number: number): void {
    if (!this.#pending.delete(number)) return;
    this.#parts.ledger.noteDone(number);
  }

  #noteWrote(lane: string): void {
    this.#wroteAt.delete(lane);
    this.#wroteAt.set(lane, this.#parts.hands.memory.storeNowMs());
    forgetOldest(this.#wroteAt, this.#parts.limits.recentLimit);
  }

  // ---- Aside ----------------------------------------------------------------------------------------

  #putAside(entry: JournalEntry, itemId: string): void {
    const { ledger, hands, onEvent } = this.#parts;
    onEvent("aside");
    this.#youngAsideUntilMs = this.#nowMs() + youngAsideMs;
    this.#asideAtMs = Math.min(
      this.#asideAtMs,
      this.#nowMs() + this.#parts.limits.youngAsideRetryMs,
    );
    const dropped = ledger.putAside({ entry, itemId, sinceMs: hands.clock.wallMs() });
    this.#noteOrder(entry);
    if (dropped !== undefined) {
      this.#takeAside(dropped.entry.number);
      this.#say("warn", "more changes wait for items than can be kept: the oldest is given up");
    }
    this.#done(entry.number);
    for (const [lane, number] of this.#unsettled) {
      if (number !== entry.number) continue;
      this.#unsettled.delete(lane);
      break;
    }
  }

  /** After a start: what waited is seen already, and no second effect of that id counts. */
  #rememberAside(entry: JournalEntry): void {
    const read = readEntry(entry, this.#parts.hands.seal);
    if (read.outcome === "read") this.#isSeen(read.placed.entry.id);
    this.#noteOrder(entry);
  }

  #noteOrder(raw: JournalEntry): void {
    const read = readEntry(raw, this.#parts.hands.seal);
    if (read.outcome !== "read" || read.placed.entry.type !== "effect") return;
    const { entry } = read.placed;
    this.#asideOrders.set(raw.number, this.#handlers.get(entry.kind)?.order?.(entry) ?? {});
  }

  #takeAside(number: number): void {
    this.#parts.ledger.takeAside(number);
    this.#asideOrders.delete(number);
    this.#failingSinceMs.delete(number);
  }

  /**
   * What this server did after it, and nobody was told of yet, is not in what it says: the next word about this will be
   * this server's own. So it is where the sidecar here was restarted, and reads what is older again.
   */
  #isOvertaken(handler: JournalHandler, lane: string, { entry, number }: Placed<Effect>): boolean {
    const subject = handler.subject?.(entry);
    if (subject === undefined) return false;
    const { replica } = this.#parts.hands;
    const isOwn = entry.replica === replica;
    return this.#open.inLane(lane).some((open) => {
      const { placed, outcome } = open;
      const mayBeOwn = outcome === undefined ? isOwn : outcome.replica === replica;
      return (
        placed.number > number &&
        mayBeOwn &&
        (outcome === undefined || hasSucceeded(open)) &&
        handler.subject?.(placed.entry) === subject
      );
    });
  }

  /** Something older waits aside that has to be done before it. */
  #isHeld(handler: JournalHandler, { entry, number }: Placed<Effect>): boolean {
    if (this.#asideOrders.size === 0) return false;
    const waitsFor = handler.order?.(entry).waitsFor;
    if (waitsFor === undefined) return false;
    for (const [other, { holds }] of this.#asideOrders) {
      if (other < number && holds === waitsFor) return true;
    }
    return false;
  }

  /** What waits aside and says less than what was just done is not done after it. */
  #dropOlder(handler: JournalHandler, { entry, number }: Placed<Effect>): void {
    if (this.#asideOrders.size === 0) return;
    const whole = handler.order?.(entry).whole;
    if (whole === undefined) return;
    for (const [other, order] of this.#asideOrders) {
      if (other < number && order.whole === whole) this.#takeAside(other);
    }
  }

  /** Tries what waits aside again: one effect of each item, and the others of it when that one went. */
  #retryAsides(): void {
    const { ledger, limits, hands } = this.#parts;
    const asides = ledger.asides();
    if (asides.length === 0) return;
    const items = [...new Set(asides.map(({ itemId }) => itemId))];
    const begin = this.#asideTurn < items.length ? this.#asideTurn : 0;
    this.#asideTurn = begin + limits.asideItemsPerStep;
    const turn = new Set(items.slice(begin, this.#asideTurn));
    for (const { entry: raw, itemId } of asides) {
      if (!turn.has(itemId)) continue;
      const read = readEntry(raw, hands.seal);
      if (read.outcome === "refused" || read.placed.entry.type !== "effect") {
        this.#takeAside(raw.number);
        continue;
      }
      const placed = read.placed as Placed<Effect>;
      const handler = this.#handlers.get(placed.entry.kind);
      if (handler === undefined) continue;
      const lane = handler.lane(placed.entry);
      this.#lanes.push(lane, () => this.#applyAside(handler, lane, placed));
    }
  }

  async #applyAside(
    handler: JournalHandler,
    lane: string,
    placed: Placed<Effect>,
  ): Promise<WorkEnd> {
    const { hands, onEvent } = this.#parts;
    const { entry, number } = placed;
    const fresh = this.#fresh(handler, lane, placed);
    if (fresh === "wait") return { again: "a newer change is under way", afterMs: 50 };
    // Something newer, or the try before this one, may have made an end of it.
    if (!this.#asideOrders.has(number) || this.#isHeld(handler, placed)) return "done";
    if (handler.fields === undefined || fresh.size > 0) {
      const applied = await handler.apply(placed, hands, fresh);
      if (applied.outcome === "aside") return "done";
      if (applied.outcome === "again") {
        if (applied.isAnswer !== true || !(await this.#isGivenUp(number))) return "done";
        onEvent("givenUp");
        this.#say("warn", `a change of ${entry.kind} is given up: ${applied.why}`);
        this.#takeAside(number);
        return "done";
      }
      if (applied.outcome === "done") {
        this.#noteWrote(lane);
        onEvent("applied");
      }
      if (applied.outcome === "refused") {
        onEvent("refused");
        this.#say("warn", `a change of ${entry.kind} is not taken by the server: ${applied.why}`);
      } else {
        this.#learn(handler, lane, placed, fresh);
        this.#dropOlder(handler, placed);
      }
    }
    this.#takeAside(number);
    return "done";
  }

  /** Whether a server that is there and knows our key has answered for long that it cannot do what waits aside. */
  async #isGivenUp(number: number): Promise<boolean> {
    const nowMs = this.#nowMs();
    const sinceMs = this.#failingSinceMs.get(number) ?? nowMs;
    this.#failingSinceMs.set(number, sinceMs);
    if (nowMs - sinceMs < this.#parts.limits.failingLimitMs) return false;
    return !(await this.#isKeyRefused());
  }

  // ---- A key that the server does not know -----------------------------------------------------------

  #triesOf({ isAnswer }: { readonly isAnswer?: boolean }): number {
    const { answersLimit, triesLimit } = this.#parts.limits;
    return isAnswer === true ? answersLimit : triesLimit;
  }

  /** All changes wait for one that works, in their order and with the cursor before them: nothing of them is put aside. */
  async #isKeyRefused(): Promise<boolean> {
    const { isKeyRefused, hands } = this.#parts;
    if (!(await isKeyRefused())) return false;
    this.#say(
      "warn",
      `server ${hands.replica} refuses its API key: what is changed elsewhere waits until it is given one that works`,
    );
    return true;
  }

  #whenKeyIsBack(why: string): WorkEnd {
    return { again: why, afterMs: this.#parts.limits.keyRefusedRetryMs };
  }

  // ---- Publishing -----------------------------------------------------------------------------------

  #maybePublish(open: OpenIntent): void {
    const { hands } = this.#parts;
    if (!this.#isLive || open.isInHand || !hasSucceeded(open)) return;
    if (this.#open.get(open.placed.entry.id) !== open || open.publishedAtMs !== undefined) return;
    if (open.outcome?.replica !== hands.replica) return;
    const apartMs = open.handler.fields?.apartMs(open.placed.entry) ?? 0;
    const lastMs = this.#publishedAt.get(open.lane) ?? Number.NEGATIVE_INFINITY;
    const waitMs = apartMs === 0 ? 0 : lastMs + apartMs - this.#nowMs();
    open.isInHand = true;
    if (waitMs <= 0) {
      this.#lanes.push(open.lane, (tries) => this.#publish(open, tries));
      return;
    }
    this.#later(waitMs, () => {
      if (this.#open.get(open.placed.entry.id) === open) {
        this.#lanes.push(open.lane, (tries) => this.#publish(open, tries));
      }
    });
  }

  #later(waitMs: number, deed: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      deed();
    }, waitMs);
    this.#timers.add(timer);
  }

  async #publish(open: OpenIntent, tries: number): Promise<WorkEnd> {
    const { limits, onEvent } = this.#parts;
    const { placed, handler, lane } = open;
    if (this.#open.get(placed.entry.id) !== open) return "done";
    if (isSuperseded(open, this.#newerIn(lane), this.#open.inLane(lane))) {
      this.#close(open);
      return "done";
    }
    const wroteAtMs = this.#wroteAt.get(lane) ?? Number.NEGATIVE_INFINITY;
    // The clocks of store and machine are compared seldom: half a second covers what they differ by.
    const isRaced = wroteAtMs >= placed.atMs - 500;
    const published = await this.#published(open, isRaced);
    switch (published.outcome) {
      case "again":
        if (!this.#isHealthy || tries < 3 * limits.triesLimit) return { again: published.why };
        if (await this.#isKeyRefused()) return this.#whenKeyIsBack(published.why);
        // Whoever leads does it again elsewhere; who leads here tries again.
        open.isInHand = false;
        open.nextRedoAtMs = this.#nowMs() + limits.afterMuteMs;
        this.#later(limits.afterMuteMs, () => this.#maybePublish(open));
        return "done";
      case "later":
        open.isInHand = false;
        open.isDeferred = true;
        this.#later(laterMs, () => this.#maybePublish(open));
        return "done";
      case "given up":
        this.#say("warn", `a change of ${placed.entry.kind} is told to nobody: ${published.why}`);
        return await this.#cancel(open);
      case "effects":
        break;
    }
    const drafts = this.#worthWriting(open, published.effects);
    if (drafts.length === 0) return await this.#cancel(open);
    try {
      await this.#appendEffects(placed, drafts);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return { again: "the store cannot be reached" };
    }
    onEvent("published");
    open.publishedAtMs = this.#nowMs();
    if (open.isAwaited)
      await this.#parts.noteRedone(placed.entry, drafts[0] ?? { itemId: "", userId: "" });
    // Only reports of positions are kept apart, and only from each other.
    if ((handler.fields?.apartMs(placed.entry) ?? 0) > 0) {
      remember(this.#publishedAt, lane, this.#nowMs(), limits.recentLimit);
    }
    return "done";
  }

  async #published(open: OpenIntent, isRaced: boolean): Promise<Published> {
    const { hands } = this.#parts;
    const { placed, handler, outcome } = open;
    switch (await rightsOver(placed.entry, hands)) {
      case "may":
        return await handler.publish(placed, outcome, hands, {
          isRaced,
          untold: () => this.#untoldBeside(open),
        });
      case "again":
        return { outcome: "again", why: "its users cannot be read now" };
      case "may not":
        return { outcome: "given up", why: notAllowed.why };
    }
  }

  /** Leaves are left out of which something newer is known: the mark that spread to them came first. */
  #worthWriting(open: OpenIntent, drafts: readonly EffectDraft[]): readonly EffectDraft[] {
    const { handler, placed } = open;
    const { fields } = handler;
    if (fields === undefined || drafts.length < 2) return drafts;
    return drafts.filter((draft) => {
      const effect = this.#effectOf(placed, draft, "");
      const lane = handler.lane(effect);
      const known = this.#parts.ledger.known(lane);
      const isNewer = fields
        .namesOf(effect)
        .some((field) => (known?.fields[field]?.number ?? 0) < placed.number);
      if (!isNewer) this.#settle(lane, handler);
      return isNewer;
    });
  }

  #effectOf({ entry, number }: Placed<Intent>, draft: EffectDraft, id: string): Effect {
    const { replica } = this.#parts.hands;
    const { kind } = entry;
    return { ...draft, type: "effect", id, of: entry.id, ofNumber: number, kind, replica };
  }

  /** The first effect closes the intent, so it is among the last that are written. */
  async #appendEffects(placed: Placed<Intent>, drafts: readonly EffectDraft[]): Promise<void> {
    const effects = drafts.map((draft, index) =>
      this.#effectOf(placed, draft, `${placed.entry.id}.${index}`),
    );
    for (let end = effects.length; end > 0; end -= appendLimit) {
      await this.#append(effects.slice(Math.max(0, end - appendLimit), end));
    }
  }

  async #append(entries: readonly Entry[]): Promise<void> {
    const { store, seal } = this.#parts.hands;
    const values = entries.map((entry) => entryValue(entry, seal));
    await store.appendJournal(values, this.#cursor);
  }

  /** Nothing will come of this intent, which every sidecar has to know. */
  async #cancel(open: OpenIntent): Promise<WorkEnd> {
    const { replica } = this.#parts.hands;
    const of = open.placed.entry.id;
    try {
      await this.#append([{ type: "outcome", id: newEntryId(), of, replica, status: goneStatus }]);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return { again: "the store cannot be reached" };
    }
    this.#close(open);
    return "done";
  }

  // ---- The leader -----------------------------------------------------------------------------------

  #lookAtOpen(): void {
    const { hands, limits } = this.#parts;
    const nowMs = this.#nowMs();
    const mayLead = this.#isLive && this.#isHealthy && hands.leads();
    for (const open of [...this.#open.all()]) {
      const { publishedAtMs } = open;
      if (publishedAtMs !== undefined && nowMs - publishedAtMs > limits.echoLimitMs) {
        // Written, and not in the journal: it was lost with the store's last moments.
        open.publishedAtMs = undefined;
        open.isInHand = false;
        this.#maybePublish(open);
      }
      if (mayLead) this.#lead(open, nowMs);
      // Whoever leads had time to end it, and has not: it keeps nothing here waiting any longer.
      else if (nowMs - open.seenAtMs > 1.5 * limits.givenUpAfterMs) this.#close(open);
    }
  }

  #lead(open: OpenIntent, nowMs: number): void {
    const { hands, limits } = this.#parts;
    const step = redoStep(open, nowMs, limits, hands.replica, (replica) => this.#isGone(replica));
    if (step === "wait") return;
    open.isInHand = true;
    if (step === "give up") {
      this.#parts.onEvent("givenUp");
      this.#say("warn", `a change of ${open.placed.entry.kind} could not be done again in time`);
      this.#lanes.push(open.lane, () => this.#cancel(open));
      return;
    }
    this.#lanes.push(open.lane, () => this.#redo(open));
  }

  /** As of a moment ago: asking is begun here, and what it answers counts at the next look. */
  #isGone(replica: string): boolean {
    const asked = this.#goneAsked.get(replica);
    const nowMs = this.#nowMs();
    if (asked !== undefined && nowMs - asked.atMs < 1000) return asked.isGone;
    this.#goneAsked.set(replica, { isGone: asked?.isGone ?? false, atMs: nowMs });
    void this.#parts.isReachable(replica).then((isReachable) => {
      this.#goneAsked.set(replica, { isGone: !isReachable, atMs: this.#nowMs() });
    });
    return asked?.isGone ?? false;
  }

  async #redo(open: OpenIntent): Promise<WorkEnd> {
    const { hands, onEvent, urgent } = this.#parts;
    const { placed, handler, lane } = open;
    const { entry } = placed;
    const later = (): WorkEnd => {
      open.isInHand = false;
      open.redoTries++;
      open.nextRedoAtMs = this.#nowMs() + Math.min(250 * 2 ** open.redoTries, 15_000);
      return "done";
    };
    if (this.#open.get(entry.id) !== open) return "done";
    const others = this.#open.inLane(lane);
    if (isSuperseded(open, this.#newerIn(lane), others)) {
      this.#close(open);
      return "done";
    }
    // A newer change of the same whose end is not known decides first.
    const isNewerOpen = others.some(
      (other) =>
        other.placed.number > placed.number &&
        other.outcome === undefined &&
        other.fields.some((field) => open.fields.includes(field)) &&
        this.#nowMs() - other.seenAtMs < this.#parts.limits.afterSilenceMs,
    );
    if (isNewerOpen || !hands.leads() || this.#isOlderAgreed(open)) return later();
    // A server that said yes has looked whether they may.
    const isAgreed = hasSucceeded(open);
    const rights = isAgreed ? await rightsOver(entry, hands) : await rightsTo(entry, hands);
    if (rights === "again") return later();
    const { outcome } = open;
    const isOwn = (name: string): boolean => name === hands.replica;
    const context = {
      mayBeHere:
        outcome === undefined ||
        isOwn(outcome.replica) ||
        outcome.asked?.some(isOwn) === true ||
        placed.atMs < hands.startedAtMs,
      untold: () => this.#untoldBeside(open),
    };
    const redone =
      rights === "may" ? await handler.redo(placed, hands, isAgreed, context) : notAllowed;
    switch (redone.outcome) {
      case "again":
        urgent(entry.identityKey);
        return later();
      case "aside":
        return later();
      case "refused":
        this.#say("info", `a change of ${entry.kind} is not done again: ${redone.why}`);
        onEvent("cancelled");
        return await this.#cancel(open);
      default:
        break;
    }
    onEvent("redone");
    // Who was told that it is done waits for nothing.
    open.isAwaited ||= !isAgreed;
    open.isRedone = true;
    open.outcome = {
      type: "outcome",
      id: newEntryId(),
      of: entry.id,
      replica: hands.replica,
      status: 204,
    };
    return await this.#publish(open, 0);
  }

  /** Whether something older of the same subject, that a server said yes to, is still to be told or done again. */
  #isOlderAgreed({ handler, placed, lane }: OpenIntent): boolean {
    const subjects = subjectsOf(handler, placed.entry);
    return this.#open
      .inLane(lane)
      .some(
        (other) =>
          other.placed.number < placed.number &&
          other.publishedAtMs === undefined &&
          !other.isDeferred &&
          hasSucceeded(other) &&
          isAboutOneOf(other, subjects),
      );
  }

  /**
   * What this server has done besides, in the same lane, of which nobody was told yet; undefined: of something of the same
   * subject that is not known.
   */
  async #untoldBeside(open: OpenIntent): Promise<readonly Intent[] | undefined> {
    if (!(await this.#hasReadAll())) return undefined;
    const { handler, placed, lane } = open;
    const subjects = subjectsOf(handler, placed.entry);
    const others = this.#open
      .inLane(lane)
      .filter((other) => other !== open && other.publishedAtMs === undefined);
    const isUnknown = others.some(
      (other) => other.outcome === undefined && isAboutOneOf(other, subjects),
    );
    if (isUnknown) return undefined;
    return others.filter((other) => this.#isOwn(other)).map((other) => other.placed.entry);
  }

  #isOwn(open: OpenIntent): boolean {
    return hasSucceeded(open) && open.outcome?.replica === this.#parts.hands.replica;
  }

  // ---- Words --------------------------------------------------------------------------------------------

  /** The server here has come back, or was a moment ago: what it was sent before it may do only now. */
  #lookAtRecent(isAtOnce: boolean): void {
    const nowMs = this.#parts.hands.memory.storeNowMs();
    for (const handler of new Set(this.#handlers.values())) {
      for (const subject of handler.words?.recent(nowMs) ?? []) {
        if (isAtOnce) this.#inDoubt.add(subject);
        this.#lookLater(handler, subject, 0);
      }
    }
  }

  #lookAtAll(handler: JournalHandler, subjects: readonly string[], afterMs?: number): void {
    for (const subject of subjects) {
      if (subject !== "") this.#lookLater(handler, subject, afterMs);
    }
  }

  #lookLater(
    handler: JournalHandler,
    subject: string,
    afterMs = this.#parts.limits.settleMs,
    tries = 0,
  ): void {
    const askedAtMs = this.#nowMs() + afterMs;
    const asked = this.#looks.get(subject);
    const atMs = Math.min(askedAtMs, asked?.atMs ?? askedAtMs);
    const untilMs = Math.max(askedAtMs, asked?.untilMs ?? 0);
    this.#looks.set(subject, { handler, subject, atMs, untilMs, tries });
    forgetOldest(this.#looks, this.#parts.limits.recentLimit);
  }

  #lookAtWords(): void {
    if (!this.#isHealthy || !this.#isLive) return;
    const nowMs = this.#nowMs();
    for (const [subject, look] of this.#looks) {
      if (look.atMs > nowMs) continue;
      this.#looks.delete(subject);
      if (look.untilMs > nowMs) this.#lookLater(look.handler, subject, look.untilMs - nowMs);
      this.#lanes.push(look.handler.words?.lane ?? "", () => this.#look(look));
    }
  }

  async #look({ handler, subject, tries }: Look): Promise<WorkEnd> {
    const { hands, onEvent } = this.#parts;
    const mayWrite = async (): Promise<boolean> =>
      !this.#isChanging(handler, subject) &&
      (await this.#hasReadAll()) &&
      !this.#isChanging(handler, subject);
    const looked = await handler.words?.look(subject, hands, mayWrite);
    if (looked?.outcome === "done") onEvent("putRight");
    const isAgain = looked?.outcome === "again";
    if (isAgain && tries < looksLimit) {
      this.#lookLater(handler, subject, tries < 50 ? 250 : lateLookMs, tries + 1);
    }
    // Who changes it now will see to it, and one that cannot be read keeps the server from nobody.
    const isHopeless = tries >= this.#parts.limits.answersLimit;
    if (!isAgain || isHopeless || this.#isChanging(handler, subject)) {
      this.#inDoubt.delete(subject);
    }
    return "done";
  }

  /** Whether this server has done a change of it that is not told yet, or may be doing one. */
  #isChanging({ words }: JournalHandler, subject: string): boolean {
    if (words === undefined || subject === "") return false;
    return this.#open
      .inLane(words.lane)
      .some(
        (open) =>
          isAboutOneOf(open, [subject]) &&
          (open.outcome === undefined ? this.#parts.hands.leads() : this.#isOwn(open)),
      );
  }

  // ---- Looking once more ----------------------------------------------------------------------------

  #settle(
    lane: string,
    handler: JournalHandler,
    afterMs: number = this.#parts.limits.settleMs,
  ): void {
    if (handler.fields === undefined) return;
    const atMs = this.#nowMs() + afterMs;
    const known = this.#settling.get(lane);
    this.#settling.set(lane, { handler, atMs, tries: known?.tries ?? 0 });
    forgetOldest(this.#settling, 2 * this.#parts.limits.recentLimit);
  }

  #lookAtSettled(): void {
    if (!this.#isHealthy || !this.#isLive) return;
    const nowMs = this.#nowMs();
    let room = 200;
    for (const [lane, settling] of this.#settling) {
      if (settling.atMs > nowMs) continue;
      if (--room < 0) return;
      this.#settling.delete(lane);
      const { handler, tries } = settling;
      if (this.#open.inLane(lane).length > 0 && tries < 50) {
        this.#settling.set(lane, { handler, atMs: nowMs + 500, tries: tries + 1 });
        continue;
      }
      this.#lanes.push(lane, () => this.#verify(lane, handler, tries));
    }
  }

  async #verify(lane: string, handler: JournalHandler, tries: number): Promise<WorkEnd> {
    const { ledger, hands, onEvent } = this.#parts;
    const known = ledger.known(lane);
    if (known === undefined || handler.fields === undefined) {
      this.#inDoubt.delete(lane);
      this.#unsettled.delete(lane);
      return "done";
    }
    const values = Object.fromEntries(
      Object.entries(known.fields).map(([field, { value }]) => [field, value]),
    );
    const { userId, itemId } = known;
    const mayWrite = async (): Promise<boolean> => {
      const isStill = await this.#isQuiet(lane, known);
      if (!isStill) this.#settle(lane, handler, tries < 50 ? undefined : lateLookMs);
      if (isStill) this.#noteWrote(lane);
      return isStill;
    };
    const verified = await handler.fields.verify({ userId, itemId, values }, hands, mayWrite);
    if (verified.outcome === "put right") {
      onEvent("putRight");
      const names = verified.fields.join(", ");
      hands.log.debug(`the server of ${hands.replica} had another ${names} of ${lane}: put right`);
    }
    // Whatever wrote it may write once more; a server that never says what it was told is let be.
    if (verified.outcome !== "equal" && tries < 5) {
      this.#settling.set(lane, { handler, atMs: this.#nowMs() + 1000, tries: tries + 1 });
    } else if (verified.outcome === "again") {
      this.#settling.set(lane, { handler, atMs: this.#nowMs() + lateLookMs, tries });
    } else if (!this.#settling.has(lane)) {
      this.#inDoubt.delete(lane);
      this.#unsettled.delete(lane);
    }
    return "done";
  }

  /** Nothing of the lane is under way, as of now: what the server says is not a change that is still to come. */
  async #isQuiet(lane: string, known: Known): Promise<boolean> {
    if (!(await this.#hasReadAll()) || this.#open.inLane(lane).length > 0) return false;
    const now = this.#parts.ledger.known(lane);
    return Object.entries(known.fields).every(
      ([field, { number }]) => now?.fields[field]?.number === number,
    );
  }

  /** Whether all that is in the journal by now is read here, within half a second. */
  async #hasReadAll(): Promise<boolean> {
    let ends: JournalEnds;
    try {
      ends = await this.#parts.hands.store.journalEnds();
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      return false;
    }
    const deadlineMs = this.#nowMs() + 500;
    while ((this.#cursor?.number ?? 0) < ends.last && this.#nowMs() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return (this.#cursor?.number ?? 0) >= ends.last;
  }

  // ---- A journal that was lost ----------------------------------------------------------------------

  async #lose(ends: JournalEnds): Promise<void> {
    const { onEvent, hands, ledger, limits } = this.#parts;
    onEvent("lost");
    const before = this.#cursor;
    const isOther = before?.generation !== ends.generation;
    hands.log.warn(
      isOther
        ? `the journal of changes is another than the sidecar of ${hands.replica} had read: the store lost ` +
            "entries. What is known here is written again, and the servers are compared"
        : `the sidecar of ${hands.replica} was away for longer than the journal of changes reaches back: its ` +
            "server is compared with the others",
    );
    this.#isLive = false;
    this.#cursor = { generation: ends.generation, number: Math.max(0, ends.first - 1) };
    ledger.rewind(this.#cursor);
    // Of another generation nobody knows which of the last entries others have read.
    const floor = isOther ? Math.max(before?.number ?? 0, ends.last) : this.#cursor.number;
    for (const { words } of new Set(this.#handlers.values())) words?.noteLoss(floor);
    this.#savedNumber = this.#cursor.number;
    const isAway = !isOther || before?.generation === noGeneration || this.#loss?.cause === "away";
    this.#noteLoss(isAway ? "away" : "lost");
    if (isOther && before !== undefined) await this.#republish(limits.republishLimit, ends);
  }

  #noteLoss(cause: Loss | undefined): void {
    this.#loss = cause && { cause };
    this.#reconcileAtMs = 0;
    this.#reconcileTries = 0;
    this.#parts.ledger.setWord(lossWord, cause ?? "");
  }

  /** Once everything that is left of the journal is done here: nothing older is written after what is taken over. */
  #lookAtLoss(signal: AbortSignal): void {
    const loss = this.#loss;
    if (loss === undefined || this.#reconciling !== undefined) return;
    if (!this.#isLive || !this.#isHealthy || this.appliedNumber < this.#liveFrom) return;
    if (this.#nowMs() < this.#reconcileAtMs) return;
    this.#reconciling = this.#reconcile(loss, signal).finally(() => {
      this.#reconciling = undefined;
    });
  }

  async #reconcile(loss: { readonly cause: Loss }, signal: AbortSignal): Promise<void> {
    const { reconcile, limits, hands } = this.#parts;
    let isDone = false;
    try {
      isDone = await reconcile(loss.cause, signal);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) this.#say("warn", `comparing: ${String(error)}`);
    }
    // Another loss meanwhile is another comparison.
    if (this.#loss !== loss || signal.aborted) return;
    this.#reconcileTries++;
    const isLast = this.#reconcileTries >= limits.reconcileTriesLimit;
    if (isDone || isLast) this.#noteLoss(undefined);
    if (!isDone && isLast) {
      hands.log.warn(
        `server ${hands.replica} could not be compared with another one whole: what it missed stays missed. ` +
          "Seed it anew if it matters",
      );
    }
    const wait = { firstMs: limits.reconcileRetryMs, longestMs: limits.reconcileRetryMaxMs };
    this.#reconcileAtMs = this.#nowMs() + backOffMs(this.#reconcileTries, wait, Math.random());
  }

  /** What was known last is said again under its old numbers: whoever knows something newer passes it by. */
  async #republish(limit: number, ends: JournalEnds): Promise<void> {
    const { ledger, hands } = this.#parts;
    const effects: Effect[] = [];
    for (const [lane, known] of ledger.newest(limit)) {
      const handler = this.#handlers.get(known.kind);
      if (handler?.fields === undefined) continue;
      const byNumber = new Map<number, Record<string, unknown>>();
      for (const [field, { number, value }] of Object.entries(known.fields)) {
        const values = byNumber.get(number) ?? {};
        values[field] = value;
        byNumber.set(number, values);
      }
      for (const [ofNumber, values] of byNumber) {
        effects.push({
          type: "effect",
          // The same for every sidecar that says it.
          id: `${ends.generation}/${ofNumber}/${lane}`,
          of: "",
          ofNumber,
          kind: known.kind as Effect["kind"],
          replica: hands.replica,
          userId: known.userId,
          itemId: known.itemId,
          payload: handler.fields.payloadOf(values),
        });
      }
    }
    for (let begin = 0; begin < effects.length; begin += appendLimit) {
      await this.#append(effects.slice(begin, begin + appendLimit));
    }
  }

  // ---- Pace -----------------------------------------------------------------------------------------

  async #runTicks(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      // Everything that a tick looks at is due seconds after it began: a quiet follower ticks with the others.
      const isQuiet = this.#open.size === 0 && this.#settling.size === 0 && this.#looks.size === 0;
      await (isQuiet ? rest(quietTickMs, signal) : sleep(tickMs, signal));
      this.#lookAtOpen();
      this.#lookAtSettled();
      this.#lookAtWords();
      this.#lookAtLoss(signal);
      const nowMs = this.#nowMs();
      if (this.#isHealthy && this.#isLive && nowMs >= this.#asideAtMs) {
        const { asideRetryMs, youngAsideRetryMs } = this.#parts.limits;
        const isYoung = nowMs < this.#youngAsideUntilMs;
        this.#asideAtMs = nowMs + (isYoung ? youngAsideRetryMs : asideRetryMs);
        this.#retryAsides();
      }
      this.#save();
      await this.#noteCursor(false);
    }
  }

  /** Everything up to here is done and was looked at afterwards, and no intent before it is open. */
  #restartNumber(): number {
    let number = this.appliedNumber;
    const open = this.#open.oldest?.placed.number;
    if (open !== undefined) number = Math.min(number, open - 1);
    for (const unsettled of this.#unsettled.values()) {
      number = Math.min(number, unsettled - 1);
      break;
    }
    return Math.max(number, this.#savedNumber, 0);
  }

  #save(): void {
    const number = this.#restartNumber();
    if (this.#cursor === undefined || number === this.#savedNumber) return;
    this.#savedNumber = number;
    this.#parts.ledger.setCursor(this.#cursorAt(this.#cursor, number));
  }

  /** A mark belongs to the entry it was read with. */
  #cursorAt(cursor: JournalCursor, number: number): JournalCursor {
    return cursor.number === number ? cursor : { generation: cursor.generation, number };
  }

  async #noteCursor(isLast: boolean): Promise<void> {
    const nowMs = this.#nowMs();
    if (!isLast && nowMs - this.#notedAtMs < this.#parts.limits.noteEveryMs) return;
    const number = this.#restartNumber();
    if (this.#cursor === undefined || number === this.#notedNumber) return;
    this.#notedAtMs = nowMs;
    this.#notedNumber = number;
    await this.#parts.noteCursor(this.#cursorAt(this.#cursor, number));
  }

  async #untilStore<Value>(
    deed: () => Promise<Value>,
    signal: AbortSignal,
  ): Promise<Value | undefined> {
    while (!signal.aborted) {
      try {
        return await deed();
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error;
        await sleep(this.#parts.limits.storeRetryMs, signal);
      }
    }
    return undefined;
  }

  #nowMs(): number {
    return this.#parts.hands.clock.monotonicMs();
  }

  /** Each sentence once, and only so many of them. */
  #say(level: "info" | "warn", sentence: string): void {
    if (this.#said.has(sentence)) return;
    this.#said.add(sentence);
    forgetOldest(this.#said, 200);
    this.#parts.hands.log[level](sentence);
  }
}

/** In the ledger: the servers are still to be compared. */
export const lossWord = "loss";
const tickMs = 250;
const youngAsideMs = 60_000;
/** A lane that could not be compared for long is looked at this far apart. */
const lateLookMs = 10_000;
/** When the subject of a change is looked at again that a server may have done after everybody had given it up. */
const lateLooksMs = [10_000, 60_000];
const quietTickMs = 1000;
/** What cannot be compared for an hour is compared when something is said of it again. */
const looksLimit = 50 + 360;
const appendLimit = 500;
/** What waits for the end of another change is looked at again after this. */
const laterMs = 500;
/** 410 Gone: an outcome that a sidecar writes when nothing will come of an intent. */
const goneStatus = 410;

/** By what an effect is ordered: its intent's number, or its own. */
function numberOf({ entry, number }: Placed<Effect>): number {
  return entry.ofNumber === 0 ? number : entry.ofNumber;
}

/** What a change is about, where its handler keeps words. */
function subjectsOf({ words }: JournalHandler, entry: Intent | Effect): readonly string[] {
  return words?.subjects(entry) ?? [];
}

function isAboutOneOf({ handler, placed }: OpenIntent, subjects: readonly string[]): boolean {
  return subjectsOf(handler, placed.entry).some((subject) => subjects.includes(subject));
}

function isFirstOf({ id, of }: Effect): boolean {
  return id === `${of}.0` || !id.startsWith(`${of}.`);
}
