import { setTimeout as delay } from 'node:timers/promises';

import type { PaymentAttempt } from '@lapse/client';
import { startSandbox, type Sandbox, type SandboxBehaviour } from '@lapse/devstack';

import type { Books, ProviderCounts } from './books.ts';
import { between, oneOf, randomOf } from './random.ts';

/** The payment providers of a fleet. Two, so that a customer can pay the same order twice. */
export const providerNames = ['sandbox', 'http'] as const;
export type ProviderName = (typeof providerNames)[number];

/** Shared by the fleet and its providers. */
const secret = `whsec_${Buffer.alloc(32, 'chaos').toString('base64')}`;

/** The settings that connect an app with each of them. */
const variables = {
  sandbox: { url: 'LAPSE_SANDBOX_PROVIDER_URL', secret: 'LAPSE_SANDBOX_PROVIDER_SECRET' },
  http: { url: 'LAPSE_HTTP_PROVIDER_URL', secret: 'LAPSE_HTTP_PROVIDER_SECRET' },
} as const;

/** What goes wrong at the providers all the time. One call in five brings no answer: it fails, or its answer is lost. */
const whims = {
  failShare: 0.16,
  loseAnswerShare: 0.05,
  loseWebhookShare: 0.05,
  doubleWebhookShare: 0.1,
  reorderWebhookShare: 0.05,
} as const satisfies Partial<SandboxBehaviour>;

const noWhims: Readonly<Record<keyof typeof whims, number>> = {
  failShare: 0,
  loseAnswerShare: 0,
  loseWebhookShare: 0,
  doubleWebhookShare: 0,
  reorderWebhookShare: 0,
};

/** Out of 20 attempts that are still open when they are to be closed. */
const ends: readonly SandboxBehaviour['whenClosed'][] = [
  ...Array<'closed'>(15).fill('closed'),
  'paid_before',
  'paid_now',
  'paid_now',
  'processing_then_paid',
  'processing_then_closed',
];

/** Out of 10 refunds. */
const refundEnds: readonly SandboxBehaviour['refunds'][] = [
  ...Array<'confirmed_later'>(5).fill('confirmed_later'),
  'confirmed',
  'confirmed_twice',
  'failed',
  'failed_later',
  'refused',
];

/** How long webhooks and money that are under way are waited for, ms. */
const idlePatienceMs = 30_000;

/** What a provider does with one attempt, besides its whims. */
function fateOf(seed: string): Partial<SandboxBehaviour> {
  const random = randomOf(seed);
  return {
    whenClosed: oneOf(random, ends),
    processingMs: between(random, 200, 4000),
    refunds: oneOf(random, refundEnds),
    refundMs: between(random, 0, 1500),
    webhookDelayMs: random() < 0.9 ? 0 : between(random, 200, 4000),
    ...(random() < 0.95 ? {} : { slowMs: between(random, 100, 1500) }),
  };
}

/** The payment providers of a fleet: real services, whose customers and whims are decided here. */
export class PaymentServices {
  readonly all: ReadonlyMap<ProviderName, Sandbox>;
  #releasing: Promise<unknown> = Promise.resolve();

  private constructor(all: ReadonlyMap<ProviderName, Sandbox>) {
    this.all = all;
  }

  /** Starts them. The seed decides what they do with each attempt. */
  static async start(seed: string): Promise<PaymentServices> {
    const started = providerNames.map(async (name): Promise<[ProviderName, Sandbox]> => {
      const script = ({ n }: { n: number }): Partial<SandboxBehaviour> => fateOf(`${seed}/${name}/${n}`);
      return [name, await startSandbox({ secret, seed: `${seed}/${name}`, behaviour: whims, script })];
    });
    return new PaymentServices(new Map(await Promise.all(started)));
  }

  /** The settings of an app that reaches a provider at `urls`. */
  static settings(urls: ReadonlyMap<ProviderName, string>): Record<string, string> {
    return Object.fromEntries(
      Array.from(urls).flatMap(([name, url]) => [
        [variables[name].url, url],
        [variables[name].secret, secret],
      ]),
    );
  }

  /** Has them send their webhooks to these apis. */
  deliverTo(apis: readonly string[]): void {
    for (const [name, service] of this.all) service.deliverTo(apis.map((api) => `${api}/hooks/${name}`));
  }

  /**
   * A customer pays on the page of an attempt, if it is still open.
   *
   * @throws RangeError where there is no such page, though the shop said so
   */
  pay({ provider, id }: PaymentAttempt, how: { readonly amount: number; readonly isSlow: boolean }): void {
    const service = this.#named(provider);
    if (how.isSlow) service.startPaying(id);
    else service.pay(id, { amount: how.amount });
  }

  /** They refuse every call, and keep their webhooks for later. */
  fail(): void {
    this.#change({ failShare: 1, holdWebhooks: true });
  }

  /** They take so long to answer, ms. */
  slowDown(slowMs: number): void {
    this.#change({ slowMs });
  }

  /** Ends failing and slowness; the webhooks that waited go out, the last ones first. */
  recover(): void {
    this.#change({ failShare: whims.failShare, slowMs: 0, holdWebhooks: false });
    this.#releasing = Promise.all([
      this.#releasing,
      ...Array.from(this.all.values(), (service) => service.deliverHeld({ reversed: true })),
    ]);
    // Ended with the services.
    this.#releasing.catch(() => undefined);
  }

  /** Nothing goes wrong any more. */
  behave(): void {
    this.recover();
    this.#change(noWhims);
  }

  /** Waits until no webhook and no money is under way, for 30 s at most. */
  async idle(): Promise<void> {
    const idle = Promise.all([
      this.#releasing,
      ...Array.from(this.all.values(), (service) => service.idle()),
    ]);
    await Promise.race([idle, delay(idlePatienceMs, undefined, { ref: false })]);
  }

  /** What they took and returned, all of them together. */
  books(): Books {
    const all = Array.from(this.all, ([provider, service]) => ({ provider, ...service.ledger() }));
    return {
      attempts: all.flatMap(({ provider, attempts }) => attempts.map((one) => ({ ...one, provider }))),
      captures: all.flatMap(({ provider, captures }) => captures.map((one) => ({ ...one, provider }))),
      refunds: all.flatMap(({ provider, refunds }) => refunds.map((one) => ({ ...one, provider }))),
      returnedTwice: all.flatMap(({ returnedTwice }) => returnedTwice),
    };
  }

  /** What became of calls and webhooks, at all of them together. */
  counts(): ProviderCounts {
    const all = Array.from(this.all.values(), (service) => service.counts());
    const sum = (of: (one: (typeof all)[number]) => number): number =>
      all.reduce((total, one) => total + of(one), 0);
    return {
      calls: sum(({ calls }) => Object.values(calls).reduce((total, count) => total + count, 0)),
      failedCalls: sum(({ failedCalls }) => failedCalls),
      lostAnswers: sum(({ lostAnswers }) => lostAnswers),
      wrongCalls: sum(({ wrongCalls }) => wrongCalls),
      webhooksTold: sum(({ webhooks }) => webhooks.told),
      webhooksLost: sum(({ webhooks }) => webhooks.lost),
      webhooksDoubled: sum(({ webhooks }) => webhooks.doubled),
      webhooksReordered: sum(({ webhooks }) => webhooks.reordered),
      webhooksDelivered: sum(({ webhooks }) => webhooks.delivered),
      webhooksGivenUp: sum(({ webhooks }) => webhooks.givenUp),
    };
  }

  async stop(): Promise<void> {
    await Promise.all(Array.from(this.all.values(), (service) => service.stop()));
  }

  #named(provider: string): Sandbox {
    const service = Array.from(this.all).find(([name]) => name === provider)?.[1];
    if (service === undefined) throw new RangeError(`there is no provider ${provider}`);
    return service;
  }

  #change(behaviour: Partial<SandboxBehaviour>): void {
    for (const service of this.all.values()) service.setBehaviour(behaviour);
  }
}
