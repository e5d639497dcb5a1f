/** A list as a table, which on a narrow screen becomes a card for each row. */
import type { ReactNode } from "react";
import type { Pages } from "./paging.ts";

export interface Column<T> {
  label: string;
  cell: (item: T) => ReactNode;
  numeric?: true;
}

export function Table<T>(props: {
  caption: string;
  columns: readonly Column<T>[];
  items: readonly T[];
  keyOf: (item: T) => string;
}) {
  const { columns, items, keyOf } = props;
  return (
    <table className="list">
      <caption className="visually-hidden">{props.caption}</caption>
      <thead>
        <tr>
          {columns.map(({ label, numeric }) => (
            <th key={label} scope="col" className={numeric && "numeric"}>
              {label}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {items.map((item) => (
          <tr key={keyOf(item)}>
            {columns.map(({ label, cell, numeric }) => (
              <td key={label} data-label={label} className={numeric && "numeric"}>
                {cell(item)}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Pager({ pages }: { pages: Pick<Pages<unknown>, "page" | "older" | "newer"> }) {
  const { page, older, newer } = pages;
  if (older === undefined && newer === undefined) return null;
  return (
    <nav className="pager" aria-label="Pages">
      <button type="button" disabled={newer === undefined} onClick={newer}>
        ← Newer
      </button>
      <span className="quiet">Page {page}</span>
      <button type="button" disabled={older === undefined} onClick={older}>
        Older →
      </button>
    </nav>
  );
}
