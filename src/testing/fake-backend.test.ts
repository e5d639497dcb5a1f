/** The fake keeps the contract that real backends keep, so what is tested against it holds for them. */
import type { BackendEvent } from "../conversation/upstream/backend.ts";
import { backendContract } from "./backend-contract.ts";
import { FakeBackend } from "./fake-backend.ts";

function* forEver(): Iterable<BackendEvent> {
  for (;;) yield { type: "text", text: "and on " };
}

backendContract("the fake", async () => {
  const backend = new FakeBackend();
  backend.answer = (text) => {
    if (text === "ask") {
      return [{ type: "permission", permissionId: "p1", title: "may I?", tool: undefined, args: {} }];
    }
    return text === "for ever" ? forEver() : [{ type: "text", text: `you said ${text}` }];
  };
  backend.refuses = (permissions) => permissions === "too much";
  return {
    backend,
    unknownId: "ses_none",
    permissionPrompt: "ask",
    endlessPrompt: "for ever",
    badPermissions: "too much",
    goDown: () => {
      backend.down = true;
    },
    async [Symbol.asyncDispose]() {},
  };
});
