#!/usr/bin/env node
/** The `holdfast` command: looks at the Node that it was started on, then hands over to the build. */
import version from "./node-version.cjs";

const complaint = version.complaint(process.versions.node);
if (complaint !== undefined) {
  console.error(complaint);
  process.exitCode = 2;
} else {
  import("../dist/cli/main.js").catch((error) => {
    if (error.code !== "ERR_MODULE_NOT_FOUND" || !/dist[\\/]+cli[\\/]+main\.js/.test(error.message)) throw error;
    console.error("holdfast: there is no build here yet; run `npm run build` first.");
    process.exitCode = 2;
  });
}
