/**
 * On whose behalf something is done, known wherever the work goes (LCK-8): a lock that is taken within names its
 * holder by it, for an anonymous lock cannot be diagnosed.
 */
import { AsyncLocalStorage } from "node:async_hooks";

export interface RequestContext {
  /** Who holds what is taken within: a job's id, a request's. */
  readonly holder: string;
  readonly userId?: string | undefined;
}

const storage = new AsyncLocalStorage<RequestContext>();

/** Runs `work` in that context, and whatever it awaits. */
export const withRequestContext = <T>(context: RequestContext, work: () => T): T => storage.run(context, work);

export const requestContext = (): RequestContext | undefined => storage.getStore();
