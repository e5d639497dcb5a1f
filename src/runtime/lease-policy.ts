import { ArcpError, type Lease } from "../protocol/index.ts";

const RESERVED = ["fs.read", "fs.write", "net.fetch", "tool.call", "agent.delegate", "cost.budget", "model.use"];
const VENDOR = /^x-vendor\.[a-z0-9_-]+(\.[A-Za-z0-9_-]+)+$/;

/**
 * What a submit may ask for. This runtime grants nothing yet, so every capability that is asked for is
 * outside the policy (JOB-9).
 *
 * @throws ArcpError INVALID_REQUEST for a capability of no known form, PERMISSION_DENIED naming one
 *   that is not granted
 */
export function checkLeaseRequest(lease: Lease): void {
  for (const capability of Object.keys(lease)) {
    if (!RESERVED.includes(capability) && !VENDOR.test(capability)) {
      throw new ArcpError(
        "INVALID_REQUEST",
        `payload.lease_request: ${JSON.stringify(capability)} is not a capability; your own are "x-vendor.<vendor>.<name>".`,
      );
    }
  }
  const [denied] = Object.keys(lease);
  if (denied !== undefined) {
    throw new ArcpError("PERMISSION_DENIED", `payload.lease_request: ${denied} is not granted to you here.`, {
      details: { capability: denied },
    });
  }
}
