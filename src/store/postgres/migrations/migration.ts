/** One step of the schema, embedded in the build. Released ones never change. */
export interface Migration {
  /** 1, 2, 3 … without a hole. */
  number: number;
  name: string;
  /** Whether builds that do not know it must keep off the schema (STO-10). */
  breaking: boolean;
  /** Names carry the mark `$.` for the store's schema. */
  sql: string;
}
