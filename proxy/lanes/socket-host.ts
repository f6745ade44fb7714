// What the socket lane asks of the door: where a client's WebSocket belongs now, and what has to be said
// there. The lane carries messages and keeps sockets alive; who answers is decided elsewhere.

/** One client's socket as the door knows it: made once, at the handshake. */
export interface SocketAsked {
  /** The request target as it came, `/socket?ApiKey=…`. Never logged as it is. */
  readonly target: string;
  readonly rawHeaders: readonly string[];
  /** The client's real address, for X-Forwarded-For. */
  readonly clientAddress: string;
  /** The token it came with; undefined when it showed none. */
  readonly token: string | undefined;
}

/** A replica to dial for a socket, with the identity's own token there already put in. */
export interface SocketTarget {
  readonly replica: string;
  /** `ws://host:port/path?query`. Contains a token: never logged. */
  readonly url: string;
  /** Headers of the handshake, without those that `ws` makes itself. */
  readonly headers: Readonly<Record<string, string>>;
  /** Whose socket it is: the key of the identity, or undefined while the token is only known to be valid. */
  readonly identityKey: string | undefined;
  readonly userId: string | undefined;
  readonly reason: string;
}

/** `revoked`: the store says that the token never works again. */
export type SocketStanding = "current" | "revoked" | "unknown" | "none";

/** Somebody who follows whose sockets are where, and what servers say on them about groups. */
export interface SocketWatch {
  /** A socket of that identity is at that replica from now on. */
  seated(identityKey: string, replica: string): void;
  /** A socket of that identity has ended. */
  unseated(identityKey: string): void;
  /** What a server says of a SyncPlay group, as the client is to hear it; undefined: not at all. */
  heard(identityKey: string, replica: string, text: string): string | undefined;
}

/** Makes a server's list of sessions the cluster's. */
export interface SocketSessions {
  /** The list as this identity is to see it. Where its rights are not known, nothing is added. */
  pushed(
    identityKey: string,
    replica: string,
    list: readonly unknown[],
  ): Promise<readonly unknown[]>;
  /** Calls back when another look may show something else: what that replica has changed. */
  onChanged(listener: (replica: string) => void): () => void;
}

export interface SocketHost {
  readonly watch?: SocketWatch;
  /** A server's message about its scheduled tasks, as the cluster's. */
  readonly showTasks?: (text: string) => string;
  /** A server's message about its user's data, without what a single server would not have sent. */
  readonly showUserData?: (replica: string, text: string) => string | undefined;
  /** A server's message with the ids that this identity's clients know; the same where they are the server's. */
  readonly showIds?: (replica: string, identityKey: string | undefined, data: Buffer) => Buffer;
  /** The sessions of the whole cluster, for those who subscribed to them. */
  readonly sessions?: SocketSessions;
  /** What is known of the token the socket came with, without waiting. */
  standing(asked: SocketAsked): SocketStanding;
  /**
   * Asks the replicas about a token nobody here knows; resolves true when one of them accepts it.
   * Bounded in time, and remembered, so that scanners cost little.
   */
  recognise(asked: SocketAsked): Promise<boolean>;
  /**
   * The replica this socket belongs to now, other than those in `tried`. Waits, within `limitMs`, for a
   * replica to be ready and for the token there. Undefined when there is none in that time.
   */
  target(
    asked: SocketAsked,
    tried: ReadonlySet<string>,
    limitMs: number,
  ): Promise<SocketTarget | undefined>;
  /** Repeats the last capabilities this device posted, at that replica. Failures are its own affair. */
  replayCapabilities(target: SocketTarget): Promise<void>;
  /**
   * A client's first socket is there: what its device has said at another replica, be it before this process
   * was there, is repeated.
   */
  welcome?(target: SocketTarget): void;
  /** A socket to this replica could not be made or broke: a reason to probe it. */
  suspect(replica: string, why: string): void;
  /** Calls back when a user's home moved to another replica, or has caught up: their sockets follow. */
  onHomeMoved(listener: (userId: string, replica: string) => void): () => void;
  /** Calls back when a replica is gone (dead or frozen): sockets there are dialled elsewhere. */
  onReplicaGone(listener: (replica: string) => void): () => void;
  /** Calls back when an identity's generation ended: its sockets are closed. */
  onEnded(listener: (identityKey: string) => void): () => void;
}
