import type { Logger } from "../../logger.ts";
import type { Masking } from "./masking.ts";

/** A logger that never gets to see a known secret, whatever an error quotes (CRD-7). */
export function maskingLogger(logger: Logger, masking: Masking): Logger {
  const level = (name: keyof Logger) => (fields: object, message: string) => {
    logger[name](masking.value(fields) as object, masking.text(message));
  };
  return { debug: level("debug"), info: level("info"), warn: level("warn"), error: level("error") };
}
