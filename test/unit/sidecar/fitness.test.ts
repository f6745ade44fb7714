// Who may lead: every reason why another sidecar should, each by itself, and none.

import { describe, expect, test } from "vitest";
import { unfitToLead } from "../../../sidecar/fitness.ts";

const fit = {
  name: "a",
  sight: { health: "healthy", rival: undefined, startupWizardCompleted: true },
  mayStay: false,
  isDraining: false,
} as const;

describe("a sidecar", () => {
  test("may lead beside a healthy server that is set up", () => {
    expect(unfitToLead(fit)).toBeUndefined();
  });

  test.each(["silent", "refused", "degraded", "loading", "broke"] as const)(
    "may not beside one that is %s, but stay for a while where it leads already",
    (health) => {
      const sight = { ...fit.sight, health };
      expect(unfitToLead({ ...fit, sight })).toBe("server a is not healthy");
      expect(unfitToLead({ ...fit, sight, mayStay: true })).toBeUndefined();
    },
  );

  test.each([
    [undefined, "server a was not seen yet"],
    [false, "server a is not set up yet"],
  ])(
    "may not, also where it leads, while the wizard's end is %s",
    (startupWizardCompleted, why) => {
      const sight = { ...fit.sight, startupWizardCompleted };
      expect(unfitToLead({ ...fit, sight })).toBe(why);
      expect(unfitToLead({ ...fit, sight, mayStay: true })).toBe(why);
    },
  );

  test("may not beside a server that another Jellybloom keeps", () => {
    const sight = { ...fit.sight, rival: "another one keeps it" };
    expect(unfitToLead({ ...fit, sight })).toBe("another one keeps it");
  });

  test("may not while its replica drains", () => {
    expect(unfitToLead({ ...fit, isDraining: true })).toBe("replica a drains");
  });
});
