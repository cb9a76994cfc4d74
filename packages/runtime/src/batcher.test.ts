import { afterEach, describe, expect, test, vi } from 'vitest';
import { Batcher, BatcherFull, type BatcherOptions } from './batcher.ts';

/** Batches that end when the test says so. */
function stage(options: Partial<BatcherOptions<string, string>> = {}) {
  const batches: { readonly requests: readonly string[]; readonly finish: (error?: Error) => void }[] = [];
  const batcher = new Batcher<string, string>({
    maxSize: 10,
    run: (requests) =>
      new Promise((resolve, reject) => {
        batches.push({
          requests,
          finish(error) {
            if (error) reject(error);
            else resolve(requests.map((request) => request.toUpperCase()));
          },
        });
      }),
    ...options,
  });
  return { batcher, batches, sent: () => batches.map(({ requests }) => requests.join('')) };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

afterEach(() => {
  vi.useRealTimers();
});

test('a lone request goes at once, without a timer', async () => {
  vi.useFakeTimers();
  const { batcher, batches, sent } = stage();
  const answer = batcher.submit('a');
  await Promise.resolve();
  expect(sent()).toEqual(['a']);
  expect(vi.getTimerCount()).toBe(0);
  batches[0]?.finish();
  expect(await answer).toBe('A');
});

test('requests of one turn go together, and each gets its own answer', async () => {
  const { batcher, batches, sent } = stage();
  const answers = ['a', 'b', 'c'].map((request) => batcher.submit(request));
  await turn();
  expect(sent()).toEqual(['abc']);
  batches[0]?.finish();
  expect(await Promise.all(answers)).toEqual(['A', 'B', 'C']);
});

test('what comes while a batch runs is gathered and goes together afterwards', async () => {
  const { batcher, batches, sent } = stage();
  const answers = [batcher.submit('a')];
  await turn();
  for (const request of ['b', 'c', 'd']) {
    answers.push(batcher.submit(request));
    await turn();
  }
  expect(sent()).toEqual(['a']);
  expect(batcher.waitingCount).toBe(3);
  batches[0]?.finish();
  await turn();
  expect(sent()).toEqual(['a', 'bcd']);
  expect(batcher.waitingCount).toBe(0);
  batches[1]?.finish();
  expect(await Promise.all(answers)).toEqual(['A', 'B', 'C', 'D']);
});

test('a batch has no more than maxSize requests, in the order they came', async () => {
  const { batcher, batches, sent } = stage({ maxSize: 2 });
  const answers = ['a', 'b', 'c', 'd', 'e'].map((request) => batcher.submit(request));
  for (let n = 0; n < 3; n += 1) {
    await turn();
    batches[n]?.finish();
  }
  expect(await Promise.all(answers)).toEqual(['A', 'B', 'C', 'D', 'E']);
  expect(sent()).toEqual(['ab', 'cd', 'e']);
});

test('up to maxConcurrent batches run at the same time', async () => {
  const { batcher, batches, sent } = stage({ maxSize: 1, maxConcurrent: 2 });
  const answers = ['a', 'b', 'c'].map((request) => batcher.submit(request));
  await turn();
  expect(sent()).toEqual(['a', 'b']);
  batches[1]?.finish();
  await turn();
  expect(sent()).toEqual(['a', 'b', 'c']);
  batches[0]?.finish();
  batches[2]?.finish();
  expect(await Promise.all(answers)).toEqual(['A', 'B', 'C']);
});

describe('errors:', () => {
  test('one that is an answer is that of its request alone', async () => {
    const { batcher } = stage({
      run: (requests) =>
        Promise.resolve(requests.map((request) => (request === 'b' ? new Error('no b') : request))),
    });
    const answers = await Promise.allSettled(['a', 'b', 'c'].map((request) => batcher.submit(request)));
    expect(answers).toEqual([
      { status: 'fulfilled', value: 'a' },
      { status: 'rejected', reason: new Error('no b') },
      { status: 'fulfilled', value: 'c' },
    ]);
  });

  test('a batch that fails rejects all of its requests, and the next one runs', async () => {
    const { batcher, batches } = stage({ maxSize: 2 });
    const answers = Promise.allSettled(['a', 'b', 'c'].map((request) => batcher.submit(request)));
    await turn();
    batches[0]?.finish(new Error('broken'));
    await turn();
    batches[1]?.finish();
    expect(await answers).toEqual([
      { status: 'rejected', reason: new Error('broken') },
      { status: 'rejected', reason: new Error('broken') },
      { status: 'fulfilled', value: 'C' },
    ]);
  });

  test('a handler that throws before it promises anything is a batch that fails', async () => {
    const { batcher } = stage({
      run: () => {
        throw new Error('at once');
      },
    });
    await expect(batcher.submit('a')).rejects.toThrow('at once');
    await batcher.idle();
  });

  test('a request without an answer is told so', async () => {
    const { batcher } = stage({ run: () => Promise.resolve(['A']) });
    const answers = await Promise.allSettled([batcher.submit('a'), batcher.submit('b')]);
    expect(answers).toEqual([
      { status: 'fulfilled', value: 'A' },
      { status: 'rejected', reason: new Error('the batch gave no answer for this request') },
    ]);
  });
});

describe('with a linger', () => {
  test('a request waits for company until the time is over', async () => {
    vi.useFakeTimers();
    const { batcher, batches, sent } = stage({ lingerMs: 5 });
    const answers = [batcher.submit('a')];
    await vi.advanceTimersByTimeAsync(3);
    answers.push(batcher.submit('b'));
    await vi.advanceTimersByTimeAsync(1);
    expect(sent()).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(sent()).toEqual(['ab']);
    batches[0]?.finish();
    expect(await Promise.all(answers)).toEqual(['A', 'B']);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('a full batch does not wait', async () => {
    vi.useFakeTimers();
    const { batcher, batches, sent } = stage({ lingerMs: 1000, maxSize: 2 });
    const answers = [batcher.submit('a'), batcher.submit('b')];
    expect(sent()).toEqual(['ab']);
    expect(vi.getTimerCount()).toBe(0);
    batches[0]?.finish();
    expect(await Promise.all(answers)).toEqual(['A', 'B']);
  });
});

describe('with company', () => {
  test('a batch waits to be as large as the last one, and goes the moment it is', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { batcher, batches, sent } = stage({ companyMs: 5, maxConcurrent: 2 });
    const answers = ['a', 'b', 'c'].map((request) => batcher.submit(request));
    await turn();
    batches[0]?.finish();
    await turn();
    for (const request of ['d', 'e']) answers.push(batcher.submit(request));
    await turn();
    expect(sent()).toEqual(['abc']);
    answers.push(batcher.submit('f'));
    await turn();
    expect(sent()).toEqual(['abc', 'def']);
    expect(vi.getTimerCount()).toBe(0);
    batches[1]?.finish();
    expect(await Promise.all(answers)).toEqual(['A', 'B', 'C', 'D', 'E', 'F']);
  });

  test('one that stays smaller goes when its time is over, and the next like it at once', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { batcher, batches, sent } = stage({ companyMs: 5 });
    const answers = ['a', 'b'].map((request) => batcher.submit(request));
    await turn();
    batches[0]?.finish();
    await turn();
    answers.push(batcher.submit('c'));
    vi.advanceTimersByTime(4);
    await turn();
    expect(sent()).toEqual(['ab']);
    vi.advanceTimersByTime(1);
    expect(sent()).toEqual(['ab', 'c']);
    batches[1]?.finish();
    await turn();
    answers.push(batcher.submit('d'));
    await turn();
    expect(sent()).toEqual(['ab', 'c', 'd']);
    batches[2]?.finish();
    expect(await Promise.all(answers)).toEqual(['A', 'B', 'C', 'D']);
  });

  test('what waited for a slot waits for company, too, when there is one', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { batcher, batches, sent } = stage({ companyMs: 5 });
    const answers = ['a', 'b'].map((request) => batcher.submit(request));
    await turn();
    answers.push(batcher.submit('c'));
    vi.advanceTimersByTime(10);
    expect(sent()).toEqual(['ab']);
    batches[0]?.finish();
    await turn();
    expect(sent()).toEqual(['ab']);
    vi.advanceTimersByTime(5);
    expect(sent()).toEqual(['ab', 'c']);
    batches[1]?.finish();
    expect(await Promise.all(answers)).toEqual(['A', 'B', 'C']);
  });
});

test('no more than maxWaiting requests wait, and once they went there is room again', async () => {
  const { batcher, batches } = stage({ maxWaiting: 2 });
  const running = batcher.submit('a');
  await turn();
  const waiting = [batcher.submit('b'), batcher.submit('c')];
  await expect(batcher.submit('d')).rejects.toThrow(BatcherFull);
  await expect(batcher.submit('d')).rejects.toMatchObject({ code: 'batcher_full' });
  batches[0]?.finish();
  await running;
  await turn();
  const last = batcher.submit('e');
  batches[1]?.finish();
  await Promise.all(waiting);
  await turn();
  batches[2]?.finish();
  expect(await last).toBe('E');
});

test('it is idle when nothing runs and nothing waits', async () => {
  const { batcher, batches } = stage({ maxSize: 1 });
  await batcher.idle();
  const answers = [batcher.submit('a'), batcher.submit('b')];
  let isIdle = false;
  const idle = batcher.idle().then(() => (isIdle = true));
  await turn();
  batches[0]?.finish();
  await turn();
  expect(isIdle).toBe(false);
  batches[1]?.finish();
  await idle;
  expect(await Promise.all(answers)).toEqual(['A', 'B']);
});
