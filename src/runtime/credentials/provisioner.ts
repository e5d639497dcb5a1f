import { z } from "zod";
import type { Lease } from "../../protocol/index.ts";

/** For whom and what credentials are asked for. */
export interface CredentialRequest {
  /**
   * Ours, made before you are asked and stored: what you issue must be revocable by this id alone. It differs
   * from the ids on the wire, which stay the same when credentials are rotated.
   */
  credentialId: string;
  jobId: string;
  principal: string;
  /** `name@version`. */
  agent: string;
  lease: Lease;
  /** Wall milliseconds; nothing should be good for longer. */
  leaseExpiresAt?: number | undefined;
  traceId: string;
  /** Aborts when it takes too long. What you issue all the same is revoked. */
  signal: AbortSignal;
}

export interface CredentialRevocation {
  credentialId: string;
  jobId: string;
  /** Aborts when it takes too long; it is then tried again. */
  signal: AbortSignal;
}

/** A credential as it was issued upstream. */
export interface IssuedCredential {
  scheme: "bearer";
  /** The secret: 16 to 8,192 characters, in none of the other fields. */
  value: string;
  /** An http or https URL without user or password. */
  endpoint: string;
  profile?: string | undefined;
  /** Told to the client, stored, logged: no secret belongs here. 4 KiB of JSON at the most. */
  constraints?: Record<string, unknown> | undefined;
}

/**
 * Where credentials come from, e.g. a gateway that hands out keys: the host's own code (SPEC.md, CRD).
 * Whatever it throws counts as a failure; the error itself is neither logged nor sent, for it may quote a
 * secret. Log what you need.
 */
export interface CredentialProvisioner {
  /** Issues what one job gets: one credential, or several that live and die together. The last issue counts. */
  issue(request: CredentialRequest): Promise<IssuedCredential | readonly IssuedCredential[]>;
  /**
   * Resolves when nothing that was issued under that id is good any more, nor ever will be: an issue that is
   * still under way must come to nothing. May be called again, and for ids that you have never heard of.
   */
  revoke(request: CredentialRevocation): Promise<void>;
}

const MIN_VALUE_CHARS = 16;
const MAX_VALUE_CHARS = 8_192;
const MAX_CONSTRAINTS_CHARS = 4_096;
const MAX_CREDENTIALS = 16;

const ISSUED = z.object({
  scheme: z.literal("bearer"),
  value: z
    .string()
    .min(MIN_VALUE_CHARS)
    .max(MAX_VALUE_CHARS)
    .refine((value) => value.isWellFormed(), "must be well-formed Unicode"),
  endpoint: z
    .url({ protocol: /^https?$/ })
    .max(2_048)
    .refine((url) => URL.canParse(url) && !hasUser(url), "must hold no user or password"),
  profile: z.string().min(1).max(256).optional(),
  constraints: z
    .record(z.string(), z.json())
    .refine(
      (constraints) => JSON.stringify(constraints).length <= MAX_CONSTRAINTS_CHARS,
      `must take at most ${MAX_CONSTRAINTS_CHARS} characters of JSON`,
    )
    .optional(),
});

const hasUser = (url: string): boolean => {
  const { username, password } = new URL(url);
  return username !== "" || password !== "";
};

/** What a provisioner has answered is no credential. The message names the field and never repeats a value. */
export class WrongAnswer extends Error {
  override readonly name = "WrongAnswer";
}

/**
 * Checks what a provisioner has answered. What it holds besides is dropped.
 *
 * @throws WrongAnswer
 */
export function checkIssued(answer: unknown): IssuedCredential[] {
  const list: unknown[] = Array.isArray(answer) ? answer : [answer];
  if (list.length === 0 || list.length > MAX_CREDENTIALS) {
    throw new WrongAnswer(`The provisioner answered ${list.length} credentials; 1 to ${MAX_CREDENTIALS} are fine.`);
  }
  const issued = list.map((one, index) => {
    const result = ISSUED.safeParse(one);
    if (result.success) return result.data;
    const [issue] = result.error.issues;
    // Of the path the first word only: what lies deeper is the provisioner's own, and may be anything.
    throw new WrongAnswer(`[${index}].${String(issue?.path[0] ?? "")}: ${issue?.message ?? "is no credential"}`);
  });
  for (const [index, { scheme: _, value: __, ...told }] of issued.entries()) {
    const text = JSON.stringify(told);
    if (issued.some(({ value }) => text.includes(JSON.stringify(value).slice(1, -1)))) {
      throw new WrongAnswer(`[${index}]: a value is repeated in endpoint, profile or constraints, which are stored.`);
    }
  }
  return issued;
}
