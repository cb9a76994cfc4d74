export { describeAttempt } from './describe.ts';
export type {
  AttemptToOpen,
  Capture,
  HandOff,
  Notice,
  OpenAnswer,
  OpenAttempt,
  PaymentProvider,
  RefundAnswer,
  RefundToSend,
  Verdict,
  Webhook,
  WebhookAnswer,
} from './provider.ts';
export { createProviders, providerSettings } from './providers.ts';
