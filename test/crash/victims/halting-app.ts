/**
 * Gives an app ports that halt it: `node --import file:///…/halting-app.ts?call=arm&moment=before apps/api/src/main.ts`.
 * The app is the real one, composition included; only what its `main.ts` imports from four packages comes by way
 * of `halting-ports.ts`.
 */
import { registerHooks } from 'node:module';

const ports = new URL(`halting-ports.ts${new URL(import.meta.url).search}`, import.meta.url).href;
const handedOut = new Set(['@lapse/deadlines', '@lapse/orders', '@lapse/payments', '@lapse/runtime']);

registerHooks({
  resolve(specifier, context, nextResolve) {
    const isMain = /\/apps\/[a-z]+\/src\/main\.ts$/.test(context.parentURL ?? '');
    return nextResolve(isMain && handedOut.has(specifier) ? ports : specifier, context);
  },
});
