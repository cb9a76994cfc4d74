import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { type Answer, createBank, problem, type SandboxLedger, type SandboxPayment } from './bank.ts';
import {
  behavioursOf,
  drawsOf,
  type SandboxBehaviour,
  type SandboxCall,
  type SandboxScript,
} from './behaviour.ts';
import { callsTo } from './calls.ts';
import { createDeliveries, type WebhookCounts } from './deliveries.ts';
import { answerPage } from './page.ts';
import { isSigned } from './signature.ts';
import { createTasks } from './tasks.ts';

/** A payment service to start. */
export interface SandboxOptions {
  /** `whsec_…`, shared with whoever calls it. */
  readonly secret: string;
  /** Where its webhooks go, `…/hooks/sandbox`; of several, each try takes the next one. Default: they are lost. */
  readonly hooksUrl?: string | readonly string[];
  /** Default: a free one. */
  readonly port?: number;
  /**
   * It says `closed` of attempts that it does not know: those of its former life, whose pages are gone with it. Nothing it
   * has is kept. Default: no such attempt was opened, it says, and whoever asks knows nothing.
   */
  readonly isForgetful?: boolean;
  /** Decides all that shares leave open. Default `sandbox`. */
  readonly seed?: string;
  /** How it behaves to every attempt. Default: well. */
  readonly behaviour?: Partial<SandboxBehaviour>;
  /** How it behaves to one attempt besides. Default: no otherwise. */
  readonly script?: SandboxScript;
}

/** What became of the calls and webhooks. */
export interface SandboxCounts {
  /** By their names, the failed ones included. */
  readonly calls: Readonly<Record<SandboxCall, number>>;
  /** Calls that were unsigned, or not of the protocol. */
  readonly wrongCalls: number;
  /** Calls that were answered with 503. */
  readonly failedCalls: number;
  /** Calls that were done and whose answers were lost. */
  readonly lostAnswers: number;
  readonly webhooks: Readonly<WebhookCounts>;
}

/** A payment service with customers and whims, on 127.0.0.1. It speaks the protocol of docs/providers.md. */
export interface Sandbox {
  /** What `LAPSE_SANDBOX_PROVIDER_URL` is set to. */
  readonly url: string;
  readonly port: number;
  /** A customer pays, on an open page, at once. Another amount or currency than asked for can be said. */
  pay(attemptId: string, money?: { readonly amount?: number; readonly currency?: string }): SandboxPayment;
  /** A customer pays in a way that takes days: the attempt is processing for as long as the behaviour says. */
  startPaying(attemptId: string): void;
  /** Ends the processing of an attempt. */
  settle(attemptId: string, end: 'paid' | 'closed'): void;
  /** Ends a refund that was sent. */
  settleRefund(refundId: string, end: 'confirmed' | 'failed'): void;
  /** Changes its behaviour, to every attempt or to one. What is not named stays. */
  setBehaviour(change: Partial<SandboxBehaviour>, attemptId?: string): void;
  /** Where its webhooks go from now on. */
  deliverTo(hooksUrl: string | readonly string[]): void;
  /** Sends the webhooks that `holdWebhooks` held back, one after the other. */
  deliverHeld(options?: { readonly reversed?: boolean }): Promise<void>;
  ledger(): SandboxLedger;
  counts(): SandboxCounts;
  /** Resolves when no webhook and no change is under way; one that is held is not. */
  idle(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a sandbox payment provider. */
export async function startSandbox(options: SandboxOptions): Promise<Sandbox> {
  const { secret } = options;
  const tasks = createTasks();
  const draw = drawsOf(options.seed ?? 'sandbox');
  const behaviours = behavioursOf(options.behaviour ?? {}, options.script);
  const counts = {
    calls: { open: 0, close: 0, look: 0, refund: 0, find: 0 },
    wrongCalls: 0,
    failedCalls: 0,
    lostAnswers: 0,
  };
  const deliveries = createDeliveries({ secret, behaviourTo: behaviours.to, draw, tasks });
  if (options.hooksUrl !== undefined) deliveries.deliverTo(options.hooksUrl);
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  server.listen(options.port ?? 0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the listening socket has no port');
  const url = `http://127.0.0.1:${address.port}`;
  const bank = createBank({
    pageOf: (providerAttemptId) => `${url}/pay/${providerAttemptId}`,
    behaviourTo: behaviours.to,
    tell: deliveries.tell,
    later: tasks.later,
    isForgetful: options.isForgetful ?? false,
  });
  const calls = callsTo(bank);

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    if (answerPage(bank, request, response)) return;
    const wrong = (status: number, code: string, detail: string): void => {
      counts.wrongCalls += 1;
      send(response, problem(status, code, detail));
    };
    const call = request.method === 'POST' ? calls.get(request.url ?? '') : undefined;
    if (call === undefined) return wrong(404, 'unknown_call', 'The protocol has no such call.');
    if (!isSigned(secret, body, request.headers)) return wrong(401, 'not_signed', 'The signature is wrong.');
    const asked = call.read(body);
    if ('fault' in asked) return wrong(400, 'not_of_the_protocol', asked.fault);
    counts.calls[call.name] += 1;
    if (asked.attempt !== undefined) behaviours.hear(asked.attempt);
    const attemptId = asked.attempt?.attemptId ?? bank.attemptIdOf(asked.providerPaymentId ?? '') ?? '';
    const behaviour = behaviours.to(attemptId);
    const isFaulty = behaviour.faultyCalls.includes(call.name);
    // Both are drawn each time, so that one share changed leaves the other's draws as they were.
    const fails = draw(asked.about, `fail ${call.name}`) < behaviour.failShare;
    const losesAnswer = draw(asked.about, `lose ${call.name}`) < behaviour.loseAnswerShare;
    if (isFaulty && (behaviours.takeFailure(attemptId) || fails)) {
      counts.failedCalls += 1;
      send(response, problem(503, 'out_of_order', 'The sandbox fails, as it was told to.'));
      return;
    }
    const answer = asked.run();
    if (isFaulty && losesAnswer) {
      counts.lostAnswers += 1;
      request.socket.destroy();
      return;
    }
    if (isFaulty && behaviour.slowMs > 0) await delay(behaviour.slowMs, undefined, { signal: tasks.signal });
    send(response, answer);
  }

  return {
    url,
    port: address.port,
    pay: bank.pay,
    startPaying: bank.startPaying,
    settle: bank.settle,
    settleRefund: bank.settleRefund,
    setBehaviour: behaviours.set,
    deliverTo: deliveries.deliverTo,
    deliverHeld: deliveries.deliverHeld,
    ledger: bank.ledger,
    counts: () => structuredClone({ ...counts, webhooks: deliveries.counts }),
    idle: tasks.idle,
    async stop() {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await tasks.stop();
      await closed;
    },
  };
}

function send(response: ServerResponse, { status, body }: Answer): void {
  const type = status < 400 ? 'application/json' : 'application/problem+json';
  response.writeHead(status, { 'Content-Type': type }).end(JSON.stringify(body));
}
