import type { Freeze, Orders } from '@lapse/orders';
import type { PaymentProvider } from '@lapse/payments';
import { Gauge, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';
import { askProvider } from './closer.ts';

/** How often outages and freezes are looked at, ms. */
const lookEveryMs = 1000;

/** Freezes orders of providers that are away. */
export interface ProviderFreeze extends Service {
  /** Hears of a provider's circuit breaker. */
  hear(state: 'open' | 'closed', provider: string): void;
}

/** What this process knows of a provider. Instants of `performance.now()`. */
interface Watch {
  /** Since when its breaker is open. */
  outage?: { readonly sinceMs: number; readonly since: Date; isFrozen: boolean };
  /** Since when every question about an attempt was answered. */
  wellSinceMs?: number | undefined;
  askedAtMs?: number;
}

/**
 * Stops the clock of a provider's orders while it is away, where a setting says so: who could not pay there gets that time
 * back. Orders with an open attempt are safe without it, they are held as long as their provider says nothing.
 *
 * - When its breaker has been open for `freezeAfterMs`, a worker freezes the provider, as the actor `breaker:<provider>`.
 *   All may try; one such freeze stands at a time.
 * - While it is frozen each worker asks it now and then about one attempt. Nobody else might: no order is due. A worker
 *   whose questions were all answered for `wellForMs` thaws it, whoever froze it: that process may be dead.
 * - Breakers of processes differ. Another worker may not have noticed that the provider is back, but it does within the
 *   15 s after which its own breaker lets a question through, so `wellForMs` is longer. Where one worker alone cannot
 *   reach the provider, it must not hold the orders that the others can see to: their answers thaw them.
 * - In one outage a process freezes once. A freeze that others thawed meanwhile, a person or a worker with a better
 *   connection, was thawed for a reason.
 *
 * A freeze too many, or a thaw too early, moves deadlines; it cancels nothing that may still be paid.
 */
export function providerFreeze(options: {
  orders: Orders;
  providers: ReadonlyMap<string, PaymentProvider>;
  /** Undefined: nothing is frozen, but what was frozen is thawed all the same. */
  freezeAfterMs: number | undefined;
  /** How long all questions must be answered before a thaw, ms. Default 15,000. */
  wellForMs?: number;
  /** How often a question is asked, ms. Default 3000. */
  askEveryMs?: number;
  log: Log;
  metrics: Metrics;
}): ProviderFreeze {
  const { orders, providers, freezeAfterMs, wellForMs = 20_000, askEveryMs = 3000, log, metrics } = options;
  const frozenGauge = new Gauge({
    name: 'lapse_provider_frozen',
    help: 'Whether the orders of a payment provider are frozen because it is away (1)',
    labelNames: ['provider'],
    registers: [metrics],
  });
  const watches = new Map<string, Watch>([...providers.keys()].map((name) => [name, {}]));

  /** Asks about one attempt, if it is time to, and notes whether there was an answer. */
  const askNowAndThen = async (provider: PaymentProvider, watch: Watch): Promise<void> => {
    const now = performance.now();
    if (now - (watch.askedAtMs ?? -Infinity) < askEveryMs) return;
    watch.askedAtMs = now;
    const attempt = await orders.attemptToAsk(provider.name);
    const isAnswered =
      attempt === undefined
        ? watch.outage === undefined
        : isAnswer(await askProvider(orders, provider, attempt, 'look'));
    watch.wellSinceMs = isAnswered ? (watch.wellSinceMs ?? performance.now()) : undefined;
  };

  const freeze = async ({ name }: PaymentProvider, outage: NonNullable<Watch['outage']>): Promise<void> => {
    const seconds = Math.round((performance.now() - outage.sinceMs) / 1000);
    const reason = `${name} stopped answering, its circuit breaker opened at ${outage.since.toISOString()} and every try in the ${seconds} s since failed; it thaws by itself when ${name} answers again`;
    const made = await orders.freezeOnce({ reason, actor: actorOf(name), scope: { provider: name } });
    outage.isFrozen = true;
    if (made === undefined) return;
    frozenGauge.set({ provider: name }, 1);
    log.error({ provider: name, freezeId: made.id, reason }, 'orders of a payment provider frozen');
  };

  const look = async (provider: PaymentProvider, frozen: Freeze | undefined): Promise<void> => {
    const { name } = provider;
    const watch = watches.get(name) ?? {};
    frozenGauge.set({ provider: name }, frozen === undefined ? 0 : 1);
    if (frozen === undefined) {
      watch.wellSinceMs = undefined;
      if (freezeAfterMs === undefined || watch.outage === undefined) return;
      await askNowAndThen(provider, watch);
      const { outage } = watch;
      if (outage === undefined || outage.isFrozen || performance.now() - outage.sinceMs < freezeAfterMs)
        return;
      await freeze(provider, outage);
      return;
    }
    if (watch.outage !== undefined) watch.outage.isFrozen = true;
    await askNowAndThen(provider, watch);
    if (watch.wellSinceMs === undefined || performance.now() - watch.wellSinceMs < wellForMs) return;
    const thawing = await orders.thaw(frozen.id, actorOf(name));
    if (thawing === undefined) return;
    frozenGauge.set({ provider: name }, 0);
    log.warn({ provider: name, freezeId: frozen.id }, 'orders of a payment provider thaw: it is back');
  };

  return {
    ...periodic({
      name: 'provider freeze',
      everyMs: lookEveryMs,
      log,
      async task() {
        const standing = await orders.frozenBy([...providers.keys()].map(actorOf));
        const looks = [...providers.values()].map((provider) =>
          look(
            provider,
            standing.find(({ actor }) => actor === actorOf(provider.name)),
          ),
        );
        for (const looked of await Promise.allSettled(looks)) {
          if (looked.status === 'rejected') throw looked.reason;
        }
      },
    }),
    hear(state, name) {
      const watch = watches.get(name);
      if (watch === undefined) return;
      watch.wellSinceMs = undefined;
      if (state === 'closed') delete watch.outage;
      else watch.outage = { sinceMs: performance.now(), since: new Date(), isFrozen: false };
    },
  };
}

/** Who freezes, as the audit of freezes names it. No person and no other part of Lapse is called so. */
function actorOf(provider: string): string {
  return `breaker:${provider}`;
}

/** Whether the provider is there. It may be well and not know what became of this attempt. */
function isAnswer(said: Awaited<ReturnType<typeof askProvider>>): boolean {
  return said.verdict !== 'unknown' || said.isProviderWell === true;
}
