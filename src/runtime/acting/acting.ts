/** The ways in which one job acts, made when it first does (ACT). */
import { type ActingSeam, Acts } from "./acts.ts";
import { JobFetch } from "./fetch.ts";
import { JobFiles } from "./files.ts";
import { JobTools, type ToolRegistry } from "./tools.ts";

export class Acting {
  readonly tools: JobTools;
  readonly fs: JobFiles;
  readonly network: JobFetch;

  constructor(run: ActingSeam, registry: ToolRegistry) {
    const acts = new Acts(run);
    this.tools = new JobTools(run, acts, registry);
    this.fs = new JobFiles(run, acts);
    this.network = new JobFetch(run, acts);
  }
}
