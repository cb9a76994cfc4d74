import { createHash } from 'node:crypto';

/** The calls of the protocol. */
export type SandboxCall = 'open' | 'close' | 'look' | 'refund' | 'find';

/** How a sandbox behaves, to one attempt or to all. Shares are from 0 to 1. */
export interface SandboxBehaviour {
  /** Which calls the next four are about. Default: all. */
  readonly faultyCalls: readonly SandboxCall[];
  /** How much later than what was asked is done it is answered, ms. Default 0. */
  readonly slowMs: number;
  /** So many calls, the next ones, are answered with 503 and nothing is done. Default 0. */
  readonly failCount: number;
  /** So are these among the others. Default 0. */
  readonly failShare: number;
  /** Answers that are lost: what was asked is done, and the connection is cut. Default 0. */
  readonly loseAnswerShare: number;

  /** Attempts are not opened. Default false. */
  readonly refuseToOpen: boolean;
  /**
   * What becomes of an open attempt that is to be closed. `paid_before`: the customer had paid, and no webhook told.
   * `paid_now`: the customer pays at this moment; webhook and answer race. `processing_then_…`: the
   * money is on its way. Default `closed`.
   */
  readonly whenClosed:
    | 'closed'
    | 'paid_before'
    | 'paid_now'
    | 'processing_then_paid'
    | 'processing_then_closed';
  /** How long the money is on its way, ms. Default Infinity: until `settle`. */
  readonly processingMs: number;

  /**
   * How a refund ends. `confirmed`: its answer says so. `confirmed_twice`: a webhook says so, too. `…_later`: the answer is
   * `sent`, a webhook says the rest. `failed`: the answer says so. `refused`: nothing is done. Default `confirmed_later`.
   */
  readonly refunds:
    | 'confirmed'
    | 'confirmed_twice'
    | 'confirmed_later'
    | 'failed'
    | 'failed_later'
    | 'refused';
  /** How much later, ms. Default 0. Infinity: until `settleRefund`. */
  readonly refundMs: number;

  /** Webhooks wait for `deliverHeld`. Default false. */
  readonly holdWebhooks: boolean;
  /** Webhooks that are never sent. Default 0. */
  readonly loseWebhookShare: number;
  /** Webhooks that are sent twice, at once. Default 0. */
  readonly doubleWebhookShare: number;
  /** Webhooks that the next one about the same attempt or refund overtakes, if it comes within 2 s. Default 0. */
  readonly reorderWebhookShare: number;
  /** How late a webhook is sent, ms. Default 0. */
  readonly webhookDelayMs: number;
}

/** A provider that does nothing wrong. */
const goodBehaviour: SandboxBehaviour = {
  faultyCalls: ['open', 'close', 'look', 'refund', 'find'],
  slowMs: 0,
  failCount: 0,
  failShare: 0,
  loseAnswerShare: 0,
  refuseToOpen: false,
  whenClosed: 'closed',
  processingMs: Infinity,
  refunds: 'confirmed_later',
  refundMs: 0,
  holdWebhooks: false,
  loseWebhookShare: 0,
  doubleWebhookShare: 0,
  reorderWebhookShare: 0,
  webhookDelayMs: 0,
};

/** Draws a number from 0 to 1, 1 excluded, about an attempt or a refund. */
export type Draw = (id: string, what: string) => number;

/**
 * Draws that a seed decides: the third time that it is asked whether the answer about the seventh attempt is lost it says
 * the same in every run, whatever happened to the others in between. Ids differ from run to run, so it counts them.
 */
export function drawsOf(seed: string): Draw {
  const numbers = new Map<string, number>();
  const counts = new Map<string, number>();
  return (id, what) => {
    const number = numbers.get(id) ?? numbers.size;
    numbers.set(id, number);
    const question = `${number}/${what}`;
    const count = counts.get(question) ?? 0;
    counts.set(question, count + 1);
    return createHash('sha256').update(`${seed}/${question}/${count}`).digest().readUInt32BE() / 2 ** 32;
  };
}

/** How it behaves to one attempt besides; asked when it first hears of it. `n` counts the attempts from 0. */
export type SandboxScript = (attempt: {
  readonly n: number;
  readonly attemptId: string;
  readonly orderId: string;
}) => Partial<SandboxBehaviour>;

/** How a sandbox behaves to whom. */
export interface Behaviours {
  /** The behaviour to an attempt: its own, and where that says nothing the general one. */
  readonly to: (attemptId: string) => SandboxBehaviour;
  /** Changes the behaviour to one attempt, or the general one. */
  readonly set: (change: Partial<SandboxBehaviour>, attemptId?: string) => void;
  /** Lets the script decide about an attempt that is new. */
  readonly hear: (attempt: { readonly attemptId: string; readonly orderId: string }) => void;
  /** Whether a call is one of the `failCount` that fail; it is counted. */
  readonly takeFailure: (attemptId: string) => boolean;
}

export function behavioursOf(first: Partial<SandboxBehaviour>, script?: SandboxScript): Behaviours {
  let general: SandboxBehaviour = { ...goodBehaviour, ...first };
  const own = new Map<string, Partial<SandboxBehaviour>>();
  const heardOf = new Set<string>();

  const to = (attemptId: string): SandboxBehaviour => ({ ...general, ...own.get(attemptId) });
  const set = (change: Partial<SandboxBehaviour>, attemptId?: string): void => {
    if (attemptId === undefined) general = { ...general, ...change };
    else own.set(attemptId, { ...own.get(attemptId), ...change });
  };

  return {
    to,
    set,
    hear({ attemptId, orderId }) {
      if (script === undefined || heardOf.has(attemptId)) return;
      set(script({ n: heardOf.size, attemptId, orderId }), attemptId);
      heardOf.add(attemptId);
    },
    takeFailure(attemptId) {
      const { failCount } = to(attemptId);
      if (failCount === 0) return false;
      const isOwn = own.get(attemptId)?.failCount !== undefined;
      set({ failCount: failCount - 1 }, isOwn ? attemptId : undefined);
      return true;
    },
  };
}
