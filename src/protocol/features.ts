/** Negotiated features (protocol: Handshake). A session's set is fixed at its first welcome. */
export const FEATURES = [
  "heartbeat",
  "ack",
  "list_jobs",
  "subscribe",
  "lease_expires_at",
  "cost.budget",
  "model.use",
  "provisioned_credentials",
  "progress",
  "result_chunk",
  "agent_versions",
] as const;

export type Feature = (typeof FEATURES)[number];

const isFeature = (name: string): name is Feature => (FEATURES as readonly string[]).includes(name);

/** What both sides offer, in the order of {@link FEATURES}; an absent offer is a v1.0 peer: none. */
export function negotiate(ours: readonly Feature[], theirs: readonly string[] | undefined): Feature[] {
  const offered = new Set(theirs?.filter(isFeature));
  return FEATURES.filter((feature) => ours.includes(feature) && offered.has(feature));
}

/** The event kinds that need a feature; every other kind reaches everybody. */
const KIND_NEEDS: Readonly<Record<string, Feature>> = { progress: "progress", result_chunk: "result_chunk" };

/**
 * Whether an event of that kind is numbered in a session with those features. Pure and stable for a
 * session's life: replay counts with it again and must come to the same numbers (RES-9).
 */
export function isVisible(kind: string, features: readonly string[]): boolean {
  const needs = KIND_NEEDS[kind];
  return needs === undefined || features.includes(needs);
}
