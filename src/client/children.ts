/**
 * The jobs that one job delegates, as its session is told of them. A `delegate` event says that one is to come; the
 * `job.accepted` that names it may come after the parent's own end, and a `tool_result` says that it never will.
 */
export class Children<Child> {
  readonly #told: Child[] = [];
  /** Delegations that were announced and of which nothing was heard yet. */
  readonly #announced = new Set<string>();
  #over = false;
  #wake: (() => void)[] = [];

  /** Whether children may come although the parent has ended. */
  get expected(): boolean {
    return this.#announced.size > 0;
  }

  /** An event of the parent. */
  see(kind: string, body: unknown): void {
    const { delegate_id: delegateId, call_id: callId } = (body ?? {}) as { delegate_id?: unknown; call_id?: unknown };
    if (kind === "delegate" && typeof delegateId === "string") this.#announced.add(delegateId);
    if (kind === "tool_result" && typeof callId === "string") this.#settle(callId);
  }

  add(child: Child, delegateId: string): void {
    this.#told.push(child);
    this.#settle(delegateId);
  }

  /** The parent has ended: what was announced still comes, unless nobody tells this session of it. */
  end(nothingMore = false): void {
    this.#over = true;
    if (nothingMore) this.#announced.clear();
    this.#wakeAll();
  }

  /** From the first one on, whenever it is asked for. */
  async *iterate(): AsyncGenerator<Child, undefined, undefined> {
    for (let next = 0; ; ) {
      const child = this.#told[next];
      if (child !== undefined) {
        next += 1;
        yield child;
      } else if (this.#over && !this.expected) {
        return;
      } else {
        await new Promise<void>((resolve) => this.#wake.push(resolve));
      }
    }
  }

  #settle(delegateId: string): void {
    this.#announced.delete(delegateId);
    this.#wakeAll();
  }

  #wakeAll(): void {
    for (const resolve of this.#wake.splice(0)) resolve();
  }
}
