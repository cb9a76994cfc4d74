export { maxPartitionCount, partitionQueueName } from './catalog.ts';
export { watchClock } from './clock.ts';
export { createDeadlines, type Deadlines } from './deadlines.ts';
export { type JobView } from './inspect.ts';
export { deadlineWorker } from './worker.ts';
