// Where a request goes: the deeds around the pure decision of place.ts. A request that no replica can take yet
// waits here for the view to change; one that needs a home claims it; one that needs a token waits for the token.
// It promises never to wait longer than the request's own time.

import { type Identity, normalId } from "../core/cluster/identity.ts";
import { isGone } from "../core/cluster/replica.ts";
import { stateOf } from "../core/cluster/view.ts";
import { plainGuid } from "../core/jellyfin/change-request.ts";
import { bodyValue } from "../core/jellyfin/playback.ts";
import type { Route } from "../core/jellyfin/routes.ts";
import type { Attendant } from "./attendant.ts";
import { Bounded } from "./bounded.ts";
import type { Job } from "./job.ts";
import type { DoorParts } from "./parts.ts";
import { type Asked, mayMoveHome, type Placement, place } from "./place.ts";

/** A token on its way is waited for this long when another replica could answer at once. */
const shortMintWaitMs = 1000;
const lacksKeepMs = 60_000;
const rememberedLimit = 10_000;
const nowhere: ReadonlySet<string> = new Set();

export class Placing {
  /** Where the last identity from an address lives: images come without any token. */
  readonly replicaByAddress = new Bounded<string, string>(rememberedLimit);
  readonly #parts: DoorParts;
  readonly #attendants: (route: Route) => readonly Attendant[];
  /** Items that a replica was found to lack while another has them. */
  readonly #lacks = new Bounded<string, { replicas: Set<string>; untilMs: number }>(
    rememberedLimit,
  );
  readonly #tokenWaiters = new Map<string, Set<() => void>>();

  constructor(parts: DoorParts, attendants: (route: Route) => readonly Attendant[]) {
    this.#parts = parts;
    this.#attendants = attendants;
    parts.memory.onIdentity((identity) => {
      const waiters = this.#tokenWaiters.get(identity.key);
      if (waiters !== undefined) for (const wake of [...waiters]) wake();
    });
  }

  /** The next replica for this request, claimed and with its token there; undefined: time is up. */
  async place(
    job: Job,
  ): Promise<{ readonly replica: string; readonly reason: string } | undefined> {
    const { health, clock } = this.#parts;
    for (let isFirst = job.attempts === 0; ; isFirst = false) {
      if (!isFirst) {
        for (const attendant of this.#attendants(job.facts.route)) await attendant.again?.(job);
      }
      if (job.client.hasLeft) return undefined;
      const { view } = health;
      const placement = place(this.asked(job), view, job.tried);
      const leftMs = job.deadlineMs - clock.monotonicMs();
      if (placement.replica === undefined) {
        if (!placement.mayCome && job.refusal !== undefined) return undefined;
        if (leftMs <= 0) return undefined;
        const { reason, comesUnseen = false } = placement;
        await this.#hold(job, view.version, leftMs, reason, comesUnseen);
        continue;
      }
      const replica = await this.#claimed(job, placement);
      if (replica !== placement.replica) continue;
      if (await this.#hasToken(job, replica, leftMs)) return { replica, reason: placement.reason };
    }
  }

  /** Waits for the view to change; what failed before the change is worth another try after it. */
  async #hold(
    job: Job,
    version: number,
    leftMs: number,
    reason: string,
    comesUnseen: boolean,
  ): Promise<void> {
    const { health, metrics, clock } = this.#parts;
    const beganMs = clock.monotonicMs();
    job.reason = reason;
    metrics.holding.add();
    // A replica that failed may be there again without its state ever having changed here.
    const isBrief = comesUnseen || job.failed.size > 0;
    await health.changed(version, Math.min(leftMs, isBrief ? 100 : leftMs));
    metrics.holding.subtract();
    job.waitedMs += clock.monotonicMs() - beganMs;
    job.failed.clear();
  }

  async #claimed(job: Job, placement: Placement & { readonly replica: string }): Promise<string> {
    const { homes, health } = this.#parts;
    const userId = job.identity?.userId;
    if (!placement.claimsHome || userId === undefined || userId === "") return placement.replica;
    const home = homes.homeOf(userId);
    if (home !== undefined) {
      // What another proxy said a second ago may be about a server that was restarting then.
      if (!homes.isReachedByOthers(home)) await homes.lookAround();
      const state = stateOf(health.view, home);
      if (mayMoveHome(state, homes.isReachedByOthers(home)) === "detour") return placement.replica;
    }
    const claimed = await homes.claim(userId, placement.replica, placement.reason);
    // Somebody else's claim won: its replica is the home, unless this proxy cannot reach it.
    if (claimed === placement.replica) return claimed;
    return stateOf(health.view, claimed) === "ready" && !job.tried.has(claimed)
      ? claimed
      : placement.replica;
  }

  /** True when this identity can be served there; waits for a token that is on its way. */
  async #hasToken(job: Job, replica: string, leftMs: number): Promise<boolean> {
    const { identity } = job;
    const { memory, caretakers, limits, health, clock } = this.#parts;
    if (identity === undefined || identity.kind === "apiKey") return true;
    if (identity.tokens[replica] !== undefined) return true;
    // Jellyfin serves films and pictures to anybody, whatever token comes along.
    if (job.facts.route.anonymous) return true;
    caretakers.urgent(replica, identity.key);
    const others = [...health.view.replicas].some(
      ([name, other]) =>
        name !== replica &&
        other.state === "ready" &&
        !job.tried.has(name) &&
        identity.tokens[name] !== undefined,
    );
    const limitMs = Math.min(leftMs, others ? shortMintWaitMs : limits.mintWaitLimitMs);
    const deadlineMs = clock.monotonicMs() + limitMs;
    for (;;) {
      const now = memory.identities.get(identity.key);
      if (now !== undefined && now.generation === identity.generation) {
        job.identity = now;
        if (now.tokens[replica] !== undefined) return true;
      }
      const remainingMs = deadlineMs - clock.monotonicMs();
      if (remainingMs <= 0 || this.#isBarred(identity, replica) || job.client.hasLeft) break;
      if (isGone(stateOf(health.view, replica) ?? "dead")) break;
      await this.#tokenOf(identity.key, Math.min(remainingMs, 250));
    }
    job.failed.add(replica);
    return false;
  }

  /** Resolves at the identity's next change or after `limitMs`. */
  #tokenOf(key: string, limitMs: number): Promise<void> {
    return new Promise((resolve) => {
      let waiters = this.#tokenWaiters.get(key);
      if (waiters === undefined) {
        waiters = new Set();
        this.#tokenWaiters.set(key, waiters);
      }
      const waiting = waiters;
      const finish = (): void => {
        clearTimeout(timer);
        waiting.delete(finish);
        if (waiting.size === 0) this.#tokenWaiters.delete(key);
        resolve();
      };
      const timer = setTimeout(finish, limitMs);
      waiting.add(finish);
    });
  }

  asked(job: Job): Asked {
    const { homes, prefer, idSwaps, health } = this.#parts;
    const { facts, identity } = job;
    const userId = identity?.kind === "user" ? identity.userId : undefined;
    const home =
      userId === undefined ? undefined : (this.#readsAt(job, userId) ?? homes.homeOf(userId));
    const foreign =
      userId === undefined || !idSwaps.areNeeded
        ? undefined
        : idSwaps.foreignTo(userId, health.view.replicas.keys());
    if (
      userId !== undefined &&
      facts.route.boundTo === "home" &&
      this.#lacks.size === 0 &&
      this.#attendants(facts.route).length === 0
    ) {
      // The common case: a user's request goes home.
      return {
        pin: undefined,
        userId,
        home,
        cookie: undefined,
        addressReplica: undefined,
        hashKey: userId,
        lacks: nowhere,
        barred: this.#barred(identity),
        foreign,
        prefer,
      };
    }
    if (namesSomebody(facts.route)) return this.#askedOfName(job);
    return {
      pin: this.#pin(job),
      userId,
      home,
      cookie: facts.cookie,
      // Only pictures: people behind one address are to be spread, and a login is no sign of where from.
      addressReplica:
        facts.route.kind === "image" ? this.replicaByAddress.get(facts.origin.address) : undefined,
      hashKey:
        userId ??
        (identity?.kind === "apiKey"
          ? "api keys"
          : (facts.itemId ?? (facts.credentials.deviceId || facts.origin.address))),
      lacks: this.#lacking(job),
      barred: this.#barred(identity),
      foreign,
      prefer,
    };
  }

  /** A question of somebody who has just changed something elsewhere, where they have a token. */
  #readsAt({ facts, identity }: Job, userId: string): string | undefined {
    const { homes, health, clock } = this.#parts;
    const replica = homes.readsAt(userId, clock.monotonicMs);
    if (replica === undefined || identity?.tokens[replica] === undefined) return undefined;
    const { route } = facts;
    const isQuestion = !route.changes && route.kind === "read" && route.boundTo === "home";
    return isQuestion && stateOf(health.view, replica) === "ready" ? replica : undefined;
  }

  /**
   * A login goes to the home of the user it names, or to where the name alone says when nobody here knows it: so wrong
   * passwords are counted in one place, and a plugin that makes users at their first login makes each of them once. No
   * cookie and no token that comes along has a say, or whoever guesses could choose a server for each guess.
   */
  #askedOfName(job: Job): Asked {
    const { memory, homes, prefer } = this.#parts;
    const { route, params } = job.facts;
    const name = this.#nameOf(job);
    const userId =
      route.boundTo === "userInPath"
        ? plainGuid(params.userId)
        : name === undefined
          ? undefined
          : memory.userIdOfName(name);
    return {
      pin: this.#pin(job),
      userId: undefined,
      home: undefined,
      named: userId === undefined ? undefined : homes.homeOf(userId),
      cookie: undefined,
      addressReplica: undefined,
      // Those whose name cannot be read share a place, too.
      hashKey: userId ?? name ?? "",
      lacks: nowhere,
      barred: nowhere,
      prefer,
    };
  }

  /** The name in the body, in upper case, by which Jellyfin finds a user (UserManager.GetUserByName). */
  #nameOf({ facts, bodyText }: Job): string | undefined {
    const { bodyName } = facts.route;
    if (bodyName === undefined || bodyText === undefined) return undefined;
    const name = bodyValue(bodyText, bodyName);
    return typeof name === "string" && name !== "" ? name.toUpperCase() : undefined;
  }

  #pin(job: Job): Asked["pin"] {
    for (const attendant of this.#attendants(job.facts.route)) {
      const bound = attendant.bound?.(job);
      if (bound === undefined) continue;
      // Whose own refusal it has had, it need not wait for.
      return job.refusedBy.has(bound.replica) ? { ...bound, isOnly: false } : bound;
    }
    return undefined;
  }

  #barred(identity: Identity | undefined): ReadonlySet<string> {
    if (identity === undefined) return nowhere;
    let barred: Set<string> | undefined;
    for (const name of this.#parts.health.view.replicas.keys()) {
      if (!this.#isBarred(identity, name)) continue;
      barred ??= new Set();
      barred.add(name);
    }
    return barred ?? nowhere;
  }

  #isBarred(identity: Identity, replica: string): boolean {
    return (
      identity.tokens[replica] === undefined &&
      this.#parts.caretakers.isBarred(replica, identity.key)
    );
  }

  #lacking(job: Job): ReadonlySet<string> {
    if (this.#lacks.size === 0) return nowhere;
    const item = this.#itemOf(job);
    const known = item === undefined ? undefined : this.#lacks.get(item);
    if (known === undefined) return nowhere;
    if (known.untilMs > this.#parts.clock.monotonicMs()) return known.replicas;
    return nowhere;
  }

  /** The item a request is about: in its path, or in the body of a play report. */
  #itemOf(job: Job): string | undefined {
    const { itemId, route } = job.facts;
    if (itemId !== undefined) return itemId;
    if (route.intent !== "playReport" || job.bodyText === undefined) return undefined;
    const id = bodyValue(job.bodyText, "ItemId");
    return typeof id === "string" ? normalId(id) : undefined;
  }

  noteLacks(job: Job): void {
    if ((job.refusals.get(404) ?? 0) === 0) return;
    const item = this.#itemOf(job);
    if (item === undefined) return;
    const untilMs = this.#parts.clock.monotonicMs() + lacksKeepMs;
    this.#lacks.set(item, { replicas: new Set(job.refusedBy), untilMs });
  }

  replicasLeft(job: Job): number {
    const { tried } = job;
    let left = 0;
    for (const [name, { state }] of this.#parts.health.view.replicas) {
      if (state !== "ready" || tried.has(name)) continue;
      if (job.identity !== undefined && this.#isBarred(job.identity, name)) continue;
      left++;
    }
    return left;
  }
}

/** Whether a request is for whom it names. A PIN names nobody: it belongs to the flow that was begun. */
function namesSomebody({ boundTo, bodyName }: Route): boolean {
  return boundTo === "userInPath" || (boundTo === "userName" && bodyName !== undefined);
}
