// The door's side of the journal (design, section 7): a change that every server has to know is written down before
// the first byte of its request goes to a server, and closed when the client has its answer. Whatever dies in
// between, the others know what was asked and who may have done it.
//
//   before   the intent is written and waited for, within a limit; with the store away it is spooled
//   rewrite  notes which replicas are sent the request
//   repeats  a change that is in the journal may be carried out elsewhere when its server breaks off
//   after    notes what the answer tells that others need, such as a new id
//   rescued  what broke off and may not be sent again is done by the next leader, which is waited for
//   ended    the outcome is written; nobody waits for it
//
// It promises that a request never fails for the journal's sake (but one with a new password, which could not reach
// the other servers), that no credential gets into it, and that a request of a single server, or one that only reads,
// costs nothing.

import { setTimeout as sleep } from "node:timers/promises";
import type { ItemFile } from "../../core/cluster/item-files.ts";
import {
  type Entry,
  type Intent,
  journalBodyContext,
  newEntryId,
  type Outcome,
} from "../../core/cluster/journal.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { isRedoneAwaited, type RedoneThere, readRedone } from "../../core/cluster/redone.ts";
import { forgetSecret, keepSecret } from "../../core/cluster/secret.ts";
import { readUserDataFacts } from "../../core/cluster/user-data.ts";
import {
  bodyLeftOut,
  type ChangeDraft,
  isUserPlain,
  textLengthMax,
} from "../../core/jellyfin/change-request.ts";
import { changeReader, type ToldOfChange, toldOfChange } from "../../core/jellyfin/changes.ts";
import type { JellyfinClient } from "../../core/jellyfin/client.ts";
import { headerIn } from "../../core/jellyfin/raw-headers.ts";
import type { Route } from "../../core/jellyfin/routes.ts";
import type { Clock } from "../../core/service/clock.ts";
import { parsedObject } from "../../core/service/json.ts";
import type { Log } from "../../core/service/log.ts";
import type { Counter, Durations } from "../../core/service/metrics.ts";
import type { Seal } from "../../core/service/seal.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import type { Attendant, Attended, Rescued } from "../attendant.ts";
import type { HeldReply } from "../client.ts";
import { badRequest, listCreated, noContent, textOfReply, told, unavailable } from "../reply.ts";
import { nextCall } from "./leader.ts";
import { Pace } from "./pace.ts";

/** Who writes entries; it spools them while the store is away, and keeps their order. */
export interface EntryWriter {
  /** The entry's number; undefined when it was spooled. */
  write(entry: Entry): Promise<number | undefined>;
}

export interface JournalLimits {
  /** How long a request waits for its intent to be in the store; then it goes on, and the intent is on its way. */
  readonly waitLimitMs: number;
  /** Reports of progress of one user and item beyond this are coalesced. */
  readonly reportBurst: number;
  readonly reportIntervalMs: number;
  /** How many users' items wait at once for their last report to be written. */
  readonly reportsWaiting: number;
  /** A body whose text is longer is left out of the intent. */
  readonly bodyLimitCharacters: number;
  /** Of a longer answer nothing is read. */
  readonly answerLimitBytes: number;
  /** How long a change that broke off waits for the leader to do it again. */
  readonly redoneWaitLimitMs: number;
}

/** How often it is looked whether the client has left. */
const lookIntervalMs = 250;

export const journalLimits: Omit<JournalLimits, "waitLimitMs"> = {
  reportBurst: 10,
  // Whoever is slowed waits no longer than this, which nobody feels.
  reportIntervalMs: 100,
  reportsWaiting: 10_000,
  bodyLimitCharacters: textLengthMax,
  answerLimitBytes: 4 * 1024 * 1024,
  // A lease that ends, the next leader's look at what is open, and the change itself at a busy server.
  redoneWaitLimitMs: 6000,
};

export interface JournalParts {
  readonly writer: EntryWriter;
  readonly store: Pick<Store, "putSecret" | "settleSecret">;
  readonly seal: Pick<Seal, "seal">;
  readonly memory: Pick<Memory, "note" | "onNote">;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly log: Pick<Log, "error">;
  readonly metrics: {
    readonly journalIntents: Counter;
    readonly journalLate: Counter;
    readonly journalWait: Pick<Durations, "observe">;
  };
  readonly clientOf: (replica: string) => Pick<JellyfinClient, "callWithKey"> | undefined;
  /** All that are known. With one there is nobody else to know of a change. */
  readonly replicaNames: () => readonly string[];
  readonly noteStoreFailure: (error: unknown) => void;
  /** What a request deletes by an index, as an attendant before this one has found out. */
  readonly deletedFile: (asked: Attended) => ItemFile | undefined;
  readonly limits: JournalLimits;
}

/** A change under way. */
interface UnderWay {
  readonly intent: Intent;
  readonly told: ChangeDraft["told"];
  /** Whom a secret was kept for; undefined: there is none. */
  readonly secretFor: readonly string[] | undefined;
  /** Not written down yet: this client reports too often. */
  readonly isCoalesced: boolean;
  /** Replicas that were sent it. */
  readonly asked: Set<string>;
  answered: { readonly replica: string; readonly status: number } | undefined;
  toldFacts: unknown;
  /** What came later grows. */
  readonly sequence: number;
  /** It waits to be written, with its outcome. */
  waits: boolean;
  /** Its outcome is written: nobody knew how it ended. */
  isClosed: boolean;
}

/** The last report that was carried out and is not written down yet. */
interface Waiting {
  intent: Intent;
  outcome: Outcome;
  sequence: number;
  readonly timer: NodeJS.Timeout;
  /** Resolves when it is written, or that takes too long. */
  readonly written: Promise<void>;
  readonly resolve: () => void;
}

export class Journal implements Attendant {
  readonly name = "journal";
  readonly #parts: JournalParts;
  readonly #pace: Pace;
  readonly #underWay = new WeakMap<Attended, UnderWay>();
  readonly #waiting = new Map<string, Waiting>();
  #sequence = 0;

  constructor(parts: JournalParts) {
    this.#parts = parts;
    const { reportBurst, reportIntervalMs, reportsWaiting } = parts.limits;
    this.#pace = new Pace({
      burst: reportBurst,
      intervalMs: reportIntervalMs,
      kept: reportsWaiting,
    });
  }

  attends(route: Route): boolean {
    return changeReader(route) !== undefined;
  }

  async before(asked: Attended): Promise<HeldReply | undefined> {
    const replicas = this.#parts.replicaNames();
    if (replicas.length < 2) return undefined;
    // Whom nobody knows a server will refuse: they write nothing into the journal.
    if (asked.identity === undefined && !asked.facts.route.anonymous) return undefined;
    if (!isUserPlain(asked.facts)) return badRequest("The id of a user cannot be read.");
    const draft = draftOf(asked, this.#parts.deletedFile(asked));
    if (draft === undefined) return undefined;
    const intent = this.#intentOf(draft, asked);
    if (draft.secret !== undefined && !(await this.#keep(draft.secret, intent.id, replicas))) {
      return unavailable("A secret cannot reach the other servers right now.");
    }
    const key = reportKey(intent);
    const report = readReport(intent);
    const isCoalesced =
      report === "progress" && !this.#pace.passes(key, this.#parts.clock.monotonicMs());
    this.#underWay.set(asked, {
      intent,
      told: draft.told,
      secretFor: draft.secret === undefined ? undefined : replicas,
      isCoalesced,
      asked: new Set(),
      answered: undefined,
      toldFacts: undefined,
      sequence: ++this.#sequence,
      waits: false,
      isClosed: false,
    });
    if (isCoalesced) return undefined;
    // What waits is older than what is written now, and must not be written after it. The writer keeps the order.
    if (report !== undefined) void this.#writeWaiting(key);
    await this.#written(intent);
    return undefined;
  }

  rewrite(asked: Attended, replica: string): undefined {
    this.#underWay.get(asked)?.asked.add(replica);
    return undefined;
  }

  /**
   * A start, a mark with a date and a stop without a position count a play once more each time, so their routes may
   * not be repeated. In the journal they may be, on another replica: what the first one counted is overwritten with
   * what the second one has when it is back, so the play counts once.
   */
  repeats(asked: Attended): boolean {
    const underWay = this.#underWay.get(asked);
    return underWay?.intent.kind === "userData" && !underWay.isCoalesced;
  }

  async after(asked: Attended, reply: HeldReply, replica: string): Promise<HeldReply> {
    const underWay = this.#underWay.get(asked);
    if (underWay === undefined) return reply;
    const { status } = reply.head;
    underWay.answered = { replica, status };
    if (underWay.told !== undefined && status < 300) {
      const text = textOfReply(reply, this.#parts.limits.answerLimitBytes);
      if (text !== undefined) underWay.toldFacts = underWay.told(text);
    }
    if (underWay.isCoalesced) {
      // Who is told that it is done is told so when it, or a later report, is written down.
      underWay.waits = true;
      await this.#coalesce(underWay, outcomeOf(underWay, asked, status, replica));
    }
    return reply;
  }

  /**
   * A change that may not be sent to another server would fail although whoever leads next does it a moment later, out
   * of the journal: that is waited for, and the client has its answer.
   */
  async rescued(asked: Attended): Promise<Rescued | undefined> {
    const underWay = this.#underWay.get(asked);
    const what = toldOfChange(asked.facts.route);
    if (underWay === undefined || underWay.asked.size === 0 || what === undefined) return undefined;
    const { kind, request } = underWay.intent;
    if (!isRedoneAwaited(kind) || asked.passedTo !== undefined) return undefined;
    // Nobody else has what was left out.
    if (request.bodyTooBig === true) return undefined;
    underWay.isClosed = true;
    await this.#write(outcomeOf(underWay, asked, undefined, ""));
    const redone = await this.#redone(underWay.intent.id, asked);
    const reply = redone && (await this.#replyTo(asked, what, redone));
    return reply && { reply, replica: redone.replica };
  }

  /** What the leader says of it when it has done it; undefined: not in time, or nobody waits any more. */
  async #redone(id: string, asked: Attended): Promise<RedoneThere | undefined> {
    const { memory, clock, limits } = this.#parts;
    const endMs = clock.monotonicMs() + limits.redoneWaitLimitMs;
    for (;;) {
      const redone = readRedone(memory.note("redone", id));
      if (redone !== undefined) return redone;
      const leftMs = endMs - clock.monotonicMs();
      if (leftMs <= 0 || asked.hasLeft) return undefined;
      await nextCall(
        (listener) => memory.onNote((note) => note.id === id && listener()),
        Math.min(leftMs, lookIntervalMs),
      );
    }
  }

  async #replyTo(
    { rawHeaders }: Attended,
    what: ToldOfChange,
    { itemId, userId, replica }: RedoneThere,
  ): Promise<HeldReply | undefined> {
    switch (what) {
      case "nothing":
        return noContent();
      case "list":
        return itemId === "" ? undefined : listCreated(rawHeaders, itemId);
      case "user": {
        if (userId === "") return undefined;
        const answer = await this.#parts.clientOf(replica)?.callWithKey("GET", `/Users/${userId}`);
        if (answer?.outcome !== "answered" || answer.status !== 200) return undefined;
        const user = parsedObject(answer.text);
        return user && told(rawHeaders, user);
      }
    }
  }

  ended(asked: Attended, status: number | undefined, replica: string): void {
    const underWay = this.#underWay.get(asked);
    if (underWay === undefined) return;
    this.#underWay.delete(asked);
    if (underWay.isClosed) return;
    const outcome = outcomeOf(underWay, asked, status, replica);
    if (underWay.secretFor !== undefined && outcome.status >= 400) {
      this.#forgetSecret(underWay.intent.id, underWay.secretFor);
    }
    if (!underWay.isCoalesced) void this.#write(outcome);
    // What was refused changed nothing.
    else if (!underWay.waits && outcome.status < 400) void this.#coalesce(underWay, outcome);
  }

  /** Writes what waits; for the end of the process. */
  async flush(): Promise<void> {
    const writes = [...this.#waiting.keys()].map((key) => this.#writeWaiting(key));
    await Promise.all(writes);
  }

  // ---- Entries --------------------------------------------------------------------------------------

  #intentOf(draft: ChangeDraft, { identity }: Attended): Intent {
    const { kind, userId, itemId, facts } = draft;
    return {
      type: "intent",
      id: newEntryId(),
      kind,
      identityKey: identity?.key ?? "",
      userId,
      itemId,
      request: this.#requestOf(draft),
      facts,
    };
  }

  #requestOf({ request, isSecret }: ChangeDraft): Intent["request"] {
    const { bodyLimitCharacters } = this.#parts.limits;
    // Written as JSON within JSON, a text may become several times as long.
    if (request.body.length > bodyLimitCharacters || isTooLong(request.body, bodyLimitCharacters)) {
      return { ...request, ...bodyLeftOut, contentType: request.contentType };
    }
    if (isSecret !== true || request.body === "") return request;
    const body = this.#parts.seal.seal(request.body, journalBodyContext);
    return { ...request, body, isSealed: true };
  }

  /** Resolves when the intent is in the store or spooled, or when that takes too long. Never rejects. */
  async #written(intent: Intent): Promise<void> {
    const { clock, metrics, limits } = this.#parts;
    const beganMs = clock.monotonicMs();
    metrics.journalIntents.add();
    const patience = new AbortController();
    const isLate = sleep(limits.waitLimitMs, true, { signal: patience.signal, ref: false }).catch(
      // Nobody is waited for any more.
      () => false,
    );
    const wasLate = await Promise.race([this.#write(intent).then(() => false), isLate]);
    patience.abort();
    if (wasLate) metrics.journalLate.add();
    metrics.journalWait.observe(clock.monotonicMs() - beganMs);
  }

  /** False: nobody could be told of it, so the change must not be made. */
  async #keep(secret: string, id: string, replicas: readonly string[]): Promise<boolean> {
    const { store, seal, noteStoreFailure } = this.#parts;
    try {
      await keepSecret(store, seal, id, secret, replicas);
      return true;
    } catch (error) {
      // Too long for a secret, or the store is away: in both cases the other servers would never hear of it.
      if (error instanceof StoreUnavailable) noteStoreFailure(error);
      else if (!(error instanceof RangeError)) throw error;
      return false;
    }
  }

  #forgetSecret(id: string, replicas: readonly string[]): void {
    const { store, noteStoreFailure } = this.#parts;
    // What cannot be taken away now ends by itself, and nobody but who has the cluster key can read it.
    forgetSecret(store, id, replicas).catch(noteStoreFailure);
  }

  async #write(entry: Entry): Promise<void> {
    const { writer, log } = this.#parts;
    // Called at once, so that entries are written in the order in which this is called.
    try {
      await writer.write(entry);
    } catch (error) {
      // The writer spools what the store does not take: this is a mistake of ours, and no viewer's affair.
      log.error({ err: error }, "an entry of the journal was not written");
    }
  }

  // ---- Reports that come too often --------------------------------------------------------------------

  /** Resolves when this report, or one that came later, is written down, or that takes too long. */
  #coalesce({ intent, sequence }: UnderWay, outcome: Outcome): Promise<void> {
    const key = reportKey(intent);
    const known = this.#waiting.get(key);
    if (known !== undefined) {
      if (sequence > known.sequence) Object.assign(known, { intent, outcome, sequence });
      return known.written;
    }
    const { reportIntervalMs, reportsWaiting } = this.#parts.limits;
    const waitMs = this.#waiting.size >= reportsWaiting ? 0 : reportIntervalMs;
    const timer = setTimeout(() => void this.#writeWaiting(key), waitMs);
    timer.unref();
    const { promise: written, resolve } = Promise.withResolvers<void>();
    this.#waiting.set(key, { intent, outcome, sequence, timer, written, resolve });
    return written;
  }

  async #writeWaiting(key: string): Promise<void> {
    const waiting = this.#waiting.get(key);
    if (waiting === undefined) return;
    clearTimeout(waiting.timer);
    this.#waiting.delete(key);
    const written = this.#written(waiting.intent);
    const closed = this.#write(waiting.outcome);
    await written;
    waiting.resolve();
    await closed;
  }
}

function draftOf(
  { facts, identity, body, bodyText, rawHeaders }: Attended,
  deletedFile: ItemFile | undefined,
): ChangeDraft | undefined {
  const { route, params, method, rawQuery } = facts;
  return changeReader(route)?.({
    route,
    params,
    method,
    rawQuery,
    contentType: headerIn(rawHeaders, "content-type") ?? "",
    body,
    bodyText,
    caller: identity === undefined ? undefined : { kind: identity.kind, userId: identity.userId },
    deletedFile,
  });
}

function outcomeOf(
  { intent, asked, answered, toldFacts }: UnderWay,
  { refusedBy, passedTo }: Attended,
  status: number | undefined,
  replica: string,
): Outcome {
  const common = { type: "outcome", id: newEntryId(), of: intent.id } as const;
  // A client that left before it was sent its answer changes nothing about who carried the request out.
  const done = answered ?? (status === undefined ? undefined : { replica, status });
  if (done !== undefined && passedTo === undefined) {
    const others = [...asked].filter((name) => name !== done.replica && !refusedBy.has(name));
    return {
      ...common,
      ...done,
      ...(others.length > 0 && { asked: others }),
      ...(toldFacts !== undefined && { facts: toldFacts }),
    };
  }
  if (passedTo !== undefined) {
    // 503 is what the gate's caller is told when nobody knows whether the leader's server did it.
    return status === undefined || status === 503
      ? { ...common, replica: "", status: 0, asked: [passedTo] }
      : { ...common, replica: passedTo, status };
  }
  // Nobody was asked: the same as a refusal.
  if (asked.size === 0) return { ...common, replica: "", status: 503 };
  return { ...common, replica: "", status: 0, asked: [...asked] };
}

/** Which of the reports of playback an intent is, as far as it says where the viewer is; else undefined. */
function readReport({ kind, facts }: Intent): "progress" | "other" | undefined {
  const read = kind === "userData" ? readUserDataFacts(facts) : undefined;
  if (read === undefined || !read.fields.includes("position")) return undefined;
  return read.cause === "progress" ? "progress" : "other";
}

function reportKey({ userId, itemId }: Intent): string {
  return `${userId}/${itemId}`;
}

function isTooLong(body: string, limitCharacters: number): boolean {
  // Only a long text is worth being written to see its length.
  return body.length * 6 > limitCharacters && JSON.stringify(body).length > 2 * limitCharacters;
}
