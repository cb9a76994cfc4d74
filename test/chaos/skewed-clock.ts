/**
 * Makes the clock of a process wrong: `node --import file:///…/skewed-clock.ts?offsetMs=30000 app.ts`. Timers and
 * `performance.now()` stay as they are, as on a machine whose clock was set wrong.
 */
const offsetMs = Number(new URL(import.meta.url).searchParams.get('offsetMs'));
const rightNow = Date.now.bind(Date);
const skewedNow = (): number => rightNow() + offsetMs;

globalThis.Date = new Proxy(Date, {
  construct: (date, given, newTarget) =>
    Reflect.construct(date, given.length === 0 ? [skewedNow()] : given, newTarget) as Date,
  apply: (date) => new date(skewedNow()).toString(),
  get: (date, name, receiver): unknown => (name === 'now' ? skewedNow : Reflect.get(date, name, receiver)),
});
