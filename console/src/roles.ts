/** What the one who is logged in may do; the server decides, and the page shows no button that it would refuse. */
import { access, type Who } from "./api.ts";
import { useObservable } from "./observable.ts";

export interface Rights {
  principal: string;
  mayChange: boolean;
  isOperator: boolean;
}

export const rightsOf = ({ principal, role }: Who): Rights => ({
  principal,
  mayChange: role !== "observer",
  isOperator: role === "operator",
});

const NOBODY: Rights = { principal: "", mayChange: false, isOperator: false };

export function useRights(): Rights {
  const value = useObservable(access);
  if (value.state === "in") return rightsOf(value.who);
  return value.state === "out" && value.was !== undefined ? rightsOf(value.was) : NOBODY;
}
