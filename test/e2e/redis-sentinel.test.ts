import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { startRedisSentinel, waitFor, type RedisSentinel } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { cancellationsSince, describeLateness, startLoad, untilJobsFire } from './failover.ts';
import { metric, startFleet, untilNonePending, type Fleet } from './fleet.ts';

let dataDir: string;
let sentinel: RedisSentinel;
let fleet: Fleet;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lapse-redis-sentinel-'));
  sentinel = await startRedisSentinel({ dataDir });
  fleet = await startFleet({ redisUrl: sentinel.url });
  await fleet.client.setStock('mug', null);
});

afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
  await sentinel.stop();
  await rm(dataDir, { recursive: true, force: true });
});

test('a master killed under load: every checkout is taken, every order settles, and jobs fire again', async () => {
  const master = await sentinel.master();
  const [api] = fleet.apis;
  if (master === undefined || api === undefined) throw new Error('there is no master or no api');
  const load = startLoad(fleet);
  await waitFor(async () => (await metric(api, 'lapse_deadlines_armed_total')) > 200, {
    what: 'the load to run',
    timeoutMs: 20_000,
  });
  const killedAt = new Date();
  await master.kill();
  await waitFor(() => sentinel.master(), { what: 'the replica to take over', timeoutMs: 30_000 });
  const takenOverAt = new Date();
  await untilJobsFire(fleet, [0], 40_000);
  const firedAgainAt = new Date();
  const { placedCount, paidCount, slowestMs } = await load.stop();
  await untilNonePending(fleet.database, 20_000);
  await fleet.expectInvariants();
  console.log(
    [
      `the replica took over after ${takenOverAt.getTime() - killedAt.getTime()} ms, jobs fired ` +
        `${firedAgainAt.getTime() - takenOverAt.getTime()} ms later`,
      `${placedCount} checkouts, ${paidCount} paid, the slowest answered after ${slowestMs} ms`,
      describeLateness('since the kill', await cancellationsSince(fleet.database, killedAt)),
    ].join('\n'),
  );

  await master.restart();
  await untilJobsFire(fleet, [0], 20_000);
  expect(await sentinel.master()).not.toBe(master);
}, 120_000);
