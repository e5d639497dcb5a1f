/** The highest lock epoch of any conversation that was deleted: one that is made anew goes on above it (LCK-2). */
import type { Migration } from "./migration.ts";

export const epochFloor: Migration = {
  number: 3,
  name: "epoch-floor",
  breaking: false,
  sql: `
CREATE TABLE $.epoch_floor (floor BIGINT NOT NULL);
INSERT INTO $.epoch_floor VALUES (0);
`,
};
