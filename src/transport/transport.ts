/**
 * A way to carry envelopes between two peers: one frame is one envelope as JSON text. Frames arrive
 * whole and in order, or not at all. A transport knows nothing of sessions.
 */

/** What a transport tells its user. */
export interface TransportEvents {
  /** One whole frame. */
  onFrame(frame: string): void;
  /** Called once, when no more frames will come, whoever closed it and however it failed. */
  onClose(code: number, reason: string): void;
}

export interface Transport {
  /** False once {@link close} was called or the peer is gone; `send` is then a no-op. */
  readonly open: boolean;
  /** Bytes accepted by `send` and not yet taken by the operating system (or the peer's queue). */
  readonly bufferedBytes: number;
  /** Starts the delivery of frames. What came before is kept and delivered now. Called once. */
  start(events: TransportEvents): void;
  /** Queues frames, in order, in as few writes as possible. Never throws, never blocks. */
  send(frames: readonly string[]): void;
  /** Resolves when `bufferedBytes` is at most `limitBytes`, or when the transport has closed. */
  drained(limitBytes: number): Promise<void>;
  /** Closes; frames already queued are still sent where the peer takes them. Idempotent. */
  close(code?: number, reason?: string): void;
}
