import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import { partitionQueueName, reminderQueueName, type Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';
import type { RequestHandler } from 'express';

/** How often the board looks for partitions that pending orders still name, ms. */
export const boardRefreshMs = 15_000;

/** Every how many seconds an open page of Bull Board asks for the counts and the jobs it shows. */
const pollSeconds = 5;

const path = '/queues';

/** Bull Board over the queues of all partitions, and that of the payment reminders. */
export interface Board {
  /** Where it is mounted. */
  readonly path: string;
  readonly handler: RequestHandler;
  /** The partitions it shows, in order. */
  partitions(): readonly number[];
  /** Adds the partitions that pending orders name. */
  refresh(): Promise<void>;
}

/**
 * Builds Bull Board. It shows, the console and the `lapse` command act: nothing can be changed here. A paused queue
 * would not stop the clock, it would only look as if it did: jobs would still fall due, the sweeper would cancel their
 * orders all the same, and the rest would fire in a burst on resume. A job that is removed, promoted or retried by hand
 * changes as little, because the row decides.
 *
 * @param options.partitionCount the partitions 0 to N-1 are always shown
 * @param options.environment which installation this is
 */
export function createBoard(options: {
  orders: Pick<Orders, 'pendingPartitions'>;
  deadlines: Deadlines;
  partitionCount: number;
  environment: string;
}): Board {
  const { orders, deadlines, partitionCount, environment } = options;
  const shown = new Map<number, OrderJobsAdapter>();
  const reminders = new OrderJobsAdapter(deadlines, {
    name: 'reminders',
    queue: deadlines.reminderQueue(),
    description: `${reminderQueueName}, read-only: one job for the next payment reminder of an order.`,
    inspect: (orderId) => deadlines.inspectReminder(orderId),
  });
  const show = (partitions: Iterable<number>): OrderJobsAdapter[] => {
    for (const partition of partitions) {
      if (!shown.has(partition)) shown.set(partition, partitionAdapter(deadlines, partition));
    }
    return [...[...shown].toSorted(([a], [b]) => a - b).map(([, adapter]) => adapter), reminders];
  };

  const server = new BoardServer();
  server.setBasePath(path);
  const { replaceQueues } = createBullBoard({
    queues: show(Array.from({ length: partitionCount }, (_, partition) => partition)),
    serverAdapter: server,
    options: {
      // Bull Board answers 405 for a read-only queue, but 200 to "pause all", which then does nothing.
      handlerHooks: {
        before: ({ method }) => (method === 'get' ? undefined : { allow: false, status: 405 }),
      },
      uiConfig: {
        boardTitle: 'Lapse',
        boardLogo: { path: '/assets/logo.svg', width: 28, height: 28 },
        favIcon: { default: '/assets/logo.svg', alternative: '/assets/logo.svg' },
        environment: { label: environment, color: '#4338ca', textColor: '#ffffff' },
        miscLinks: [{ text: 'Console', url: '/' }],
        hideDocsLink: true,
        pollingInterval: { showSetting: false, forceInterval: pollSeconds },
        // A CLIENT LIST for each queue and poll otherwise.
        showWorkers: false,
        // Reads whole lists, and only where workers are told to write them.
        showMetrics: false,
        // As the console writes it: UTC, to the millisecond.
        dateFormats: { short: timeOnly, common: dateAndTime, full: dateAndTime },
      },
    },
  });

  return {
    path,
    handler: server.handler,
    partitions: () => [...shown.keys()].toSorted((a, b) => a - b),
    async refresh() {
      // A partition stays on the board once it was seen: its finished jobs are still of interest. There are at most 64.
      replaceQueues(show(await orders.pendingPartitions()));
    },
  };
}

/** The page of Bull Board that lists jobs of one partition. */
export function boardUrl(partition: number, state: string): string {
  return `${path}/queue/${encodeURIComponent(boardName(partition))}?status=${state}`;
}

/** The page of Bull Board that shows one job. */
export function boardJobUrl(partition: number, jobId: string): string {
  return `${path}/queue/${encodeURIComponent(boardName(partition))}/${encodeURIComponent(jobId)}`;
}

/** What Bull Board calls a partition. Its menu has no display names, only names. */
function boardName(partition: number): string {
  return `partition ${partition}`;
}

const timeOnly: Intl.DateTimeFormatOptions = {
  timeZone: 'UTC',
  hour12: false,
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  fractionalSecondDigits: 3,
};
const dateAndTime: Intl.DateTimeFormatOptions = {
  ...timeOnly,
  year: 'numeric',
  month: '2-digit',
  day: '2-digit',
};

type JobStatus = ReturnType<BullMQAdapter['getJobStatuses']>[number];
type Status = ReturnType<BullMQAdapter['getStatuses']>[number];

/** States no deadline is ever in. */
const neverUsed: ReadonlySet<Status> = new Set(['waiting-children', 'prioritized']);

/** Most jobs of a state that are read at once. Bull Board 9.10.1 takes any `jobsPerPage`, a million too. */
const mostJobsRead = 300;

class BoardServer extends ExpressAdapter {
  get handler(): RequestHandler {
    return this.app.disable('x-powered-by');
  }
}

function partitionAdapter(deadlines: Deadlines, partition: number): OrderJobsAdapter {
  return new OrderJobsAdapter(deadlines, {
    name: boardName(partition),
    queue: deadlines.queue(partition),
    description: `${partitionQueueName(partition)}, read-only: a paused queue would not stop the clock, a freeze does.`,
    inspect: (orderId) => deadlines.inspect({ orderId, partition }),
  });
}

/** What a queue is to Bull Board. */
interface ShownQueue {
  readonly name: string;
  readonly queue: ReturnType<Deadlines['queue']>;
  readonly description: string;
  /** Looks at one of its jobs. */
  readonly inspect: (orderId: string) => ReturnType<Deadlines['inspect']>;
}

/** A queue of orders' jobs as Bull Board sees it, without what would read without a bound: that stops Redis. */
class OrderJobsAdapter extends BullMQAdapter {
  readonly #shown: ShownQueue;
  readonly #deadlines: Deadlines;
  #isAway = false;

  constructor(deadlines: Deadlines, shown: ShownQueue) {
    super(shown.queue, {
      readOnlyMode: true,
      displayName: shown.name,
      description: shown.description,
      externalJobUrl: ({ id }) => ({
        href: `/orders/${encodeURIComponent(String(id))}`,
        displayText: 'Open order',
      }),
    });
    this.#shown = shown;
    this.#deadlines = deadlines;
  }

  /** Bull Board asks all queues for their counts and shows none where one fails. */
  override async getJobCounts() {
    const counts = await this.#unlessAway(super.getJobCounts(), undefined);
    this.#isAway = counts === undefined;
    return counts ?? Object.fromEntries(this.getStatuses().map((status) => [status, 0]));
  }

  override isPaused(): Promise<boolean> {
    return this.#unlessAway(super.isPaused(), false);
  }

  override getGlobalConcurrency(): Promise<number | null> {
    return this.#unlessAway(super.getGlobalConcurrency(), null);
  }

  override getDescription(): string {
    return this.#isAway
      ? 'Its node of Redis does not answer: nothing is known of its jobs.'
      : super.getDescription();
  }

  /** The answer; `otherwise` where none comes though other nodes of the cluster answer. */
  async #unlessAway<Answer>(asked: Promise<Answer>, otherwise: Answer): Promise<Answer> {
    try {
      return await asked;
    } catch (error) {
      if (await this.#deadlines.reachable()) return otherwise;
      throw error;
    }
  }

  override getName(): string {
    return this.#shown.name;
  }

  override getJobStatuses(): JobStatus[] {
    return super.getJobStatuses().filter((status) => !neverUsed.has(status));
  }

  override getStatuses(): Status[] {
    return super.getStatuses().filter((status) => !neverUsed.has(status));
  }

  /** Delayed jobs as they fire, the next one first. BullMQ lists the last one first. */
  override getJobs(statuses: JobStatus[], start = 0, end = Infinity) {
    const last = Math.min(end, start + mostJobsRead - 1);
    const isDelayedOnly = statuses.length === 1 && statuses[0] === 'delayed';
    const jobs = isDelayedOnly
      ? this.#shown.queue.getJobs('delayed', start, last, true)
      : super.getJobs(statuses, start, last);
    return this.#unlessAway(jobs, []);
  }

  /** A producer's queue knows no Redis version, and BullMQ's way for the oldest reads the whole list of waiting jobs. */
  override async getJob(id: string) {
    const job = await super.getJob(id);
    const getState = async () => (await this.#shown.inspect(id))?.state ?? 'unknown';
    return job && Object.assign(job, { getState });
  }

  /** A deadline's job writes no logs; BullMQ would read all of what somebody wrote all the same. */
  override getJobLogs(): Promise<string[]> {
    return Promise.resolve([]);
  }

  /** Deadlines have no schedulers; these would be read without a bound. */
  override getJobSchedulers(): Promise<[]> {
    return Promise.resolve([]);
  }

  override getJobSchedulersCount(): Promise<number> {
    return Promise.resolve(0);
  }

  /** Nor are they part of a flow, whose jobs would be asked for their state past `getJob`. */
  override getFlowProducer(): Promise<null> {
    return Promise.resolve(null);
  }
}
