/** Where a token is changed for a login. The token stays in the field's memory until then, and nowhere else. */
import { type FormEvent, useState } from "react";
import { login, Problem, type Who } from "./api.ts";
import { Failure } from "./parts.tsx";

export function LoginForm({ was }: { was: Who | undefined }) {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState<Problem>();
  const [busy, setBusy] = useState(false);
  const onSubmit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      await login(token.trim());
    } catch (error) {
      setProblem(error instanceof Problem ? error : new Problem(0, "ERROR", String(error)));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form className="login" onSubmit={(event) => void onSubmit(event)}>
      <p>
        {was === undefined
          ? "Log in with a token of this server."
          : "Your login has ended, by its time, with its token, or by a logout elsewhere. Log in again; what you see stays."}
      </p>
      <label>
        Token
        <input
          type="password"
          name="token"
          autoComplete="current-password"
          required
          // biome-ignore lint/a11y/noAutofocus: it is all that there is to do
          autoFocus
          value={token}
          onChange={(event) => setToken(event.target.value)}
        />
      </label>
      <button type="submit" className="primary" disabled={busy || token.trim() === ""}>
        {busy ? "Logging in…" : "Log in"}
      </button>
      {problem === undefined ? null : <Failure problem={problem} />}
    </form>
  );
}
