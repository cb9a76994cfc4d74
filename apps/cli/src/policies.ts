import {
  explainPolicy,
  formatDuration,
  loadPolicies,
  type OrderKind,
  type Policies,
  type Policy,
} from '@lapse/orders';

/** `lapse policies check`. */
export async function checkPolicies(path: string): Promise<void> {
  const { policies, warnings } = await loadPolicies(path);
  const count = policies.rules.length;
  console.log(`ok: ${count === 1 ? '1 rule' : `${count} rules`} in ${path}; the first that matches wins.\n`);
  for (const line of table(policies)) console.log(line);
  if (warnings.length > 0) console.log();
  for (const warning of warnings) console.log(`warning: ${warning}`);
}

function table({ rules, defaults }: Policies): string[] {
  return aligned([
    [
      'rule',
      'channel',
      'payment method',
      'window',
      'grace',
      'reminders',
      'extension',
      'late money',
      'processing',
    ],
    ...rules.map(({ channels, paymentMethods, policy }) => [
      policy.name,
      names(channels),
      names(paymentMethods),
      ...cells(policy),
    ]),
    ['(defaults)', 'any other', 'any other', ...cells(defaults)],
  ]);
}

const names = (set: ReadonlySet<string> | null): string => (set === null ? 'any' : [...set].join(' '));

const cells = (policy: Policy): string[] => [
  policy.windowMs === null ? 'never' : formatDuration(policy.windowMs),
  formatDuration(policy.graceMs),
  policy.reminders.map(formatDuration).join(' ') || 'none',
  extension(policy),
  policy.lateMoney,
  formatDuration(policy.processingMs),
];

function extension({ extension: { maxCount, maxTotalMs } }: Policy): string {
  if (maxCount === 0) return 'never';
  const count = maxCount === null ? [] : [`${maxCount}×`];
  const total = maxTotalMs === null ? [] : [`by ${formatDuration(maxTotalMs)}`];
  return [...count, ...total].join(', ') || 'any';
}

function extensionInWords({ extension: { maxCount, maxTotalMs } }: Policy): string {
  if (maxCount === 0) return 'never';
  const count = maxCount === null ? 'as often as wished' : `${maxCount} times at most`;
  return maxTotalMs === null ? count : `${count}, by ${formatDuration(maxTotalMs)} in all`;
}

/** Lines of cells, each column as wide as its widest. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, n) => Math.max(...rows.map((row) => row[n]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, n) => cell.padEnd(widths[n] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

const lateMoney: Readonly<Record<Policy['lateMoney'], string>> = {
  refund: 'returned by itself where the provider vouches for it, else a person decides',
  reinstate:
    'the order is paid after all if only time cancelled it and its stock is still there; else as refund',
  manual: 'a person decides',
};

/**
 * `lapse policies explain`.
 *
 * @param path the file; undefined: there is none, and the default policies hold
 */
export async function explainPolicies(path: string | undefined, kind: OrderKind): Promise<void> {
  const { policies, warnings } = await loadPolicies(path);
  const { policy, passedOver } = explainPolicy(policies, kind);
  console.log(
    `Channel ${kind.channel}, payment method ${kind.paymentMethod}, ${path ?? 'without a policies file'}:`,
  );
  const tried = [
    ...passedOver.map(({ name, reason }) => [name, `no: ${reason}`]),
    policy === policies.defaults ? ['(defaults)', 'no rule matches'] : [policy.name, 'matches'],
  ];
  for (const line of aligned(tried)) console.log(`  ${line}`);
  console.log('An order placed now:');
  for (const line of aligned(consequences(policy, Date.now()))) console.log(`  ${line}`);
  for (const warning of warnings) console.log(`warning: ${warning}`);
}

const at = (ms: number): string => new Date(ms).toISOString();

function consequences(policy: Policy, now: number): string[][] {
  const { windowMs, graceMs, reminders, processingMs } = policy;
  const deadline = windowMs === null ? undefined : now + windowMs;
  const window =
    deadline === undefined
      ? 'never: it has no deadline, unless it brings a window of its own'
      : `${formatDuration(windowMs ?? 0)}: to be paid until ${at(deadline)}`;
  const grace = deadline === undefined ? '' : `: may be cancelled from ${at(deadline + graceMs)} on`;
  const reminder = (ms: number): string =>
    `${formatDuration(ms)} before${deadline === undefined ? '' : `, ${at(deadline - ms)}`}`;
  return [
    ['window', window],
    ['grace', formatDuration(graceMs) + grace],
    ['reminders', reminders.map(reminder).join('; ') || 'none'],
    ['extension', extensionInWords(policy)],
    ['late money', `${policy.lateMoney}: ${lateMoney[policy.lateMoney]}`],
    ['processing', `ops are told when money is on its way for ${formatDuration(processingMs)}`],
  ];
}
