// Where a copy of a server begins in the journal: never behind something that its donor had still to do, because the
// copy has the donor's data and not its ledger.

import { expect, test } from "vitest";
import { beforeAsides } from "../../../sidecar/journal/journal.ts";

const cursor = { generation: "g", number: 20, mark: "m" };
const aside = (number: number) => ({ entry: { number } });

test("a copy begins before the first change that its donor has not done yet", () => {
  expect(beforeAsides(cursor, [])).toEqual(cursor);
  expect(beforeAsides(cursor, [aside(31), aside(9), aside(12)])).toEqual({
    generation: "g",
    number: 8,
  });
  expect(beforeAsides(cursor, [aside(20)])).toEqual({ generation: "g", number: 19 });
  expect(beforeAsides(cursor, [aside(21)])).toEqual(cursor);
});
