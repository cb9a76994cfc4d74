import { setTimeout as delay } from 'node:timers/promises';
import { Gauge, type Metrics } from '@lapse/runtime';

/** How long whoever asks for the metrics waits for the database, ms. Scrapers give up after 10 s. */
const patienceMs = 1000;

/**
 * A question to the database for those who ask for the metrics: one for all who ask meanwhile, so that their figures tell
 * of the same instant. Undefined where no answer comes within a second: the other metrics are never more wanted than then.
 */
export function asked<Answer>(ask: () => Promise<Answer>): () => Promise<Answer | undefined> {
  let underWay: Promise<Answer> | undefined;
  return () => {
    underWay ??= ask().finally(() => (underWay = undefined));
    return Promise.race([underWay, delay(patienceMs, undefined, { ref: false })]).catch(() => undefined);
  };
}

/** Registers a figure that is read from the rows when somebody asks for the metrics; undefined: it is left out. */
export function rowGauge(options: {
  name: string;
  help: string;
  metrics: Metrics;
  read: () => Promise<number | undefined>;
}): void {
  const { name, help, metrics, read } = options;
  // It registers itself.
  void new Gauge({
    name,
    help,
    registers: [metrics],
    async collect() {
      const value = await read();
      if (value === undefined) this.remove();
      else this.set(value);
    },
  });
}
