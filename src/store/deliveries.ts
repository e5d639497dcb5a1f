/**
 * Deliveries in the store: one row for each answer that is to go out to people. The row is stored with its turn and
 * holds where the answer goes (the pin), never what it says: the text is the job's log. It becomes due in the commit
 * that ends the job, whoever ends it (law 6), and goes out under a claim, whose attempt number fences whoever had it
 * before (law 3).
 */

/**
 * - `open`: its turn waits or runs; moved on by the commit that ends the turn's job.
 * - `pending`: due at some time; moved on by a claim.
 * - `sending`: claimed, until the claim's end; moved on by its settlement, or by the next claim.
 * - `delivered`, `discarded`: over.
 * - `failed`: kept for an operator, who has it tried again or discards it.
 */
export const DELIVERY_STATES = ["open", "pending", "sending", "delivered", "failed", "discarded"] as const;

export type DeliveryState = (typeof DELIVERY_STATES)[number];

/** What a turn's delivery is stored with. */
export interface NewDelivery {
  deliveryId: string;
  channel: string;
  /** The route key as text, to be shown. */
  routeKey: string;
  /** JSON text of the route that is pinned. */
  route: string;
}

/** A message that the channel has taken. */
export interface DeliveredPart {
  /** From 1. */
  part: number;
  /** JSON text of the channel's receipt. */
  receipt: string;
  /** Whether it shows the answer; else what was shown while the turn ran. */
  final: boolean;
}

export interface DeliveryRecord extends NewDelivery {
  state: DeliveryState;
  conversationId: string;
  jobId: string;
  /** Whose the job is. */
  principal: string;
  /** Of the newest claim; 0 before the first. */
  attempt: number;
  /** Tries that came to nothing since it became due, or was last sent on by an operator. */
  failures: number;
  /** What the last of them came to. */
  lastError: string | undefined;
  /** Whether a call was made of which nobody knows if it arrived. */
  unclear: boolean;
  /** In order. */
  parts: DeliveredPart[];
  /** While pending: when it is due; while sending: when the claim ends. Else `undefined`. */
  dueAt: number | undefined;
  createdAt: number;
  changedAt: number;
}

/** Rows that may be claimed now, before anybody has. */
export interface DueDelivery {
  deliveryId: string;
  channel: string;
  route: string;
  dueAt: number;
}

/** The right to send, as {@link DeliveryFacet.claim} gave it. */
export interface DeliveryClaim {
  deliveryId: string;
  attempt: number;
}

/** What a try came to. */
export type DeliverySettlement =
  | { state: "delivered" }
  /** To be tried again. */
  | {
      state: "pending";
      dueAt: number;
      error: string | undefined;
      unclear: boolean;
      /** Whether the try counts as one that came to nothing. */
      failed: boolean;
    }
  | { state: "failed"; error: string; unclear: boolean };

export interface DeliveryFacet {
  /** By its own id, or by its job's. */
  get(by: { deliveryId: string } | { jobId: string }): Promise<DeliveryRecord | undefined>;
  /** Newest first. @throws StoreRefusal bad_cursor */
  list(query: {
    /** Whose; absent: everybody's. */
    principal?: string | undefined;
    state?: DeliveryState | undefined;
    channel?: string | undefined;
    conversationId?: string | undefined;
    limit: number;
    cursor?: string | undefined;
  }): Promise<{ deliveries: DeliveryRecord[]; nextCursor: string | undefined }>;

  /**
   * Before and after a call is made while the turn runs. With `until` one is about to be made, which is over by then:
   * what ends the job meanwhile leaves the delivery to wait for it. Without, none is under way any more.
   *
   * @param given.receipt of part 1, where the channel has given one
   * @param given.unclear whether part 1 may have arrived, though nobody has its receipt
   * @returns false when this run streams no longer: with `until` that is over with the job, else with the first claim
   */
  stream(given: {
    deliveryId: string;
    runEpoch: number;
    until: number | undefined;
    receipt: string | undefined;
    unclear: boolean;
    now: number;
  }): Promise<boolean>;

  /**
   * What may be claimed now, longest due first. Of a conversation that is at most one: the first that became due and
   * has neither arrived nor failed.
   */
  due(query: {
    channels: readonly string[];
    /** Behind this one. */
    after?: Pick<DueDelivery, "dueAt" | "deliveryId"> | undefined;
    limit: number;
    now: number;
  }): Promise<DueDelivery[]>;
  /**
   * Takes those that may still be claimed, each under its next attempt, until `now + leaseMs`. One that was claimed
   * before, and not settled, is unclear, and that claim counts as a failure.
   *
   * @throws StoreRefusal dead_node
   */
  claim(given: {
    deliveryIds: readonly string[];
    nodeId: string;
    leaseMs: number;
    now: number;
  }): Promise<DeliveryRecord[]>;
  /**
   * Notes parts that the channel has taken, each in the place of what was noted of it before, and renews the claim.
   *
   * @returns false when it was lost: nothing is changed then
   */
  note(given: DeliveryClaim & { parts: readonly DeliveredPart[]; leaseMs: number; now: number }): Promise<boolean>;
  /** Ends a claim. False when it was lost: nothing is changed then. */
  settle(given: DeliveryClaim & { settlement: DeliverySettlement; now: number }): Promise<boolean>;

  /**
   * `failed → pending`, due now, behind what is on its way in its conversation.
   *
   * @throws StoreRefusal unknown_delivery; wrong_state
   */
  retry(deliveryId: string, now: number): Promise<DeliveryRecord>;
  /**
   * `failed → discarded`, also from `pending` and, where the claim is over, from `sending`: nobody sends it any more.
   *
   * @throws StoreRefusal unknown_delivery; wrong_state
   */
  discard(deliveryId: string, now: number): Promise<DeliveryRecord>;
}
