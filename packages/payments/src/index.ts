export { describeAttempt } from './describe.ts';
export type { Notice, PaymentProvider, RefundAnswer, Verdict } from './provider.ts';
export { createProviders, providerSettings } from './providers.ts';
