import { startSandbox, waitFor, type Sandbox, type SandboxBehaviour } from '@lapse/devstack';
import type { Order, PaymentAttempt } from '@lapse/orders';
import { createProviders, describeAttempt, providerSettings, type PaymentProvider } from '@lapse/payments';
import { createLog, createMetrics, loadSettings } from '@lapse/runtime';
import { expect } from 'vitest';

import { expectRightBooks, sandboxSecret } from '../e2e/shop-with-sandbox.ts';
import { patienceMs, placeUnarmed, prepareStages, type Stage, type StageOptions } from './stage.ts';

/** More than all scenes of a file take: an order is due when its scene says so. */
const windowMs = 600_000;

/** A stage whose processes are connected to a payment provider with books of its own. */
export interface MoneyStage extends Stage {
  /** Its webhooks go to the apis that the stage was opened with; they are lost where there are none. */
  readonly sandbox: Sandbox;
  /** The provider without a process of ours between, to set the scene. */
  readonly provider: PaymentProvider;
  /** How the sandbox is to behave to the attempts of an order. Said before the first of them is opened. */
  behaveTo(orderId: string, behaviour: Partial<SandboxBehaviour>): void;
}

interface MoneyStages {
  open(size: Size): Promise<MoneyStage>;
  /** Opens a stage, runs the play on it, and ends with the invariants and the books of the provider. */
  play(act: (stage: MoneyStage) => Promise<void>, size?: Size): Promise<void>;
}

type Size = Pick<StageOptions, 'apiCount' | 'workerCount'>;

/** The money stages of a test file; called at its top. */
export function prepareMoneyStages(): MoneyStages {
  const stages = prepareStages();
  const open: MoneyStages['open'] = async (size) => {
    const behaviours = new Map<string, Partial<SandboxBehaviour>>();
    const sandbox = await startSandbox({
      secret: sandboxSecret,
      script: ({ orderId }) => behaviours.get(orderId) ?? {},
    });
    const env = {
      LAPSE_SANDBOX_PROVIDER_URL: sandbox.url,
      LAPSE_SANDBOX_PROVIDER_SECRET: sandboxSecret,
    };
    const provider = createProviders(loadSettings(providerSettings, env), {
      log: createLog('test', 'error'),
      metrics: createMetrics(),
    }).get('sandbox');
    if (provider === undefined) throw new Error('the sandbox is no provider');
    const stage = await stages.open({ ...size, env }).catch(async (error: unknown) => {
      await sandbox.stop();
      throw error;
    });
    sandbox.deliverTo(stage.apis.map(({ url }) => hooksOf(url)));
    return {
      ...stage,
      sandbox,
      provider,
      behaveTo: (orderId, behaviour) => behaviours.set(orderId, behaviour),
      async stop() {
        await stage.stop();
        await sandbox.stop();
      },
    };
  };
  return {
    open,
    async play(act, size = { apiCount: 0, workerCount: 0 }) {
      const stage = await open(size);
      try {
        await act(stage);
        await expectRightBooks(stage, stage.sandbox);
      } finally {
        await stage.stop();
      }
    },
  };
}

/** Where an api hears the sandbox. */
export function hooksOf(apiUrl: string): string {
  return `${apiUrl}/hooks/sandbox`;
}

/** Places an order, nobody arms it: what becomes of it the sweep and the providers decide. */
export async function placeForMoney(
  stage: MoneyStage,
  behaviour: Partial<SandboxBehaviour> = {},
): Promise<Order> {
  const order = await placeUnarmed(stage, { paymentWindowMs: windowMs });
  stage.behaveTo(order.id, behaviour);
  return order;
}

/** An order and its attempt. */
export interface Begun {
  readonly order: Order;
  readonly attempt: PaymentAttempt;
}

/** Places an order and commits an attempt, of which the provider does not hear. */
export async function commitAttempt(
  stage: MoneyStage,
  behaviour?: Partial<SandboxBehaviour>,
): Promise<Begun> {
  const order = await placeForMoney(stage, behaviour);
  const begun = await stage.orders.beginAttempt({
    orderId: order.id,
    provider: 'sandbox',
    handOffAs: 'url',
    returnUrl: null,
    actor: 'test',
  });
  if (begun.outcome !== 'opening') throw new Error(`the attempt was not begun: ${begun.outcome}`);
  return { order, attempt: begun.attempt };
}

/** Places an order and opens an attempt at the provider. */
export async function begin(stage: MoneyStage, behaviour?: Partial<SandboxBehaviour>): Promise<Begun> {
  const { order, attempt } = await commitAttempt(stage, behaviour);
  const opened = await stage.provider.open(describeAttempt(attempt, order));
  if (opened.outcome !== 'opened') throw new Error(`the attempt was not opened: ${opened.reason}`);
  const { providerAttemptId, handOff } = opened;
  const kept = await stage.orders.recordOpened({ attemptId: attempt.id, providerAttemptId, handOff });
  if (kept === undefined) throw new Error('the attempt is gone');
  return { order, attempt: kept };
}

/** Kills a worker that halts in so many calls. */
export async function killWorker(
  stage: Stage,
  point: readonly [call: string, moment: string],
  times = 1,
): Promise<void> {
  const victim = await stage.startVictim('worker', ...point);
  await victim.kill({ when: 'halted', times });
}

/**
 * Ends the claims that a killed worker has left on orders, attempts and refunds, so many in all, by hand: by themselves
 * they end within a minute, which is looked at here.
 */
export async function endClaims({ database }: Stage, count = 1): Promise<void> {
  const { rows } = await database.query(`
    with clock as materialized (
      select clock_timestamp() as at
    ), closing as (
      update orders o set check_at = clock.at from clock
      where o.closing_at is not null and o.check_at <= clock.at + interval '1 minute'
      returning o.id
    ), asked as (
      update payment_attempts a set ask_at = clock.at from clock
      where a.ask_at <= clock.at + interval '1 minute'
      returning a.id
    ), sent as (
      update refunds r set try_at = clock.at from clock
      where r.try_at <= clock.at + interval '1 minute'
      returning r.id
    )
    select id from closing union all select id from asked union all select id from sent`);
  expect(rows).toHaveLength(count);
}

/** Ends the time of an order, by hand: however long a scene took until now, it is over from here on. */
export async function endTime({ database }: Stage, orderId: string): Promise<void> {
  const { rows } = await database.query(
    `update orders set deadline_at = clock.at, expire_at = clock.at, check_at = clock.at
     from (select date_trunc('milliseconds', clock_timestamp()) as at) as clock
     where id = $1 and status = 'pending_payment'
     returning id`,
    [orderId],
  );
  expect(rows).toHaveLength(1);
}

/** The attempts of an order as the provider has them. */
export function atProvider({ sandbox }: MoneyStage, orderId: string) {
  return sandbox.ledger().attempts.filter((attempt) => attempt.orderId === orderId);
}

/** Waits until an order is paid. */
export async function untilPaid({ orders }: Stage, orderId: string): Promise<void> {
  await waitFor(async () => (await orders.find(orderId))?.status === 'paid', {
    what: `${orderId} to be paid`,
    timeoutMs: patienceMs,
  });
}

/** Waits until the only attempt of an order is in this state. */
export async function untilAttempt({ orders }: Stage, orderId: string, state: string): Promise<void> {
  await waitFor(async () => (await orders.attempts(orderId))[0]?.state === state, {
    what: `the attempt of ${orderId} to be ${state}`,
    timeoutMs: patienceMs,
  });
}

/** Waits until a payment of an order has a refund in this state, and expects that the provider returned it once. */
export async function untilRefund(stage: MoneyStage, orderId: string, state: string): Promise<void> {
  const { providerPaymentId } = await waitFor(
    async () => (await stage.orders.payments(orderId)).find((payment) => payment.refund?.state === state),
    { what: `a refund of ${orderId} to be ${state}`, timeoutMs: patienceMs },
  );
  const refunds = stage.sandbox.ledger().refunds;
  expect(refunds.filter((refund) => refund.providerPaymentId === providerPaymentId)).toHaveLength(1);
}

/** How often something of this type happened to an order. */
export function countOf(types: readonly string[], type: string): number {
  return types.filter((one) => one === type).length;
}
