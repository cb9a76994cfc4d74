import { z } from 'zod';
import type { Answer, Bank } from './bank.ts';
import type { SandboxCall } from './behaviour.ts';

/** A call of the protocol that makes sense. */
export interface Asked {
  /** The attempt or refund it is about. */
  readonly about: string;
  /** The attempt it names, where it does. */
  readonly attempt?: { readonly attemptId: string; readonly orderId: string };
  /** The payment it names, where it does. */
  readonly providerPaymentId?: string;
  /** Does it. */
  run(): Answer;
}

/** A call of the protocol: how its body is read. */
export interface Call {
  readonly name: SandboxCall;
  read(body: string): Asked | { readonly fault: string };
}

const money = {
  amount: z.int().positive(),
  currency: z.string().regex(/^[A-Z]{3}$/),
};

const attempt = { attemptId: z.guid(), orderId: z.guid(), providerAttemptId: z.string().min(1) };

const refund = {
  refundId: z.guid(),
  orderId: z.guid().nullable(),
  providerPaymentId: z.string().min(1),
  ...money,
};

/** The calls of docs/providers.md, by their paths. A field more or less than written there is a fault. */
export function callsTo(bank: Bank): ReadonlyMap<string, Call> {
  const call = <Fields extends z.ZodRawShape>(
    path: string,
    name: SandboxCall,
    fields: Fields,
    ask: (body: z.output<z.ZodObject<Fields, z.core.$strict>>) => Asked,
  ): [string, Call] => {
    const schema = z.strictObject(fields);
    // The path is signed by standing in the body.
    const named = z.looseObject({ call: z.literal(path) }).transform(({ call: _, ...rest }) => rest);
    const read: Call['read'] = (body) => {
      const parsed = named.pipe(schema).safeParse(parseJson(body));
      return parsed.success ? ask(parsed.data) : { fault: z.prettifyError(parsed.error) };
    };
    return [path, { name, read }];
  };

  return new Map([
    call(
      '/v1/attempts',
      'open',
      {
        attemptId: z.guid(),
        orderId: z.guid(),
        ...money,
        payBy: z.iso.datetime().nullable(),
        handOff: z.enum(['url', 'client_secret']),
        returnUrl: z.url().nullable(),
        description: z.string().min(1),
      },
      (body) => ({ about: body.attemptId, attempt: body, run: () => bank.open(body) }),
    ),
    call('/v1/attempts/close', 'close', attempt, (body) => ({
      about: body.attemptId,
      attempt: body,
      run: () => bank.close(body),
    })),
    call('/v1/attempts/look', 'look', attempt, (body) => ({
      about: body.attemptId,
      attempt: body,
      run: () => bank.look(body),
    })),
    call('/v1/refunds', 'refund', refund, (body) => ({
      about: body.refundId,
      providerPaymentId: body.providerPaymentId,
      run: () => bank.refund(body),
    })),
    call('/v1/refunds/find', 'find', refund, (body) => ({
      about: body.refundId,
      providerPaymentId: body.providerPaymentId,
      run: () => bank.find(body),
    })),
  ]);
}

/** Undefined where it is no JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
