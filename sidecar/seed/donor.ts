// The donor: a sidecar that sees its server's folders sends them, as an archive, to a replica that is being seeded
// or to a backup, and brings the store in line when the copy is in place. How far the journal had come, and which
// tokens the server knew, is taken before the first byte is read: whatever happens during the copy is done again on
// the new replica, which changes nothing where it has it already.
//
//   POST /jellybloom/archive/tar {after?, sinceMs?, without?} -> the stream; 409 with a sentence when it cannot be made
//   POST /jellybloom/position    {}   -> {replica, ticket, position, serverId, version}; null: it is not known here
//   POST /jellybloom/seeded      {replica, ticket, position?} -> {tokens}: `replica` is a copy of this one now
//
// All need a proof of the cluster key. While the server is in quarantine all answer 409 with a sentence: its data are older
// than what the cluster knows of it, so that a copy would begin after changes which it lacks.

import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { type Identity, sealContext } from "../../core/cluster/identity.ts";
import { journalStartNoteId, readJournalCursor } from "../../core/cluster/journal-cursor.ts";
import type { Memory } from "../../core/cluster/memory.ts";
import { isQuarantined } from "../../core/cluster/truth.ts";
import type { AdminAnswer, GuardedRoute, Mount } from "../../core/service/health.ts";
import { parsedObject } from "../../core/service/json.ts";
import { type ProofVerifier, proofHeaderName, type Seal } from "../../core/service/seal.ts";
import type { JournalCursor } from "../../core/store/journal.ts";
import { type Store, StoreUnavailable } from "../../core/store/store.ts";
import { type Archive, openArchive } from "./archive.ts";
import { findSource, requireServerId } from "./checks.ts";
import { type Rebuildable, rebuildable } from "./choice.ts";
import { codeOf, SeedProblem } from "./problem.ts";
import { recordedVersion } from "./version.ts";

const archiveMount = "/jellybloom/archive";
export const archivePath = `${archiveMount}/tar`;
export const positionPath = "/jellybloom/position";
export const seededPath = "/jellybloom/seeded";

export interface DonorParts {
  readonly replica: string;
  /** The server's folder as this process sees it; undefined: it sees none, and sends no archive. */
  readonly folder: string | undefined;
  /** How far the server has come in the journal; undefined while nobody knows. */
  readonly position: () => JournalCursor | undefined;
  readonly store: Store;
  readonly memory: Memory;
  readonly seal: Seal;
  readonly verifier: ProofVerifier;
  readonly log: { info(message: string): void; warn(message: string): void };
}

export interface Donor {
  readonly routes: readonly GuardedRoute[];
  readonly mount: Mount;
}

const bodyLimitBytes = 64 * 1024;
const lockLimitMs = 30_000;
/** Each reads the server's disk and needs room for a database. */
const archivesAtOnce = 2;
/** A receiver that takes nothing for so long is gone. */
const stalledLimitMs = 5 * 60_000;
const columnsKept = 8;
const tokensAtOnce = 16;
const nameLengthMax = 63;

/** Hashes of the tokens that the donor's server knew, by identity. */
type Column = ReadonlyMap<string, string>;

export function createDonor(parts: DonorParts): Donor {
  const { replica, memory } = parts;
  const columns = new Map<string, Column>();
  let running = 0;

  function ticketNow(): string {
    const ticket = randomUUID();
    columns.set(ticket, columnOf(memory.identities.values(), replica));
    for (const oldest of columns.keys()) {
      if (columns.size <= columnsKept) break;
      columns.delete(oldest);
    }
    return ticket;
  }

  async function send(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readBody(request);
    if (body === undefined) return void response.destroy();
    const path = (request.url ?? "").split("?")[0] ?? "";
    const call = { method: request.method ?? "", path, body };
    const given = request.headers[proofHeaderName];
    const refusal = parts.verifier.verify(typeof given === "string" ? given : undefined, call);
    if (refusal !== null) return reply(response, 403, { error: refusal });
    if (request.method !== "POST")
      return reply(response, 405, { error: "only POST is known here" });
    const held = heldBack(parts);
    if (held !== undefined) return reply(response, 409, { error: held });
    if (parts.folder === undefined) {
      const error = `the sidecar of ${replica} does not see its server's folder: give it --server DIR`;
      return reply(response, 409, { error });
    }
    if (running >= archivesAtOnce) {
      return reply(response, 503, { error: `${replica} sends ${running} archives already` });
    }
    running++;
    try {
      await sendArchive(parts, parts.folder, ticketNow(), body, response);
    } finally {
      running--;
    }
  }

  return {
    mount: {
      prefix: archiveMount,
      handle(request, response) {
        send(request, response).catch((error: unknown) => {
          parts.log.warn(`an archive of ${replica} was not sent: ${messageOf(error)}`);
          response.destroy();
        });
      },
    },
    routes: [
      {
        method: "POST",
        path: positionPath,
        answer: async () => {
          const held = heldBack(parts);
          if (held !== undefined) return { status: 409, body: { error: held } };
          // As of now, however long it takes to look into the folder.
          const told = { replica, ticket: ticketNow(), position: parts.position() ?? null };
          return { status: 200, body: { ...told, ...(await whose(parts.folder)) } };
        },
      },
      {
        method: "POST",
        path: seededPath,
        answer: async (body) => await seeded(parts, columns, body),
      },
    ],
  };
}

/** Why this server is not to be copied now; undefined: it may be. */
function heldBack({ memory, replica }: DonorParts): string | undefined {
  const why = isQuarantined(memory.notes("replica"), replica);
  return why === undefined ? undefined : `${replica} is not to be copied: ${why}`;
}

/** The id of the server whose data would be sent, and the newest version that has used them. */
async function whose(
  folder: string | undefined,
): Promise<{ readonly serverId: string | null; readonly version: string | null }> {
  if (folder === undefined) return { serverId: null, version: null };
  try {
    const source = await findSource(folder, undefined);
    return {
      serverId: await requireServerId(source),
      version: (await recordedVersion(source)) ?? null,
    };
  } catch (error) {
    // Who asks for the archive is told what is the matter with it; the position does not depend on it.
    if (!(error instanceof SeedProblem) && codeOf(error) === undefined) throw error;
    return { serverId: null, version: null };
  }
}

async function sendArchive(
  { replica, position, log }: DonorParts,
  folder: string,
  ticket: string,
  body: string,
  response: ServerResponse,
): Promise<void> {
  const { after, sinceMs, without } = parsedObject(body) ?? {};
  const left: readonly unknown[] = Array.isArray(without) ? without : [];
  let archive: Archive;
  try {
    archive = await openArchive({
      ...{ from: folder, fromConfig: undefined, followLinks: false, lockLimitMs },
      ...{ scratchFolder: undefined, replica, position: position(), ticket },
      without: rebuildable.filter((name: Rebuildable) => left.includes(name)),
      resume:
        typeof after === "string" && typeof sinceMs === "number" ? { after, sinceMs } : undefined,
    });
  } catch (error) {
    if (!(error instanceof SeedProblem)) throw error;
    return reply(response, 409, { error: error.sentences.join(" ") });
  }
  log.info(`${replica} is being copied: ${archive.head.files} files, ${archive.head.bytes} bytes`);
  response.writeHead(200, { "content-type": "application/x-tar" });
  response.setTimeout(stalledLimitMs, () => response.destroy());
  await archive.write((bytes) => written(response, bytes));
  response.end();
  log.info(`${replica} was copied whole`);
}

/** Resolves when the bytes have left this process, so that memory does not grow when the receiver is slow. */
function written(response: ServerResponse, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    if (response.destroyed) return void reject(new Error("the receiver has gone"));
    const onClose = (): void => reject(new Error("the receiver has gone"));
    response.once("close", onClose);
    response.write(bytes, (error) => {
      response.off("close", onClose);
      if (error === null || error === undefined) resolve();
      else reject(error);
    });
  });
}

// ---- The store, when the copy is in place -----------------------------------------------------------

async function seeded(
  parts: DonorParts,
  columns: ReadonlyMap<string, Column>,
  body: string,
): Promise<AdminAnswer> {
  const { replica: copy, ticket, position: given } = parsedObject(body) ?? {};
  if (
    typeof copy !== "string" ||
    copy === "" ||
    copy.length > nameLengthMax ||
    copy.includes(":")
  ) {
    return { status: 400, body: { error: "which replica was seeded must be said" } };
  }
  if (copy === parts.replica) {
    return { status: 400, body: { error: `${copy} cannot be a copy of itself` } };
  }
  // It may have been noticed only now, after the copy was begun.
  const held = heldBack(parts);
  if (held !== undefined) return { status: 409, body: { error: held } };
  // A sidecar that started again meanwhile knows no ticket: its tokens of now are nearly those of then, and one
  // that the copy does not know is found out when it is refused.
  const column =
    columns.get(String(ticket)) ?? columnOf(parts.memory.identities.values(), parts.replica);
  const position = readJournalCursor(given);
  try {
    if (position !== undefined) await orderStart(parts.store, copy, position, String(ticket));
    const tokens = await adoptColumn(parts, copy, column);
    parts.log.info(
      `${copy} is a copy of ${parts.replica} now: ${tokens} logins need no token of their own`,
    );
    return { status: 200, body: { tokens } };
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    return { status: 503, body: { error: "the store cannot be reached: ask again" } };
  }
}

async function orderStart(
  store: Store,
  replica: string,
  cursor: JournalCursor,
  ticket: string,
): Promise<void> {
  const order = ticket === "" || ticket === "undefined" ? randomUUID() : ticket;
  const value = JSON.stringify({ cursor, order });
  await store.putNote({ kind: "replica", id: journalStartNoteId(replica), replica, value }, 0);
}

/** What each identity's token is at one replica. */
export function columnOf(identities: Iterable<Identity>, replica: string): Column {
  const column = new Map<string, string>();
  for (const { key, tokens } of identities) {
    const token = tokens[replica];
    if (token !== undefined) column.set(key, token.hash);
  }
  return column;
}

/**
 * Makes the tokens of `copy` in the store those which the donor had when it was copied: another server's data, another
 * server's tokens. What the donor has got since is minted at the copy when it is needed. Answers how many there are.
 */
export async function adoptColumn(
  {
    replica: donor,
    store,
    memory,
    seal,
  }: Pick<DonorParts, "replica" | "store" | "memory" | "seal">,
  copy: string,
  column: Column,
): Promise<number> {
  const queue = [...memory.identities.values()].values();
  let adopted = 0;
  const work = async (): Promise<void> => {
    for (const identity of queue) {
      const { key, generation, tokens } = identity;
      const own = tokens[copy];
      const theirs = tokens[donor];
      const isSame = theirs !== undefined && theirs.hash === column.get(key);
      const token = isSame ? memory.openToken(identity, donor) : undefined;
      if (theirs !== undefined && token !== undefined) {
        const sealed = seal.seal(token, sealContext(key, generation, copy));
        const { hash } = theirs;
        await store.addToken({ key, facts: identity, generation, replica: copy, hash, sealed });
        adopted++;
      } else if (own !== undefined) {
        await store.dropToken(key, generation, copy, own.hash);
      }
    }
  };
  await Promise.all(Array.from({ length: tokensAtOnce }, work));
  return adopted;
}

// ---- HTTP -------------------------------------------------------------------------------------------

async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const part of request as AsyncIterable<Buffer>) {
      length += part.length;
      if (length > bodyLimitBytes) return undefined;
      parts.push(part);
    }
  } catch {
    // The caller left in the middle of its question: nobody waits for an answer.
    return undefined;
  }
  return Buffer.concat(parts).toString("utf8");
}

function reply(response: ServerResponse, status: number, body: unknown): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? (codeOf(error) ?? error.message) : "unknown";
}
