import type { Command } from './commands.ts';
import type { Answer } from './shop.ts';

/** The command as a sentence. */
export function sentence(command: Command): string {
  switch (command.do) {
    case 'checkout': {
      const items = Object.entries(command.items).map(([sku, quantity]) => `${quantity} ${sku}`);
      const { order, channel, method, windowMs } = command;
      const window = windowMs === null ? 'in its time' : `within ${duration(windowMs)}`;
      return `order ${order} is to be placed in the ${channel}, ${items.join(' and ')}, to pay by ${method} ${window}${withKey(command)}`;
    }
    case 'pay': {
      const { order, capture, excess, verified } = command;
      const who = verified ? 'its provider tells' : 'the shop reports';
      return `${who} that order ${order} is paid in ${command.currency} by capture ${capture}${wrong(excess)}${withKey(command)}`;
    }
    case 'begin attempt':
      return `the customer of order ${command.order} wants to pay by ${command.provider}, attempt ${command.attempt}`;
    case 'opened':
      return `attempt ${command.attempt} is opened`;
    case 'verdict':
      return `the provider of attempt ${command.attempt} says: ${command.said}`;
    case 'attempt pays':
      return `the provider of attempt ${command.attempt} tells of its capture ${command.capture}${wrong(command.excess)}`;
    case 'refund verdict': {
      const which = command.isFormer ? 'former refund' : 'refund';
      return `the provider says of the ${which} of ${command.capture}: ${command.said}`;
    }
    case 'resolve':
      return `a person decides about ${command.capture}: ${command.resolution}`;
    case 'cancel':
      return `the ${command.reason} cancels order ${command.order}`;
    case 'extend':
      return `order ${command.order} is given ${duration(command.byMs)} more`;
    case 'extend to':
      return `order ${command.order} is given time until ${duration(command.inMs)} from now`;
    case 'expire':
      return `the jobs of ${command.orders.map((name) => `order ${name}`).join(' and ')} fire`;
    case 'sweep':
      return `the sweeper looks for ${command.limit}`;
    case 'remind':
      return `the reminders of ${command.orders.map((name) => `order ${name}`).join(' and ')} fire`;
    case 'sweep reminders':
      return `the sweeper looks for ${command.limit} reminders`;
    case 'set stock':
      return `the stock of ${command.sku} is set to ${command.onHand ?? 'uncounted'}`;
    case 'adjust stock':
      return `the stock of ${command.sku} is changed by ${command.by}`;
    case 'freeze':
      return `freeze ${command.freeze} of ${Object.values(command.scope).join(' and ') || 'everybody'} begins`;
    case 'thaw':
      return `freeze ${command.freeze} is to thaw`;
    case 'thaw step':
      return `the thaw goes on with up to ${command.limit}`;
    case 'pass':
      return `${duration(command.ms)} pass`;
    case 'pass to expiry':
    case 'pass to reminder': {
      const { order, plusMs } = command;
      const what =
        command.do === 'pass to expiry' ? `order ${order} expires` : `order ${order} is to be reminded`;
      if (plusMs === 0) return `time passes until ${what}`;
      return `time passes until ${duration(Math.abs(plusMs))} ${plusMs < 0 ? 'before' : 'after'} ${what}`;
    }
    case 'purge keys':
      return 'old idempotency keys are purged';
  }
}

const wrong = (excess: number): string =>
  excess === 0 ? '' : `, ${excess > 0 ? `${excess} too much` : `${-excess} too little`}`;

const withKey = ({ key }: { key: string | null }): string => (key === null ? '' : `, with key ${key}`);

function duration(ms: number): string {
  if (ms !== 0 && ms % 86_400_000 === 0) return `${ms / 86_400_000} d`;
  if (ms !== 0 && ms % 60_000 === 0) return `${ms / 60_000} min`;
  return `${ms} ms`;
}

/** The answer in a few words. */
export function gist({ outcome, answers = {}, deadlines = {}, order, ...rest }: Answer): string {
  return [
    outcome,
    ...Object.entries(answers).map(([name, answer]) => `${name}: ${Object.values(answer).join(' ')}`),
    ...Object.entries(deadlines).map(([name, deadlineAt]) => `${name} until ${deadlineAt}`),
    ...(order === undefined ? [] : [`order ${order.name} ${order.status}, deadline ${order.deadlineAt}`]),
    ...Object.entries(rest).map(([name, detail]) => `${name} ${JSON.stringify(detail)}`),
  ].join('; ');
}
