// How the commands set their sentences in lines, so that a terminal of any width shows whole words (pure).

/** A text in lines of at most `widthCharacters`, but for longer words; `first` and `rest` are what lines begin with. */
export function wrapped(
  text: string,
  widthCharacters: number,
  first: string,
  rest: string,
): string[] {
  const lines: string[] = [];
  let line = first;
  let isEmpty = true;
  for (const word of text.split(" ")) {
    if (!isEmpty && line.length + 1 + word.length > widthCharacters) {
      lines.push(line);
      line = rest;
      isEmpty = true;
    }
    line += isEmpty ? word : ` ${word}`;
    isEmpty = false;
  }
  return [...lines, line];
}
