/** Submits a job in the page's own session, and goes to its timeline. */
import { type FormEvent, type KeyboardEvent, useState } from "react";
import { ArcpError } from "../../../src/client/index.ts";
import { clean } from "../format.ts";
import { live } from "../live.ts";
import { useObservable } from "../observable.ts";
import { Failure, Heading } from "../parts.tsx";
import { usePolled } from "../polling.ts";
import { go } from "../router.ts";
import type { AgentShape } from "../shapes.ts";

export function Submit() {
  const agents = usePolled<{ agents: readonly AgentShape[] }>("/agents", 0);
  const session = useObservable(live.session);
  const [chosen, setAgent] = useState("");
  const [input, setInput] = useState("null");
  const [budget, setBudget] = useState("");
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<{ code: string; message: string }>();
  const agent = chosen === "" ? (agents.data?.agents[0]?.name ?? "") : chosen;
  const send = async () => {
    const value = parsed(input);
    if (value === undefined) {
      setFailure({ code: "Input", message: "The input is no JSON; a text stands in double quotes." });
      return;
    }
    setBusy(true);
    setFailure(undefined);
    try {
      go("jobs", await live.submit(agent, value.value, budget.trim() === "" ? undefined : budget.trim()));
    } catch (error) {
      setFailure(failureOf(error));
      setBusy(false);
    }
  };
  return (
    <>
      <Heading title="Submit a job" />
      <form
        className="card form"
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          void send();
        }}
      >
        <label>
          Agent
          <select name="agent" value={agent} onChange={(event) => setAgent(event.target.value)}>
            {agents.data?.agents.flatMap(({ name, versions }) => [
              <option key={name} value={name}>
                {clean(name)}
              </option>,
              ...(versions.length > 1 ? versions : []).map((version) => (
                <option key={`${name}@${version}`} value={`${name}@${version}`}>
                  {clean(`${name}@${version}`)}
                </option>
              )),
            ])}
          </select>
        </label>
        <label>
          Input, as JSON
          <textarea
            name="input"
            rows={8}
            spellCheck={false}
            value={input}
            onChange={(event) => setInput(event.target.value)}
            onKeyDown={(event: KeyboardEvent) => {
              if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || busy) return;
              event.preventDefault();
              void send();
            }}
          />
        </label>
        <label>
          Budget, such as USD:5.00 (may be left out)
          <input name="budget" value={budget} onChange={(event) => setBudget(event.target.value)} />
        </label>
        {failure === undefined ? null : <Failure problem={failure} />}
        <div className="actions">
          <span className="quiet">Ctrl+Enter submits.</span>
          <button type="submit" className="primary" disabled={busy || agent === "" || session === undefined}>
            {session === undefined ? "Waiting for the connection…" : "Submit"}
          </button>
        </div>
      </form>
    </>
  );
}

export const failureOf = (error: unknown): { code: string; message: string } =>
  error instanceof ArcpError
    ? { code: error.code, message: error.message }
    : { code: "ERROR", message: error instanceof Error ? error.message : String(error) };

/** The value, or nothing for what is no JSON; an empty text is null. */
function parsed(text: string): { value: unknown } | undefined {
  try {
    return { value: text.trim() === "" ? null : (JSON.parse(text) as unknown) };
  } catch {
    return undefined;
  }
}
