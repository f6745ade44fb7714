// Where a copy of a server begins in the journal: never behind something that its donor had still to do, because the
// copy has the donor's data and not its ledger.

import { expect, test } from "vitest";
import { beforeAside } from "../../../sidecar/journal/journal.ts";

const cursor = { generation: "g", number: 20, mark: "m" };

test("a copy begins before the first change that its donor has not done yet", () => {
  expect(beforeAside(cursor, undefined)).toEqual(cursor);
  expect(beforeAside(cursor, 9)).toEqual({ generation: "g", number: 8 });
  expect(beforeAside(cursor, 20)).toEqual({ generation: "g", number: 19 });
  expect(beforeAside(cursor, 21)).toEqual(cursor);
});
