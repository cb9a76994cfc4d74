import type { Order, PaymentAttempt } from '@lapse/client';
import {
  startSandbox,
  waitFor,
  type Sandbox,
  type SandboxBehaviour,
  type SandboxOptions,
} from '@lapse/devstack';
import { expect } from 'vitest';

import { startFleet, type Fleet, type FleetOptions } from './fleet.ts';

/** The secret that fleets share with their sandbox. */
export const sandboxSecret = `whsec_${Buffer.alloc(32, 'sandbox').toString('base64')}`;

/** A fleet and the payment provider that it is connected to. */
export interface ShopWithSandbox {
  readonly fleet: Fleet;
  readonly sandbox: Sandbox;
  /** Places an order and opens an attempt for it. How the provider behaves to it is said before it is opened. */
  begin(options?: {
    windowMs?: number;
    behaviour?: Partial<SandboxBehaviour>;
    channel?: string;
    sku?: string;
  }): Promise<{ order: Order; attempt: PaymentAttempt }>;
  place(options?: { windowMs?: number; channel?: string; sku?: string }): Promise<Order>;
  open(orderId: string): Promise<PaymentAttempt>;
  /** Waits until an order has a status, and answers it. */
  until(orderId: string, status: Order['status']): Promise<Order>;
  /** The types of an order's events. */
  story(orderId: string): Promise<string[]>;
  /** Waits until an event is in an order's story. */
  untilTold(orderId: string, type: string): Promise<void>;
  /**
   * Waits until nothing is under way, and fails unless every invariant holds, no capture was returned twice, and each
   * that the provider took is recorded.
   */
  expectRightBooks(): Promise<void>;
  stop(): Promise<void>;
}

/** As `ShopWithSandbox.expectRightBooks`, of any fleet and its sandbox. */
export async function expectRightBooks(
  { database, expectInvariants }: Pick<Fleet, 'database' | 'expectInvariants'>,
  sandbox: Sandbox,
): Promise<void> {
  await sandbox.idle();
  const { captures, returnedTwice } = sandbox.ledger();
  const { rows } = await database.query<{ id: string }>(
    `select provider_payment_id as id from payments where provider = 'sandbox'`,
  );
  const recorded = new Set(rows.map(({ id }) => id));
  expect(captures.filter(({ providerPaymentId }) => !recorded.has(providerPaymentId))).toEqual([]);
  expect(returnedTwice).toEqual([]);
  await expectInvariants();
}

/** Starts a fleet with a sandbox provider whose webhooks go to the first api. */
export async function startShopWithSandbox(
  options: FleetOptions & {
    behaviour?: Partial<SandboxBehaviour>;
    script?: SandboxOptions['script'];
    seed?: string;
  } = {},
): Promise<ShopWithSandbox> {
  const { behaviour = {}, script, seed = 'e2e', env, ...fleetOptions } = options;
  const scripted = script === undefined ? {} : { script };
  const sandbox = await startSandbox({ secret: sandboxSecret, behaviour, seed, ...scripted });
  const fleet = await startFleet({
    ...fleetOptions,
    env: {
      LAPSE_SANDBOX_PROVIDER_URL: sandbox.url,
      LAPSE_SANDBOX_PROVIDER_SECRET: sandboxSecret,
      ...env,
    },
  }).catch(async (error: unknown) => {
    await sandbox.stop();
    throw error;
  });
  const { client } = fleet;
  sandbox.deliverTo(fleet.apis.map(({ url }) => `${url}/hooks/sandbox`));
  await client.setStock('mug', null);

  const place: ShopWithSandbox['place'] = ({ windowMs = 60_000, channel = 'default', sku = 'mug' } = {}) =>
    client.checkout({
      currency: 'EUR',
      items: [{ sku, quantity: 1, unitAmount: 500 }],
      paymentWindowMs: windowMs,
      channel,
    });
  const open = (orderId: string): Promise<PaymentAttempt> =>
    client.openAttempt(orderId, { provider: 'sandbox' });
  const story = async (orderId: string): Promise<string[]> =>
    (await client.timeline(orderId)).events.map(({ type }) => type);
  return {
    fleet,
    sandbox,
    place,
    open,
    async begin({ behaviour: toIt, ...wish } = {}) {
      const order = await place(wish);
      const attempt = await open(order.id);
      if (toIt !== undefined) sandbox.setBehaviour(toIt, attempt.id);
      return { order, attempt };
    },
    until: (orderId, status) =>
      waitFor(
        async () => {
          const order = await client.order(orderId);
          return order.status === status ? order : undefined;
        },
        { what: `order ${orderId} to be ${status}`, timeoutMs: 20_000 },
      ),
    story,
    async untilTold(orderId, type) {
      await waitFor(async () => (await story(orderId)).includes(type), {
        what: `${type} of order ${orderId}`,
        timeoutMs: 20_000,
      });
    },
    expectRightBooks: () => expectRightBooks(fleet, sandbox),
    async stop() {
      await fleet.stop();
      await sandbox.stop();
    },
  };
}
