export { maxPartitionCount, partitionQueueName, reminderQueueName } from './catalog.ts';
export { watchClock } from './clock.ts';
export { createDeadlines, type Deadlines } from './deadlines.ts';
export { type JobView } from './inspect.ts';
export { reminderWorker } from './reminder-worker.ts';
export { deadlineWorker } from './worker.ts';
