// Elements of one settings file put into another (pure). Jellyfin writes its settings as XML with one element for each
// value and leaves out what has none (MyXmlSerializer and ConfigurationHelper; read in 10.11 and 12.0). So a value is
// taken over as the text of its element, and everything else in the file stays as it is, to the byte.

/** One element of a document, by where it stands in the text. */
interface Element {
  readonly name: string;
  readonly start: number;
  /** Behind its start tag. */
  readonly innerStart: number;
  /** Before its end tag; of `<Name />` the same as `innerStart`. */
  innerEnd: number;
  end: number;
  readonly isNil: boolean;
  readonly children: Element[];
}

interface Edit {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

const token =
  /<!--[\s\S]*?-->|<!\[CDATA\[[\s\S]*?\]\]>|<\?[\s\S]*?\?>|<(\/?)([\w.:-]+)((?:"[^"]*"|'[^']*'|[^"'<>])*)>/g;
const depthLimit = 64;

/**
 * `text` with the elements under `keys` as `own` has them: both are whole documents of the same kind, and a key has a
 * dot where its element lies in another. What `own` does not have is left out. @returns undefined when one of them is
 * no XML that Jellyfin would read, or they are of different kinds.
 */
export function withOwnElements(
  text: string,
  own: string,
  keys: readonly string[],
): string | undefined {
  const [root, ownRoot] = [rootOf(text), rootOf(own)];
  if (root === undefined || ownRoot === undefined || root.name !== ownRoot.name) return undefined;
  const edits: Edit[] = [];
  collect({ text, own, edits }, root, ownRoot, keys);
  let result = text;
  for (const { start, end, text: wanted } of edits.sort(
    (left, right) => right.start - left.start,
  )) {
    result = result.slice(0, start) + wanted + result.slice(end);
  }
  return result;
}

/** `own` with nothing in it but the elements under `keys`. @returns undefined when it is no XML. */
export function onlyOwnElements(own: string, keys: readonly string[]): string | undefined {
  const root = rootOf(own);
  if (root === undefined) return undefined;
  const startTag = own.slice(root.start, root.innerStart).replace(/\s*\/?>$/, " />");
  return withOwnElements(`${own.slice(0, root.start)}${startTag}\n`, own, keys);
}

interface Collecting {
  readonly text: string;
  readonly own: string;
  readonly edits: Edit[];
}

/** Notes what is to be changed in one element and in those that keys name inside it. */
function collect(
  at: Collecting,
  element: Element,
  ownElement: Element,
  keys: readonly string[],
): void {
  const { text, own, edits } = at;
  const added: string[] = [];
  const inner = new Map<string, string[]>();
  for (const key of keys) {
    const [first = "", ...rest] = key.split(".");
    if (rest.length > 0) inner.set(first, [...(inner.get(first) ?? []), rest.join(".")]);
    const there = childOf(element, first);
    const mine = childOf(ownElement, first);
    if (rest.length > 0) continue;
    const wanted = mine === undefined || mine.isNil ? undefined : own.slice(mine.start, mine.end);
    if (there === undefined) {
      if (wanted !== undefined) added.push(wanted);
    } else if (wanted === undefined) {
      // With the space before it, so that no empty line stays.
      const space = /\s*$/.exec(text.slice(element.innerStart, there.start))?.[0].length ?? 0;
      edits.push({ start: there.start - space, end: there.end, text: "" });
    } else {
      edits.push({ start: there.start, end: there.end, text: wanted });
    }
  }
  for (const [name, rest] of inner) {
    const there = childOf(element, name);
    const mine = childOf(ownElement, name);
    if (there !== undefined && mine !== undefined) collect(at, there, mine, rest);
  }
  if (added.length > 0) edits.push(addition(text, element, added));
}

/** Behind the last element that is there. */
function addition(text: string, element: Element, added: readonly string[]): Edit {
  const lineStart = text.lastIndexOf("\n", element.start) + 1;
  const before = text.slice(lineStart, element.start);
  const indent = /^\s*$/.test(before) ? before : "";
  const lines = added.map((line) => `\n${indent}  ${line}`).join("");
  if (element.end === element.innerEnd) {
    const startTag = text.slice(element.start, element.innerStart).replace(/\s*\/>$/, ">");
    const whole = `${startTag}${lines}\n${indent}</${element.name}>`;
    return { start: element.start, end: element.end, text: whole };
  }
  const last = element.children.at(-1)?.end ?? element.innerStart;
  const isLastLine = text.slice(last, element.innerEnd).includes("\n");
  return { start: last, end: last, text: isLastLine ? lines : `${lines}\n${indent}` };
}

function childOf(element: Element, name: string): Element | undefined {
  return element.children.find((child) => child.name === name);
}

/** The outermost element; undefined where tags do not match, or a document type stands there, which Jellyfin refuses. */
function rootOf(text: string): Element | undefined {
  const open: Element[] = [];
  let root: Element | undefined;
  let read = 0;
  for (const match of text.matchAll(token)) {
    const [whole, slash, name, attributes = ""] = match;
    if (text.slice(read, match.index).includes("<")) return undefined;
    read = match.index + whole.length;
    if (name === undefined) continue;
    if (slash === "/") {
      const closed = open.pop();
      if (closed?.name !== name) return undefined;
      closed.innerEnd = match.index;
      closed.end = read;
      continue;
    }
    const element: Element = {
      name,
      ...{ start: match.index, innerStart: read, innerEnd: read, end: read },
      isNil: /\bxsi:nil\s*=\s*["'](?:true|1)["']/.test(attributes),
      children: [],
    };
    const around = open.at(-1);
    if (around !== undefined) around.children.push(element);
    else if (root === undefined) root = element;
    else return undefined;
    if (!attributes.endsWith("/")) open.push(element);
    if (open.length > depthLimit) return undefined;
  }
  return open.length > 0 || text.slice(read).includes("<") ? undefined : root;
}
