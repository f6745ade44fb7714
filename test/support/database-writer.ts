// Writes to a SQLite database as a busy server does, until it is killed: every transaction puts one row
// into each of two tables, so a copy that is not of one moment has more rows in one than in the other.
// Words: database, journal mode, pause between transactions in milliseconds.

import { DatabaseSync } from "node:sqlite";
import { setTimeout as pause } from "node:timers/promises";

const [path = "", mode = "WAL", pauseMs = "1"] = process.argv.slice(2);
const database = new DatabaseSync(path, { timeout: 5000 });
database.exec(
  `PRAGMA journal_mode = ${mode}; CREATE TABLE IF NOT EXISTS debit (id INTEGER PRIMARY` +
    " KEY, filler BLOB); CREATE TABLE IF NOT EXISTS credit (id INTEGER PRIMARY KEY," +
    " filler BLOB)",
);
const debit = database.prepare("INSERT INTO debit (filler) VALUES (randomblob(2000))");
const credit = database.prepare("INSERT INTO credit (filler) VALUES (randomblob(2000))");
for (let count = 0; ; count++) {
  database.exec("BEGIN IMMEDIATE");
  for (let row = 0; row < 10; row++) debit.run();
  for (let row = 0; row < 10; row++) credit.run();
  database.exec("COMMIT");
  if (count === 20) process.stdout.write("writing\n");
  await pause(Number(pauseMs));
}
