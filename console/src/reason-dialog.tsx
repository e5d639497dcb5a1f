/** Asks why before something is done that cannot be undone. */
import { type FormEvent, useState } from "react";
import { Problem } from "./api.ts";
import { Dialog, Failure } from "./parts.tsx";

export function ReasonDialog(props: {
  title: string;
  explanation: string;
  action: string;
  needsReason: boolean;
  act: (reason: string) => Promise<void>;
  onClose: () => void;
}) {
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem>();
  const onSubmit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      await props.act(reason.trim());
      props.onClose();
    } catch (error) {
      setProblem(error instanceof Problem ? error : new Problem(0, "ERROR", String(error)));
      setBusy(false);
    }
  };
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <form onSubmit={(event) => void onSubmit(event)}>
        <p>{props.explanation}</p>
        <label>
          Reason{props.needsReason ? "" : " (may be left out)"}
          <input maxLength={1024} value={reason} onChange={(event) => setReason(event.target.value)} />
        </label>
        {problem === undefined ? null : <Failure problem={problem} />}
        <div className="actions">
          <button type="button" onClick={props.onClose}>
            Keep it
          </button>
          <button type="submit" className="danger" disabled={busy || (props.needsReason && reason.trim() === "")}>
            {props.action}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
