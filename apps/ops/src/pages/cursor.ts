/** The end of a page of a list that goes by age: the instant and the id of its last entry. */
export interface Cursor {
  readonly at: Date;
  readonly id: string;
}

/** Reads a cursor out of a URL; undefined where it is none. */
export function parseCursor(text: string): Cursor | undefined {
  const [, atMs, id] = /^(\d{1,15})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/.exec(text) ?? [];
  return atMs === undefined || id === undefined ? undefined : { at: new Date(Number(atMs)), id };
}

/** Writes a cursor as it stands in a URL. */
export function formatCursor({ at, id }: Cursor): string {
  return `${at.getTime()}.${id}`;
}
