import type { Order, OrderEvent, OrderStatus } from '@lapse/orders';

/** A labelled value: an instant, or anything else as text. */
export interface Fact {
  readonly label: string;
  readonly text?: string;
  readonly at?: Date;
}

/** Currencies by the number of their minor unit's decimals in ISO 4217, where it is not 2. */
const decimals: readonly [count: number, currencies: string][] = [
  [0, 'BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF'],
  [3, 'BHD IQD JOD KWD LYD OMR TND'],
  [4, 'CLF UYW'],
];
const exponents = new Map(
  decimals.flatMap(([exponent, codes]) => codes.split(' ').map((code): [string, number] => [code, exponent])),
);

/**
 * Money as people write it, `EUR 1,234.50`: as many decimals as the currency's minor unit has, exact up to 2^53 - 1.
 * Intl's own decimals are those that people care to see: none for 16 currencies whose minor units are hundredths or
 * thousandths.
 */
export function money(amount: number, currency: string): string {
  const exponent = exponents.get(currency) ?? 2;
  const format = new Intl.NumberFormat('en', {
    style: 'currency',
    currency,
    currencyDisplay: 'code',
    minimumFractionDigits: exponent,
    maximumFractionDigits: exponent,
  });
  const digits = String(amount).padStart(exponent + 1, '0');
  const decimal = exponent === 0 ? digits : `${digits.slice(0, -exponent)}.${digits.slice(-exponent)}`;
  return isNumeral(decimal) ? format.format(decimal) : `${currency} ${decimal}`;
}

function isNumeral(text: string): text is `${number}` {
  return /^\d+(\.\d+)?$/.test(text);
}

/** A whole number, `12,345`. */
export function count(value: number): string {
  return new Intl.NumberFormat('en').format(value);
}

const units: readonly [name: string, ms: number][] = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1000],
  ['ms', 1],
];

/** A duration in its two largest units, `29 min 58 s`, `1 s 4 ms`. */
export function duration(ms: number): string {
  const whole = Math.round(Math.abs(ms));
  const first = Math.max(
    0,
    units.findIndex(([, size]) => whole >= size),
  );
  if (whole === 0) return '0 ms';
  let rest = whole;
  const parts = units.slice(first, first + 2).flatMap(([name, size]) => {
    const many = Math.floor(rest / size);
    rest -= many * size;
    return many === 0 ? [] : [`${many} ${name}`];
  });
  return parts.join(' ');
}

/** An order's status as people read it. */
export const statusNames: Readonly<Record<OrderStatus, string>> = {
  pending_payment: 'pending payment',
  paid: 'paid',
  cancelled: 'cancelled',
};

/** What a list says about an order. */
export function orderLine(order: Order) {
  return {
    id: order.id,
    reference: order.reference,
    status: order.status,
    statusName: statusNames[order.status],
    reason: order.cancelReason === null ? null : words(order.cancelReason),
    amount: money(order.amount, order.currency),
    createdAt: order.createdAt,
    deadlineAt: order.deadlineAt,
    remaining: remaining(order),
  };
}

function remaining(order: Order): string | null {
  if (order.status !== 'pending_payment') return null;
  if (order.deadlineAt === null || order.remainingMs === null) return 'waits for ever';
  if (order.remainingMs > 0) return `in ${duration(order.remainingMs)}`;
  return `overdue by ${duration(Math.max(0, Date.now() - order.deadlineAt.getTime()))}`;
}

const eventNames: Readonly<Record<string, string>> = {
  'order.placed': 'Order placed',
  'order.paid': 'Order paid',
  'order.cancelled': 'Order cancelled',
  'order.extended': 'Deadline extended',
  'order.thawed': 'Deadline moved by a thaw',
  'order.reinstated': 'Order reinstated',
  'order.payment_reminder': 'Customer reminded of the payment',
  'order.closing': 'Time is over, providers are asked',
  'attempt.opened': 'Payment attempt opened',
  'attempt.closed': 'Payment attempt closed',
  'attempt.refused': 'Payment attempt refused by the provider',
  'attempt.paid': 'Payment attempt paid',
  'payment.listed': 'Payment put on the work list',
  'payment.refund_due': 'Payment is to go back',
  'payment.resolved': 'Payment decided about',
  'refund.sent': 'Refund sent',
  'refund.confirmed': 'Refund confirmed',
  'refund.failed': 'Refund refused by the provider',
};

/** An event as a person reads it. Events this version does not know are shown with what they carry. */
export function eventEntry(event: OrderEvent, placedAt: Date) {
  const sinceMs = event.at.getTime() - placedAt.getTime();
  return {
    type: event.type,
    name: eventNames[event.type] ?? event.type,
    at: event.at,
    since: sinceMs > 0 ? `+${duration(sinceMs)}` : null,
    actor: event.actor,
    facts: facts(event.data),
  };
}

const instantForm = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/;

/** The order people read facts in; jsonb keeps none. Others follow. */
const reading = [
  'reason',
  'outcome',
  'amount',
  'from',
  'to',
  'deadlineAt',
  'expireAt',
  'latenessMs',
  'provider',
];
const labels: Readonly<Record<string, string>> = {
  expireAt: 'was due',
  latenessMs: 'late by',
  frozenMs: 'frozen for',
};

function rank(name: string): number {
  const place = reading.indexOf(name);
  return place === -1 ? reading.length : place;
}

/** The data of an event, labelled. What a value is follows from its name and form: `…At`, `…Ms`, amount and currency. */
export function facts(data: Readonly<Record<string, unknown>>): Fact[] {
  const { currency } = data;
  const isMoney =
    typeof data['amount'] === 'number' && typeof currency === 'string' && /^[A-Z]{3}$/.test(currency);
  return Object.entries(data)
    .filter(([name]) => !(isMoney && name === 'currency'))
    .toSorted(([a], [b]) => rank(a) - rank(b))
    .map(([name, value]): Fact => {
      const label = labels[name] ?? words(name.replace(/(At|Ms)$/, ''));
      // A reason of ours is a name; one of a provider or a person stays as it was said.
      if ((name === 'reason' || name === 'outcome') && typeof value === 'string' && /^[a-z_]+$/.test(value))
        return { label, text: words(value) };
      if (isMoney && name === 'amount' && typeof value === 'number')
        return { label, text: money(value, currency) };
      if (name.endsWith('Ms') && typeof value === 'number') return { label, text: duration(value) };
      if (value === null) return { label, text: 'none' };
      if (typeof value !== 'string') return { label, text: JSON.stringify(value) };
      return instantForm.test(value) ? { label, at: new Date(value) } : { label, text: value };
    });
}

/** `providerPaymentId` → `provider payment id`, `payment_timeout` → `payment timeout`. */
export function words(name: string): string {
  return name
    .replaceAll('_', ' ')
    .replaceAll(/([a-z])([A-Z])/g, '$1 $2')
    .toLowerCase();
}
