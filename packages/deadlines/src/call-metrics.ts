import { Counter, Gauge, type Metrics } from '@lapse/runtime';

/**
 * Counts what the producer does.
 *
 * @param pendingCount calls that are under way
 */
export function countCalls(metrics: Metrics, pendingCount: () => number) {
  const registers = [metrics];
  const counter = (name: string, help: string) => new Counter({ name, help, registers });
  return {
    armed: counter('lapse_deadlines_armed_total', 'Deadlines whose job was put into Redis'),
    armFailures: counter(
      'lapse_deadline_arm_failures_total',
      'Deadlines whose job could not be put into Redis',
    ),
    armsDeferred: counter('lapse_deadline_arms_deferred_total', 'Calls answered before the job was in Redis'),
    disarmed: counter('lapse_deadlines_disarmed_total', 'Deadlines that were disarmed'),
    disarmFailures: counter(
      'lapse_deadline_disarm_failures_total',
      'Deadlines whose job could not be removed',
    ),
    pending: new Gauge({
      name: 'lapse_deadline_calls_pending',
      help: 'Calls to arm, move and disarm deadlines that are under way',
      registers,
      collect() {
        this.set(pendingCount());
      },
    }),
  };
}
