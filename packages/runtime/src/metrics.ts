import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';

export { Counter, Gauge, Histogram };

/** Where a process's metrics are registered; its text is served at `/metrics`. */
export type Metrics = Registry;

/** Creates a registry that already has the process's own figures (CPU, memory, event loop). */
export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}
