/**
 * The plain service: what one would write without Lapse, behind the very same door.
 * `node --import file:///…/plain-service.ts apps/api/src/main.ts` is the api with its routes, its key check, its
 * validation and its answers, but what its `main.ts` imports of the packages comes from `plain-ports.ts`: one transaction
 * and one `queue.add` for each order. With `?ports=plain-door.ts` nothing at all lies behind the door.
 */
import { registerHooks } from 'node:module';

const { searchParams } = new URL(import.meta.url);
const ports = new URL(searchParams.get('ports') ?? 'plain-ports.ts', import.meta.url).href;

registerHooks({
  resolve(specifier, context, nextResolve) {
    const isReplaced =
      context.parentURL?.endsWith('/apps/api/src/main.ts') === true && specifier.startsWith('@lapse/');
    return nextResolve(isReplaced ? ports : specifier, context);
  },
});
