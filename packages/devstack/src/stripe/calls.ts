import type { StripeAccount } from './account.ts';
import { type Answer, type Intent, type Metadata, missing, refusal } from './objects.ts';

/** A call's parameters, as `line_items[0][quantity]` and the like. */
export type Params = ReadonlyMap<string, string>;

interface Call {
  /** As in `POST /v1/checkout/sessions/cs_1/expire`; what is in brackets is the id. */
  readonly line: RegExp;
  /** The names of its parameters. */
  readonly takes: RegExp;
  run(id: string, params: Params): Answer;
}

/** Currencies that the account takes. */
const currencies = ['eur', 'usd', 'gbp', 'jpy', 'isk', 'ugx', 'mga', 'kwd', 'huf'];

/** Charges below this are not worth their cost, in Stripe's units; of the others, all are. */
const least: Readonly<Record<string, number>> = { eur: 50, usd: 50, gbp: 30 };

/** A page lives so long at least and at most, seconds. */
const pageLife = { least: 30 * 60, most: 24 * 60 * 60 };

/** Carries out a call of Stripe's API. Parameters that it does not know are refused, as Stripe does. */
export function callsTo({ api }: StripeAccount): (line: string, params: Params) => Answer {
  const calls: readonly Call[] = [
    {
      line: /^POST \/v1\/checkout\/sessions$/,
      takes:
        /^(mode|ui_mode|client_reference_id|success_url|cancel_url|expires_at|metadata\[\w+\]|payment_intent_data\[(description|metadata\]\[\w+)\]|line_items\[0\]\[(quantity|price_data\]\[(currency|unit_amount|product_data\]\[name))\])$/,
      run: (_, params) => openPage(params),
    },
    {
      line: /^GET \/v1\/checkout\/sessions\/(\w+)$/,
      takes: /^expand\[0\]$/,
      run(id, params) {
        const page = api.findPage(id);
        return page === undefined ? missing('checkout.session', id, 'session') : done(expanded(page, params));
      },
    },
    {
      line: /^POST \/v1\/checkout\/sessions\/(\w+)\/expire$/,
      takes: /^expand\[0\]$/,
      run(id, params) {
        const answer = api.expirePage(id);
        return answer.status === 200 ? { ...answer, body: expanded(answer.body, params) } : answer;
      },
    },
    {
      line: /^POST \/v1\/payment_intents$/,
      takes: /^(amount|currency|description|automatic_payment_methods\[enabled\]|metadata\[\w+\])$/,
      run(_, params) {
        const amount = Number(params.get('amount'));
        const currency = params.get('currency') ?? '';
        return (
          faultOf(amount, currency, 'amount') ??
          done(
            api.createIntent({
              amount,
              currency,
              description: params.get('description') ?? null,
              metadata: under(params, 'metadata'),
            }),
          )
        );
      },
    },
    {
      line: /^GET \/v1\/payment_intents\/(\w+)$/,
      takes: /^expand\[0\]$/,
      run(id, params) {
        const intent = api.findIntent(id);
        if (intent === undefined) return missing('payment_intent', id, 'intent');
        return done(params.get('expand[0]') === 'latest_charge' ? withCharge(intent) : intent);
      },
    },
    {
      line: /^POST \/v1\/payment_intents\/(\w+)\/cancel$/,
      takes: /^cancellation_reason$/,
      run: (id, params) => api.cancelIntent(id, params.get('cancellation_reason') ?? ''),
    },
    {
      line: /^POST \/v1\/refunds$/,
      takes: /^(payment_intent|amount|metadata\[\w+\])$/,
      run(_, params) {
        const amount = params.get('amount');
        return api.refund(
          params.get('payment_intent') ?? '',
          amount === undefined ? undefined : Number(amount),
          under(params, 'metadata'),
        );
      },
    },
    {
      line: /^GET \/v1\/refunds\/(\w+)$/,
      takes: /^$/,
      run(id) {
        const refund = api.findRefund(id);
        return refund === undefined ? missing('refund', id, 'id') : done(refund);
      },
    },
    {
      line: /^GET \/v1\/refunds$/,
      takes: /^(payment_intent|limit|starting_after)$/,
      run(_, params) {
        const intentId = params.get('payment_intent') ?? '';
        if (api.findIntent(intentId) === undefined)
          return missing('payment_intent', intentId, 'payment_intent');
        const all = api.refundsOf(intentId);
        const from = all.findIndex(({ id }) => id === params.get('starting_after')) + 1;
        const to = from + Number(params.get('limit') ?? 10);
        return done({
          object: 'list',
          url: '/v1/refunds',
          data: all.slice(from, to),
          has_more: to < all.length,
        });
      },
    },
  ];

  function openPage(params: Params): Answer {
    const amount = Number(params.get('line_items[0][price_data][unit_amount]'));
    const currency = params.get('line_items[0][price_data][currency]') ?? '';
    const success_url = params.get('success_url');
    const expires_at = Number(params.get('expires_at') ?? now() + pageLife.most);
    if (success_url === undefined) {
      return refusal(400, 'Missing required param: success_url.', {
        code: 'parameter_missing',
        param: 'success_url',
      });
    }
    if (!URL.canParse(success_url)) {
      return refusal(400, 'Not a valid URL', { code: 'url_invalid', param: 'success_url' });
    }
    if (expires_at < now() + pageLife.least) {
      return refusal(
        400,
        'The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation.',
        { param: 'expires_at' },
      );
    }
    if (expires_at > now() + pageLife.most) {
      return refusal(
        400,
        'The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.',
        { param: 'expires_at' },
      );
    }
    const fault = faultOf(amount, currency, 'line_items[0][price_data][unit_amount]');
    if (fault !== undefined) return fault;
    const page = api.createPage(
      {
        amount_total: amount,
        cancel_url: params.get('cancel_url') ?? null,
        client_reference_id: params.get('client_reference_id') ?? null,
        currency,
        expires_at,
        metadata: under(params, 'metadata'),
        mode: 'payment',
        success_url,
        ui_mode: 'hosted_page',
      },
      {
        amount,
        currency,
        description: params.get('payment_intent_data[description]') ?? null,
        metadata: under(params, 'payment_intent_data[metadata]'),
      },
    );
    return done(page);
  }

  function expanded(object: object, params: Params): object {
    if (params.get('expand[0]') !== 'payment_intent.latest_charge' || !('payment_intent' in object))
      return object;
    const intent = api.findIntent(String(object.payment_intent));
    return { ...object, payment_intent: intent === undefined ? null : withCharge(intent) };
  }

  function withCharge(intent: Intent): object {
    return { ...intent, latest_charge: intent.latest_charge === null ? null : api.chargeOf(intent) };
  }

  return (line, params) => {
    for (const call of calls) {
      const match = call.line.exec(line);
      if (match === null) continue;
      const unknown = [...params.keys()].find((name) => !call.takes.test(name));
      return unknown === undefined
        ? call.run(match[1] ?? '', params)
        : refusal(400, `Received unknown parameter: ${unknown}`, {
            code: 'parameter_unknown',
            param: unknown,
          });
    }
    return refusal(404, `Unrecognized request URL (${line}).`);
  };
}

/** Why Stripe would not take that much. */
function faultOf(amount: number, currency: string, param: string): Answer | undefined {
  if (!currencies.includes(currency)) {
    return refusal(
      400,
      `Invalid currency: ${currency}. Stripe currently supports these currencies: ${currencies.join(', ')}`,
      {
        param: 'currency',
      },
    );
  }
  if (!Number.isSafeInteger(amount) || amount < 1) {
    return refusal(400, `Invalid integer: ${amount}`, { code: 'parameter_invalid_integer', param });
  }
  if ((currency === 'isk' || currency === 'ugx') && amount % 100 !== 0) {
    return refusal(
      400,
      `Invalid amount. Currency ${currency} is effectively zero-decimal: amounts must be evenly divisible by 100.`,
      {
        code: 'invalid_charge_amount_no_decimal_compatible',
        param,
      },
    );
  }
  if (currency === 'kwd' && amount % 10 !== 0) {
    return refusal(400, 'Invalid amount. The last digit of amounts in KWD must be 0.', { param });
  }
  if (amount < (least[currency] ?? 1)) {
    return refusal(400, 'The total amount due must add up to at least 50 cents.', {
      code: 'amount_too_small',
      param,
    });
  }
  if (amount > 99_999_999) {
    return refusal(400, 'Amount must be no more than 999,999.99', { code: 'amount_too_large', param });
  }
  return undefined;
}

/** `metadata[a]`, `metadata[b]` … as an object. */
function under(params: Params, name: string): Metadata {
  return Object.fromEntries(
    [...params]
      .filter(([key]) => key.startsWith(`${name}[`))
      .map(([key, value]) => [key.slice(name.length + 1, -1), value]),
  );
}

function done(body: object): Answer {
  return { status: 200, body, isKept: true };
}

/** Seconds since 1970. */
function now(): number {
  return Math.floor(Date.now() / 1000);
}
