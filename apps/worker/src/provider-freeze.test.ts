import { waitFor } from '@lapse/devstack';
import type { Freeze } from '@lapse/orders';
import type { PaymentProvider } from '@lapse/payments';
import { createMetrics } from '@lapse/runtime';
import { beforeEach, expect, test } from 'vitest';
import { providerFreeze, type ProviderFreeze } from './provider-freeze.ts';
import { aProvider, beginToPay, openStage, silent, type Stage } from './testing.ts';

let stage: Stage;
let workers: ProviderFreeze[];

beforeEach(async () => {
  stage = await openStage();
  workers = [];
  return async () => {
    await Promise.all(workers.map((worker) => worker.stop()));
    await stage.close();
  };
});

/** A provider that answers questions while `isUp`, and counts them. */
function aBank() {
  const bank = { isUp: true, questionCount: 0 };
  const unsaid = { reason: 'the bank is away' };
  const provider = aProvider('bank', {
    look: () => {
      bank.questionCount += 1;
      return Promise.resolve(bank.isUp ? { verdict: 'open' } : { verdict: 'unknown', ...unsaid });
    },
  });
  return { bank, provider };
}

/** A process that knows of the provider. */
async function startWorker(
  { provider }: { provider: PaymentProvider },
  freezeAfterMs: number | 'never' = 1,
): Promise<{ worker: ProviderFreeze; isFrozen: () => Promise<number | undefined> }> {
  const metrics = createMetrics();
  const worker = providerFreeze({
    orders: stage.orders,
    providers: new Map([[provider.name, provider]]),
    freezeAfterMs: freezeAfterMs === 'never' ? undefined : freezeAfterMs,
    wellForMs: 100,
    askEveryMs: 0,
    log: silent,
    metrics,
  });
  await worker.start();
  workers.push(worker);
  const isFrozen = async (): Promise<number | undefined> =>
    (await metrics.getSingleMetric('lapse_provider_frozen')?.get())?.values[0]?.value;
  return { worker, isFrozen };
}

const untilFreezes = (states: readonly Freeze['state'][]): Promise<Freeze[]> =>
  waitFor(
    async () => {
      const freezes = await stage.orders.freezes(10);
      return freezes.map(({ state }) => state).join() === states.join() && freezes;
    },
    { what: `freezes to be ${states.join(', ')}`, timeoutMs: 10_000 },
  );

/** Waits until the bank was asked a few times more, which takes a few rounds. */
async function letAsk(bank: { questionCount: number }): Promise<void> {
  const before = bank.questionCount;
  await waitFor(() => bank.questionCount >= before + 3, { what: 'questions', timeoutMs: 10_000 });
}

test('one freeze stands however many workers see the outage, and ends when the provider answers', async () => {
  const one = aBank();
  await beginToPay(stage, 'bank');
  const [{ worker, isFrozen }, { worker: other }] = [await startWorker(one), await startWorker(one)];
  one.bank.isUp = false;
  worker.hear('open', 'bank');
  other.hear('open', 'bank');
  const [frozen] = await untilFreezes(['frozen']);
  expect(frozen).toMatchObject({ actor: 'breaker:bank', scope: { provider: 'bank' } });
  expect(frozen?.reason).toMatch(/^bank stopped answering, its circuit breaker opened at \d{4}-/);
  await letAsk(one.bank);
  expect(await isFrozen()).toBe(1);
  await untilFreezes(['frozen']);
  one.bank.isUp = true;
  const [thawing] = await untilFreezes(['thawing']);
  expect(thawing).toMatchObject({ releasedBy: 'breaker:bank' });
  await waitFor(async () => (await isFrozen()) === 0, { what: 'the metric' });
});

test('a process that has just started thaws what a dead one froze, once it has seen that the provider is back', async () => {
  const one = aBank();
  await beginToPay(stage, 'bank');
  one.bank.isUp = false;
  await stage.orders.freezeOnce({ reason: 'x', actor: 'breaker:bank', scope: { provider: 'bank' } });
  await stage.orders.freeze({ reason: 'by hand', actor: 'cli:ann', scope: { provider: 'bank' } });
  // Also where nothing is to be frozen any more.
  await startWorker(one, 'never');
  await letAsk(one.bank);
  await untilFreezes(['frozen', 'frozen']);
  one.bank.isUp = true;
  const [byHand] = await untilFreezes(['frozen', 'thawing']);
  expect(byHand?.actor).toBe('cli:ann');
});

test('a freeze that a person thaws is not made again in the same outage, but in the next', async () => {
  const one = aBank();
  await beginToPay(stage, 'bank');
  one.bank.isUp = false;
  const { worker } = await startWorker(one);
  worker.hear('open', 'bank');
  const [frozen] = await untilFreezes(['frozen']);
  await stage.orders.thaw(frozen?.id ?? '', 'test');
  await letAsk(one.bank);
  await untilFreezes(['thawing']);
  worker.hear('closed', 'bank');
  worker.hear('open', 'bank');
  const [again] = await untilFreezes(['frozen', 'thawing']);
  expect(again?.id).not.toBe(frozen?.id);
});

test('nothing is frozen where it is not asked for, nor where the provider comes back in time', async () => {
  const one = aBank();
  await beginToPay(stage, 'bank');
  const { worker: unasked, isFrozen } = await startWorker(one, 'never');
  const { worker: patient } = await startWorker(one, 3_600_000);
  unasked.hear('open', 'bank');
  patient.hear('open', 'bank');
  await letAsk(one.bank);
  await untilFreezes([]);
  expect(await isFrozen()).toBe(0);
});

test('a provider that was never asked for anything thaws when its breaker is closed', async () => {
  const one = aBank();
  const { worker } = await startWorker(one);
  worker.hear('open', 'bank');
  await untilFreezes(['frozen']);
  worker.hear('closed', 'bank');
  await untilFreezes(['thawing']);
  expect(one.bank.questionCount).toBe(0);
});
