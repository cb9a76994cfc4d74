import type { Orders } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

const orderId = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** `lapse order`. */
export async function showOrder(orders: Orders, id: string): Promise<void> {
  const order = orderId.test(id) ? await orders.find(id.toLowerCase()) : undefined;
  if (order === undefined) throw new OperatorError(`There is no order ${id}. Order ids are UUIDs.`);
  const [events, payments, attempts] = await Promise.all([
    orders.timeline(order.id),
    orders.payments(order.id),
    orders.attempts(order.id),
  ]);
  const reason = order.cancelReason === null ? '' : ` (${order.cancelReason})`;
  console.log(`${order.id}  ${order.status}${reason}`);
  console.log(`  reference  ${order.reference ?? '–'}`);
  console.log(`  amount     ${order.amount} ${order.currency} in minor units`);
  const deadline = order.deadlineAt?.toISOString() ?? 'none';
  console.log(
    `  deadline   ${deadline}${order.remainingMs === null ? '' : `, ${order.remainingMs} ms left`}`,
  );
  for (const { sku, quantity, unitAmount } of order.items)
    console.log(`  item       ${quantity} × ${sku} at ${unitAmount}`);
  for (const { provider, state, providerAttemptId, verdict } of attempts) {
    const said = verdict === null ? '' : `, the provider says ${verdict}`;
    console.log(`  attempt    ${provider} ${providerAttemptId ?? ''}: ${state}${said}`);
  }
  for (const { provider, providerPaymentId, amount, currency, outcome, refund } of payments) {
    const back = refund === null ? '' : `, refund ${refund.state}`;
    console.log(`  payment    ${amount} ${currency}, ${provider} ${providerPaymentId}: ${outcome}${back}`);
  }
  for (const { at, type, actor, data } of events) {
    console.log(`  ${at.toISOString()}  ${type.padEnd(16)} ${actor.padEnd(8)} ${JSON.stringify(data)}`);
  }
}
