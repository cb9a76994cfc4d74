import type { Order, PaymentAttempt } from '@lapse/client';
import type { Database } from '@lapse/runtime';

import { compareBooks, readMoneyRows, type Books, type LedgerBreaches } from './books.ts';
import { stockAtStart, type PlannedOrder } from './plan.ts';

/** Which call was made. */
export type Call = 'checkout' | 'pay' | 'cancel' | 'extend' | 'open';

/** One answer with 200 or 201 that says what an order is, as the shop heard it. */
export interface Told {
  readonly call: Exclude<Call, 'open'>;
  readonly order: Order;
  /** The capture that was told, and what the answer said about it; only for `pay`. */
  readonly capture?: { readonly id: string; readonly outcome: string; readonly recordedAs: string };
}

/** What the shop knows about one order: what it asked for, and everything it was ever told. */
export interface Entry {
  readonly planned: PlannedOrder;
  /** Calls that were sent at least once, answered or not. */
  readonly sent: Set<Call>;
  readonly told: Told[];
  /** The payment attempts that it was told of. */
  readonly attempts: PaymentAttempt[];
}

/** The shop's own book. What stands in it was acknowledged, so it must be true of the rows for ever. */
export class Ledger {
  readonly entries = new Map<string, Entry>();

  /** Opens an entry for an order that is about to be placed. */
  open(planned: PlannedOrder): Entry {
    const entry: Entry = { planned, sent: new Set(), told: [], attempts: [] };
    this.entries.set(planned.reference, entry);
    return entry;
  }

  /** How many orders were answered with 201. */
  get placedCount(): number {
    return this.entries
      .values()
      .filter(({ told }) => told.length > 0)
      .reduce((count) => count + 1, 0);
  }
}

interface OrderRow {
  readonly id: string;
  readonly reference: string;
  readonly status: Order['status'];
  readonly cancelReason: Order['cancelReason'];
  readonly amount: number;
  readonly deadlineAt: Date;
  readonly cancelledAt: Date | null;
  /** Late money paid it after all. */
  readonly isReinstated: boolean;
}

interface CaptureRow {
  readonly orderId: string | null;
  readonly captureId: string;
  readonly outcome: string;
}

/**
 * Compares the ledger, and the books of the payment providers, with the rows, and the stock with what was sold. Nothing may
 * be under way any more.
 */
export async function checkLedger(ledger: Ledger, books: Books, database: Database): Promise<LedgerBreaches> {
  const { rows: orders } = await database.query<OrderRow>(
    `select id, reference, status, cancel_reason as "cancelReason", amount, deadline_at as "deadlineAt",
       cancelled_at as "cancelledAt",
       exists (select from events e where e.order_id = o.id and e.type = 'order.reinstated') as "isReinstated"
     from orders o`,
  );
  const { rows: captures } = await database.query<CaptureRow>(
    'select order_id as "orderId", provider_payment_id as "captureId", outcome from payments',
  );
  const byReference = Map.groupBy(orders, ({ reference }) => reference);
  const byCapture = Map.groupBy(captures, ({ captureId }) => captureId);
  const attempts = Array.from(ledger.entries.values()).flatMap((entry) => entry.attempts);
  const money = compareBooks(books, await readMoneyRows(database), attempts);
  const lost = [...money.lost];
  const duplicated = [...money.duplicated];
  const wrong = [...money.wrong, ...(await checkStock(database))];
  const captured = new Set(books.captures.map(({ orderId }) => orderId));

  for (const [reference, entry] of ledger.entries) {
    const rows = byReference.get(reference) ?? [];
    if (rows.length > 1) duplicated.push(`${reference} is ${rows.map(({ id }) => id).join(' and ')}`);
    for (const told of entry.told) {
      const row = rows.find(({ id }) => id === told.order.id);
      if (row === undefined) lost.push(`${reference}: ${told.order.id} was told by ${told.call}`);
      else wrong.push(...contradictions(told, row).map((found) => `${reference} ${row.id}: ${found}`));
      if (told.capture === undefined) continue;
      const recorded = byCapture.get(told.capture.id) ?? [];
      if (recorded.length === 0) lost.push(`${reference}: capture ${told.capture.id} was told`);
      if (recorded.length > 1) duplicated.push(`capture ${told.capture.id}: ${recorded.length} payments`);
      const [payment] = recorded;
      if (payment !== undefined)
        wrong.push(
          ...captureContradictions(told.capture, payment, row).map((found) => `${reference}: ${found}`),
        );
    }
    for (const row of rows)
      wrong.push(...unasked(entry, row, captured).map((found) => `${reference} ${row.id}: ${found}`));
  }
  return { lost, wrong, duplicated };
}

/** What an answer said about its order, against the row. */
function contradictions({ call, order }: Told, row: OrderRow): string[] {
  const found: string[] = [];
  const isReinstated = row.isReinstated && order.cancelReason === 'payment_timeout';
  if (order.status !== 'pending_payment' && row.status !== order.status && !isReinstated)
    found.push(`${call} said ${order.status}, it is ${row.status}`);
  if (order.cancelReason !== null && row.cancelReason !== order.cancelReason && !isReinstated)
    found.push(`${call} said cancelled by ${order.cancelReason}, it is ${row.cancelReason ?? row.status}`);
  if (row.amount !== order.amount) found.push(`${call} said amount ${order.amount}, it is ${row.amount}`);
  const deadlineAt = new Date(order.deadlineAt ?? '');
  if (row.deadlineAt < deadlineAt)
    found.push(`${call} gave time until ${order.deadlineAt}, it is ${row.deadlineAt.toISOString()}`);
  if (row.cancelReason === 'payment_timeout' && row.cancelledAt !== null && row.cancelledAt < deadlineAt)
    found.push(`cancelled at ${row.cancelledAt.toISOString()}, time was given until ${order.deadlineAt}`);
  return found;
}

/** What an answer said about a capture, against its payment and the order. */
function captureContradictions(
  told: NonNullable<Told['capture']>,
  payment: CaptureRow,
  row: OrderRow | undefined,
): string[] {
  const found: string[] = [];
  if (row !== undefined && payment.orderId !== row.id)
    found.push(`capture ${told.id} is recorded for ${payment.orderId ?? 'none'}`);
  for (const outcome of new Set([told.outcome, told.recordedAs]))
    if (outcome !== 'already_recorded' && outcome !== payment.outcome)
      found.push(`capture ${told.id} was told ${outcome}, it is ${payment.outcome}`);
  const needed = { paid: 'paid', duplicate: 'paid', late: 'cancelled' }[payment.outcome];
  const wasLate = payment.outcome === 'late' && row?.isReinstated === true;
  if (row !== undefined && needed !== undefined && row.status !== needed && !wasLate)
    found.push(`capture ${told.id} is ${payment.outcome}, the order is ${row.status}`);
  return found;
}

/** What happened to an order although nobody asked for it. */
function unasked({ planned, sent }: Entry, row: OrderRow, captured: ReadonlySet<string>): string[] {
  const found: string[] = [];
  if (row.amount !== planned.amount) found.push(`amount ${row.amount} instead of ${planned.amount}`);
  if (row.status === 'paid' && !sent.has('pay') && !captured.has(row.id))
    found.push('paid, although nobody paid');
  if (row.isReinstated && planned.paymentMethod !== 'bank_transfer')
    found.push(`reinstated, although its late money goes back or waits for a person`);
  if (row.status === 'cancelled' && row.cancelReason !== 'payment_timeout' && !sent.has('cancel'))
    found.push(`cancelled by ${row.cancelReason ?? '?'}, although nobody asked`);
  return found;
}

/** Stock is conserved: what is on hand is what was there, less what paid orders took. */
async function checkStock(database: Database): Promise<string[]> {
  const { rows } = await database.query<{ sku: string; onHand: number; sold: number }>(
    `select s.sku, s.on_hand as "onHand", coalesce(sold.quantity, 0)::bigint as sold
     from stock s
     left join (
       select item.sku, sum(item.quantity) as quantity
       from orders o cross join lateral jsonb_to_recordset(o.items) as item (sku text, quantity bigint)
       where o.status = 'paid' group by item.sku
     ) as sold on sold.sku = s.sku`,
  );
  const found = new Map(rows.map((row) => [row.sku, row]));
  return Array.from(stockAtStart).flatMap(([sku, start]) => {
    const row = found.get(sku);
    if (row !== undefined && row.onHand === start - row.sold) return [];
    return [`stock of ${sku}: ${start} at the start, ${row?.sold ?? '?'} sold, ${row?.onHand ?? '?'} left`];
  });
}
