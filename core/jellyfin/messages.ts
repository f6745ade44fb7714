// The envelope of Jellyfin's socket messages: their type without reading the payload, our own
// keep-alives, what never reaches a client, and what a client subscribed to.

export declare function messageType(text: string): string | undefined;
/** Seconds a client has to answer with KeepAlive, as Jellyfin says it. */
export declare function forceKeepAlive(seconds: number): string;
/** As a server answers a client's KeepAlive. */
export declare function keepAliveReply(): string;
/** As a client sends it. */
export declare const keepAliveRequest: string;
/** From a replica: never shown to the client. */
export declare function isSwallowed(type: string | undefined): boolean;
/** From a client: answered by the door, not forwarded. */
export declare function isClientKeepAlive(type: string | undefined): boolean;
/** Subscriptions by the type of the message that began them; immutable. */
export type Subscriptions = ReadonlyMap<string, string>;
export declare const noSubscriptions: Subscriptions;
export declare function remember(subscriptions: Subscriptions, message: string): Subscriptions;
/** Messages to send to a newly dialled replica, in the order in which they were begun. */
export declare function replay(subscriptions: Subscriptions): string[];
