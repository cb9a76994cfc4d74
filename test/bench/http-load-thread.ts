// The thread of `http-load.ts`: fires the requests and times them, apart from whatever else the process does.
import { parentPort, workerData } from 'node:worker_threads';

import autocannon from 'autocannon';

import type { HttpLoad, HttpRequest, LoadResult } from './http-load.ts';

const load = workerData as HttpLoad;
const tookMs: number[] = [];
const failures = new Map<string, number>();
let startedAt = 0;
let lastAt = 0;
let answeredCount = 0;
let inTimeCount = 0;

/** The requests of one connection: every `connections`-th, so that none is sent twice. */
function shareOf(connection: number): HttpRequest[] {
  return load.requests.filter((_, n) => n % load.connections === connection);
}

const clients: autocannon.Client[] = [];
const instance = autocannon(
  {
    url: load.url,
    connections: load.connections,
    // Each connection ends with its share, or when the time is over: see below.
    amount: load.requests.length,
    method: 'POST',
    headers: load.headers,
    timeout: 30,
    // How often it looks whether every connection has ended, ms.
    sampleInt: 50,
    skipAggregateResult: true,
    // Builds the requests' bytes before the first is sent.
    setupClient(client) {
      client.setRequests(shareOf(clients.length));
      clients.push(client);
      watchFailures(client);
    },
  },
  () => {
    const result: LoadResult = {
      answeredCount,
      tookMs: Float64Array.from(tookMs).toSorted(),
      perSecond: inTimeCount / ((Math.min(lastAt, startedAt + load.seconds * 1000) - startedAt) / 1000),
      failures: Object.fromEntries(failures),
    };
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port has no origin
    parentPort?.postMessage(result);
  },
);

instance.on('start', () => {
  startedAt = performance.now();
  setTimeout(() => {
    // Asked for one answer in all, a connection ends after the one it waits for. Stopping autocannon would cut off what is
    // under way: the service would carry it out, and the rows could not be counted against the answers.
    for (const client of clients) Reflect.set(client, 'responseMax', 1);
  }, load.seconds * 1000);
});

instance.on('response', (_client, statusCode, _bytes, responseTime) => {
  lastAt = performance.now();
  if (statusCode < 200 || statusCode > 299) return;
  answeredCount += 1;
  // The first request of each connection is under way while the requests of the others are still being built.
  if (lastAt - responseTime >= startedAt) tookMs.push(responseTime);
  if (lastAt <= startedAt + load.seconds * 1000) inTimeCount += 1;
});

instance.on('reqError', (error: unknown) => count(String(error)));

/** Keeps what an answer other than 2xx says. */
function watchFailures(client: autocannon.Client): void {
  let failedStatus: number | undefined;
  client.on('headers', (answer) => {
    const status = Number(Reflect.get(answer, 'statusCode'));
    failedStatus = status < 200 || status > 299 ? status : undefined;
  });
  client.on('body', (body) => {
    if (failedStatus !== undefined) count(`${failedStatus} ${body.toString().slice(0, 300)}`);
  });
}

function count(failure: string): void {
  failures.set(failure, (failures.get(failure) ?? 0) + 1);
}
