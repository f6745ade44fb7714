// The help text and docs/options.md, both written from the option tables, so that they cannot say
// anything else than what is read.

import { environmentName, type Option, type OptionTable } from "../core/service/options.ts";
import { wrapped } from "./text.ts";

export interface CommandHelp {
  readonly name: string;
  /** One sentence without its full stop. */
  readonly summary: string;
  /** What stands after the command's name in the usage line. */
  readonly usage: string;
  readonly options: OptionTable;
}

const widthCharacters = 92;
const indent = " ".repeat(6);

/** `jellybloom --help`. */
export function programHelp(
  commands: readonly { readonly name: string; readonly summary: string }[],
): string {
  const widest = Math.max(...commands.map(({ name }) => name.length));
  const lines = commands.map(({ name, summary }) => `  ${name.padEnd(widest)}  ${summary}`);
  return [
    "Jellybloom makes several Jellyfin servers behave as one that does not go away.",
    "",
    "Usage: jellybloom COMMAND [options]",
    "",
    ...lines,
    "",
    "jellybloom COMMAND --help tells a command's options.",
    "",
  ].join("\n");
}

/** `jellybloom COMMAND --help`. */
export function commandHelp({ name, summary, usage, options }: CommandHelp): string {
  const lines = [`jellybloom ${name}: ${summary}.`, "", `Usage: jellybloom ${name} ${usage}`];
  for (const [section, rows] of bySection(options)) {
    lines.push("", section);
    for (const row of rows) lines.push(...optionLines(row));
  }
  lines.push("", ...wrapped(commonNote, widthCharacters, "", ""), "");
  return lines.join("\n");
}

const commonNote =
  "Every option can also be given in the environment, as JELLYBLOOM_ and its name in capitals:" +
  " --log-level as JELLYBLOOM_LOG_LEVEL; what may be repeated, separated by commas. Every secret can" +
  " also be read from a file: --api-key-file PATH, JELLYBLOOM_API_KEY_FILE. The command line wins.";

function optionLines(row: Option<unknown>): string[] {
  const notes = notesOf(row);
  const note = notes.length === 0 ? "" : `  (${notes.join(", ")})`;
  return [
    `  ${synopsis(row)}${note}`,
    ...wrapped(row.description, widthCharacters, indent, indent),
  ];
}

function synopsis({ name, placeholder }: Option<unknown>): string {
  return placeholder === "" ? `--${name}` : `--${name} ${placeholder}`;
}

function notesOf({
  required,
  repeatable,
  secret,
  fallback,
  placeholder,
}: Option<unknown>): string[] {
  const notes: string[] = [];
  if (required) notes.push("needed");
  if (repeatable) notes.push("may be repeated");
  if (secret) notes.push("secret");
  if (fallback !== undefined && placeholder !== "") notes.push(`default ${fallback}`);
  return notes;
}

function bySection(options: OptionTable): ReadonlyMap<string, readonly Option<unknown>[]> {
  const sections = new Map<string, Option<unknown>[]>();
  for (const row of Object.values(options)) {
    sections.set(row.section, [...(sections.get(row.section) ?? []), row]);
  }
  return sections;
}

/** The whole of docs/options.md. */
export function optionsPage(commands: readonly CommandHelp[]): string {
  const parts = commands.map(({ name, summary, usage, options }) => {
    const lines = [`## jellybloom ${name}`, "", `${capital(summary)}.`, ""];
    lines.push("```", `jellybloom ${name} ${usage}`, "```");
    for (const [section, rows] of bySection(options)) {
      lines.push("", `### ${section}`, "");
      lines.push(
        "| option | in the environment | default | meaning |",
        "| --- | --- | --- | --- |",
      );
      for (const row of rows) lines.push(optionRow(row));
    }
    return lines.join("\n");
  });
  return [`# Options\n\n${pageNote}`, ...parts].join("\n\n").concat("\n");
}

const pageNote = [
  "This page is written from the option tables in `cli/options.ts` by `npm run docs`; a test keeps it equal.",
  "",
  commonNote,
  "",
  "Times are written as 250ms, 5s, 2m or 1h; sizes as 512KiB, 64MiB or 2GiB.",
].join("\n");

function optionRow(row: Option<unknown>): string {
  const notes = notesOf({ ...row, fallback: undefined });
  const note = notes.length === 0 ? "" : ` (${notes.join(", ")})`;
  const fallback = row.fallback === undefined ? "" : `\`${row.fallback}\``;
  const cells = [
    `\`${synopsis(row)}\`${note}`,
    `\`${environmentName(row.name)}\``,
    fallback,
    row.description,
  ];
  return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
