// Balance: which people's homes go where, when nobody has to leave. One pure function: people who do nothing
// that could be disturbed move from the replica that carries most to one that came back, a few at a time,
// until the load is even; with a preferred replica they all go back to that once it was well for long enough.
//
// It promises that nobody moves in the middle of a play, nobody twice within `minStayMs`, and that a move
// always makes the load more even than before, so that nothing goes to and fro.

export interface BalanceReplica {
  readonly name: string;
  /** Ready, not draining, and its encoder works: people may be sent there. */
  readonly isOpen: boolean;
  /** For how long it has been ready, in ms. */
  readonly readyForMs: number;
}

export interface BalanceUser {
  readonly userId: string;
  readonly home: string;
  /** Plays that transcode, and plays that do not. */
  readonly transcodes: number;
  readonly directPlays: number;
  readonly sockets: number;
  /** Nothing of theirs runs that a move would disturb. */
  readonly isIdle: boolean;
  /** How long ago the home moved, in ms. */
  readonly stayedMs: number;
  /** Replicas that have a token for every login of this user: a move there is not noticed. */
  readonly knownAt: ReadonlySet<string>;
  /** Replicas on which this user has another id than clients know: nobody is moved there for balance. */
  readonly foreign?: ReadonlySet<string> | undefined;
}

export interface BalanceOptions {
  readonly prefer: string | undefined;
  /** How long a replica must have been ready before people go back to it, in ms. */
  readonly returnAfterMs: number;
  /** The same for the preferred replica, to which all of them go, in ms. */
  readonly preferAfterMs: number;
  readonly minStayMs: number;
  /** Moves in one round. */
  readonly movesLimit: number;
}

export interface Move {
  readonly userId: string;
  readonly to: string;
  readonly why: string;
}

/** An encode keeps a core busy; a file that is sent as it is costs its bytes; a socket nearly nothing. */
const transcodeWeight = 4;
const directPlayWeight = 1;
const socketWeight = 0.1;
/** Somebody without a socket counts, too, so that people who only browse are spread. */
const personWeight = 0.05;

/** What somebody adds to the load of their home. */
export function weightOf(user: BalanceUser): number {
  return (
    user.transcodes * transcodeWeight +
    user.directPlays * directPlayWeight +
    user.sockets * socketWeight +
    personWeight
  );
}

/** The moves of this round, the first to be made first; none when all is as it should be. */
export function decideBalance(
  replicas: readonly BalanceReplica[],
  users: readonly BalanceUser[],
  options: BalanceOptions,
): Move[] {
  const movable = users.filter(
    (user) =>
      user.isIdle && user.stayedMs >= options.minStayMs && weightOf(user) < directPlayWeight,
  );
  const native = returned(replicas, movable, options);
  if (native.length > 0) return native;
  const { prefer } = options;
  const preferred = replicas.find(({ name }) => name === prefer);
  if (preferred?.isOpen === true) {
    if (preferred.readyForMs < options.preferAfterMs) return [];
    return movable
      .filter((user) => user.home !== preferred.name && mayMove(user, preferred.name))
      .slice(0, options.movesLimit)
      .map(({ userId }) => ({
        userId,
        to: preferred.name,
        why: "the preferred replica is well again",
      }));
  }
  return evened(replicas, users, movable, options);
}

function mayMove({ knownAt, foreign }: BalanceUser, name: string): boolean {
  return knownAt.has(name) && foreign?.has(name) !== true;
}

/** Who had to leave the replica where their id is native goes back when it is well again. */
function returned(
  replicas: readonly BalanceReplica[],
  movable: readonly BalanceUser[],
  { returnAfterMs, movesLimit }: BalanceOptions,
): Move[] {
  const moves: Move[] = [];
  for (const user of movable) {
    if (user.foreign?.has(user.home) !== true || moves.length >= movesLimit) continue;
    const to = replicas.find(
      ({ name, isOpen, readyForMs }) =>
        isOpen && readyForMs >= returnAfterMs && mayMove(user, name),
    );
    if (to === undefined) continue;
    const why = `the id that clients know them by is native to ${to.name}`;
    moves.push({ userId: user.userId, to: to.name, why });
  }
  return moves;
}

function evened(
  replicas: readonly BalanceReplica[],
  users: readonly BalanceUser[],
  movable: readonly BalanceUser[],
  { returnAfterMs, movesLimit }: BalanceOptions,
): Move[] {
  const load = new Map<string, number>();
  for (const { name } of replicas) load.set(name, 0);
  for (const user of users) load.set(user.home, (load.get(user.home) ?? 0) + weightOf(user));
  const targets = replicas.filter(
    ({ isOpen, readyForMs }) => isOpen && readyForMs >= returnAfterMs,
  );
  const moves: Move[] = [];
  const waiting = [...movable];
  while (moves.length < movesLimit) {
    const move = nextMove(waiting, targets, load);
    if (move === undefined) break;
    const { user, to } = move;
    const weight = weightOf(user);
    load.set(user.home, (load.get(user.home) ?? 0) - weight);
    load.set(to, (load.get(to) ?? 0) + weight);
    waiting.splice(waiting.indexOf(user), 1);
    moves.push({ userId: user.userId, to, why: `${to} carries less than ${user.home}` });
  }
  return moves;
}

/** From the fullest replica that has somebody to give to the emptiest, if that makes them more even. */
function nextMove(
  waiting: readonly BalanceUser[],
  targets: readonly BalanceReplica[],
  load: ReadonlyMap<string, number>,
): { readonly user: BalanceUser; readonly to: string } | undefined {
  let best: { user: BalanceUser; to: string; gain: number } | undefined;
  for (const user of waiting) {
    const from = load.get(user.home) ?? 0;
    for (const { name } of targets) {
      if (name === user.home || !mayMove(user, name)) continue;
      // What is left of the difference after the move: it must still be theirs, or nothing.
      const gain = from - (load.get(name) ?? 0) - 2 * weightOf(user);
      if (gain < -1e-9 || (best !== undefined && gain <= best.gain)) continue;
      best = { user, to: name, gain };
    }
  }
  return best;
}
