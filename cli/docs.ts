// Writes docs/options.md from the option tables: `npm run docs`. test/tidy.test.ts says when it is due.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { optionsPage } from "./help.ts";
import { documentedCommands } from "./main.ts";

const path = fileURLToPath(new URL("../docs/options.md", import.meta.url));
writeFileSync(path, optionsPage(documentedCommands()));
