import { delayedJobs } from './delayed-jobs.ts';
import { runReference } from './program.ts';

/** The queue's own limit: a BullMQ worker that does nothing with its jobs, as many at a time as Lapse takes. */
await runReference(delayedJobs({ queueName: 'noop', concurrency: 500, look: () => Promise.resolve() }));
