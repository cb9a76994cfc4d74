/** What is written on everything of ours at Stripe. An account may take money for other things, too. */
const attemptKey = 'lapse_attempt_id';
const orderKey = 'lapse_order_id';
const refundKey = 'lapse_refund_id';
/** On forms alone: nothing else at Stripe tells whether a PaymentIntent is one, or the payment of a page. */
const handOffKey = 'lapse_hand_off';

type Metadata = Readonly<Record<string, string>>;

/** For a page, and its payment. */
export function attemptMetadata({ attemptId, orderId }: { attemptId: string; orderId: string }) {
  return { [attemptKey]: attemptId, [orderKey]: orderId };
}

/** For the payment of a form. */
export function formMetadata(attempt: { attemptId: string; orderId: string }) {
  return { ...attemptMetadata(attempt), [handOffKey]: 'client_secret' };
}

/** For a refund. */
export function refundMetadata({ refundId, orderId }: { refundId: string; orderId: string | null }) {
  return { [refundKey]: refundId, ...(orderId === null ? {} : { [orderKey]: orderId }) };
}

/** Which attempt and order of ours it is about; undefined: it is not ours. What is no id of ours is null. */
export function attemptIn(metadata: Metadata) {
  if (!(attemptKey in metadata || orderKey in metadata)) return undefined;
  return { attemptId: uuidIn(metadata, attemptKey), orderId: uuidIn(metadata, orderKey) };
}

/** Whether it is the payment of a form. */
export function isForm(metadata: Metadata): boolean {
  return metadata[handOffKey] === 'client_secret';
}

/** Which refund of ours it is; null: none. */
export function refundIn(metadata: Metadata): string | null {
  return uuidIn(metadata, refundKey);
}

/** Metadata can be edited by hand, in Stripe's dashboard. */
function uuidIn(metadata: Metadata, key: string): string | null {
  const value = metadata[key];
  return value !== undefined && /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i.test(value) ? value : null;
}
