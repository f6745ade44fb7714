// What intents about documents, users and passwords say besides their request (`facts`), for the file that makes them
// (changes-documents.ts) and those that read them (sidecar/journal). What is read from the journal is validated here:
// it carries a MAC of ours, but another version of this program may have written it.

/** Display preferences are one document for each user, client and id (an item's, or a name such as `usersettings`). */
export interface PreferencesFacts {
  readonly id: string;
  readonly client: string;
}

export interface UserImageFacts {
  readonly what: "set" | "cleared";
}

export interface ConfigurationFacts {
  /** As in `/System/Configuration/{key}`, in lower case; `system` is the whole, `repositories` those of plugins. */
  readonly document: string;
  /** The request says only a part: the document is what the server has afterwards. */
  readonly isReadBack?: boolean;
  /** Of the document `device`, the name that an administrator gave it: which one, as its client says. */
  readonly deviceId?: string;
}

export type UserFacts =
  | { readonly what: "created"; readonly name: string }
  | { readonly what: "updated"; readonly name: string }
  | { readonly what: "deleted" }
  /** Somebody logged in with a password: perhaps a user who was made by that. */
  | { readonly what: "login"; readonly name?: string };

/**
 * - `own`   by the user's own token, with the current password
 * - `other` by an administrator or an API key
 * - `reset` set back to none: no token ends
 * - `pin`   by a PIN from the server's folder: no token ends
 */
export interface PasswordFacts {
  readonly how: "own" | "other" | "reset" | "pin";
}

/** What the secret of a password change holds, as JSON. */
export interface PasswordSecret {
  readonly current: string;
  readonly next: string;
}

const hows: ReadonlySet<unknown> = new Set(["own", "other", "reset", "pin"]);

export function readPasswordFacts(facts: unknown): PasswordFacts | undefined {
  const how = fieldOf(facts, "how");
  return hows.has(how) ? { how: how as PasswordFacts["how"] } : undefined;
}

export function readPasswordSecret(text: string): PasswordSecret | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const current = fieldOf(value, "current");
    const next = fieldOf(value, "next");
    return typeof current === "string" && typeof next === "string" ? { current, next } : undefined;
  } catch {
    // Not ours, then: nothing of it is said.
    return undefined;
  }
}

export function readUserFacts(facts: unknown): UserFacts | undefined {
  const what = fieldOf(facts, "what");
  const name = fieldOf(facts, "name");
  switch (what) {
    case "created":
    case "updated":
      return typeof name === "string" && name !== "" ? { what, name } : undefined;
    case "deleted":
      return { what };
    case "login":
      return typeof name === "string" ? { what, name } : { what };
    default:
      return undefined;
  }
}

export function fieldOf(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null) return undefined;
  return (value as Readonly<Record<string, unknown>>)[name];
}

/** A text that is not empty; undefined for anything else. */
export function textField(value: unknown, name: string): string | undefined {
  const text = fieldOf(value, name);
  return typeof text === "string" && text !== "" ? text : undefined;
}
