import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Draw, SandboxBehaviour } from './behaviour.ts';
import { signedHeaders } from './signature.ts';
import type { Tasks } from './tasks.ts';

/** Pauses before a webhook that was not taken is sent again, ms. After the last one it is given up. */
const pausesMs = [100, 300, 1000, 3000, 9000];

/** How long a receiver may take, ms. */
const timeoutMs = 5000;

/** How long a webhook that is to be overtaken waits for another one, ms. */
const overtakenMs = 2000;

/** What became of the webhooks. */
export interface WebhookCounts {
  /** What there was to tell. */
  told: number;
  /** Never sent, on purpose, or because there is no URL. */
  lost: number;
  doubled: number;
  reordered: number;
  /** Answered with 2xx; each copy counts. */
  delivered: number;
  /** Tries that were not. */
  failedTries: number;
  /** Copies that were given up after the last try. */
  givenUp: number;
}

export interface Deliveries {
  readonly counts: WebhookCounts;
  /** Sends a webhook about an attempt or a refund, `about`, as the behaviour to the attempt has it. */
  readonly tell: (about: string, attemptId: string, type: string, data: object) => void;
  /** Sends the webhooks that were held, one after the other. */
  readonly deliverHeld: (options?: { readonly reversed?: boolean }) => Promise<void>;
  readonly deliverTo: (urls: string | readonly string[]) => void;
}

/** Sends webhooks like a provider: signed, one after the other for each `about`, and again while they are not taken. */
export function createDeliveries(options: {
  readonly secret: string;
  readonly behaviourTo: (attemptId: string) => SandboxBehaviour;
  readonly draw: Draw;
  readonly tasks: Tasks;
}): Deliveries {
  const { secret, behaviourTo, draw, tasks } = options;
  const counts: WebhookCounts = {
    told: 0,
    lost: 0,
    doubled: 0,
    reordered: 0,
    delivered: 0,
    failedTries: 0,
    givenUp: 0,
  };
  const queues = new Map<string, Promise<void>>();
  /** Lets the webhook go that waits to be overtaken. */
  const overtaken = new Map<string, () => void>();
  let urls: readonly string[] = [];
  let held: ((signal: AbortSignal) => Promise<void>)[] = [];

  const isTaken = async (url: string, id: string, body: string, signal: AbortSignal): Promise<boolean> => {
    try {
      const response = await fetch(url, {
        method: 'POST',
        // Each try is signed anew, or a late one would be stale.
        headers: { 'Content-Type': 'application/json', ...signedHeaders(secret, body, { id }) },
        body,
        redirect: 'manual',
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
      });
      await response.arrayBuffer();
      return response.ok;
    } catch {
      signal.throwIfAborted();
      return false;
    }
  };

  const send = async (id: string, body: string, signal: AbortSignal): Promise<void> => {
    for (const [n, pauseMs] of [...pausesMs, 0].entries()) {
      const url = urls[n % urls.length];
      if (url !== undefined && (await isTaken(url, id, body, signal))) {
        counts.delivered += 1;
        return;
      }
      counts.failedTries += 1;
      await delay(pauseMs, undefined, { signal });
    }
    counts.givenUp += 1;
  };

  return {
    counts,

    tell(about, attemptId, type, data) {
      const behaviour = behaviourTo(attemptId);
      const id = `evt_${randomUUID()}`;
      const body = JSON.stringify({ type, timestamp: new Date().toISOString(), data });
      counts.told += 1;
      // Every draw is made, so that one share changed leaves the others as they were.
      const isLost = draw(about, 'lose webhook') < behaviour.loseWebhookShare;
      const isDoubled = draw(about, 'double webhook') < behaviour.doubleWebhookShare;
      const isReordered = draw(about, 'reorder webhook') < behaviour.reorderWebhookShare;
      if (isLost || urls.length === 0) {
        counts.lost += 1;
        return;
      }
      if (isDoubled) counts.doubled += 1;
      const deliver = async (signal: AbortSignal): Promise<void> => {
        await Promise.all([send(id, body, signal), ...(isDoubled ? [send(id, body, signal)] : [])]);
      };
      if (behaviour.holdWebhooks) {
        held.push(deliver);
        return;
      }
      if (isReordered) {
        counts.reordered += 1;
        tasks.run(async (signal) => {
          const { promise, resolve } = Promise.withResolvers<void>();
          overtaken.get(about)?.();
          overtaken.set(about, resolve);
          await Promise.race([promise, delay(overtakenMs, undefined, { signal })]);
          await deliver(signal);
        });
        return;
      }
      tasks.run(async (signal) => {
        const before = queues.get(about);
        const sent = (async () => {
          await delay(behaviour.webhookDelayMs, undefined, { signal });
          await before;
          await deliver(signal);
        })();
        queues.set(about, sent);
        await sent;
        overtaken.get(about)?.();
        if (queues.get(about) === sent) queues.delete(about);
      });
    },

    async deliverHeld({ reversed = false } = {}) {
      const waiting = reversed ? held.toReversed() : held;
      held = [];
      for (const deliver of waiting) await deliver(tasks.signal);
    },

    deliverTo(to) {
      urls = typeof to === 'string' ? [to] : [...to];
    },
  };
}
