/**
 * Where a login leads: the page that was asked for, if it is one of ours, else the overview. What a browser would take
 * for another site (`//evil.example`, `/\evil.example`, `/.//evil.example`) is none of ours.
 */
export function localPage(wished: string): string {
  const here = 'http://here.invalid';
  if (!wished.startsWith('/') || !URL.canParse(wished, here)) return '/';
  const { origin, pathname, search } = new URL(wished, here);
  return origin === here && !pathname.startsWith('//') ? pathname + search : '/';
}
