/** A view's look at a job's log, which stays followed for as long as the view is there. */
import { useEffect, useState } from "react";
import { JobLog, type LogState } from "./job-log.ts";
import { live } from "./live.ts";
import { useObservable } from "./observable.ts";

const NONE = new JobLog("");

/** @returns the log's state, and what follows it anew after a failure */
export function useJobLog(jobId: string | undefined): { state: LogState; again: () => void } {
  const [log, setLog] = useState(NONE);
  useEffect(() => {
    if (jobId === undefined) return;
    const own = live.logOf(jobId);
    setLog(own);
    return own.watch();
  }, [jobId]);
  const state = useObservable(log.state);
  return { state, again: () => void (jobId !== undefined && live.logOf(jobId)) };
}
