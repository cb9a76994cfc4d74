import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Eta } from 'eta';

const folder = fileURLToPath(new URL('../views', import.meta.url));

/** Renders pages from the templates in `views/`. */
export interface Views {
  /** Fills a template, for example `order`. Every value is escaped. */
  render(template: string, values: object): string;
}

/**
 * Compiles all templates at once: a broken one is found at start, not by the first visitor.
 *
 * @param shared values that every template can read
 */
export function createViews(shared: object): Views {
  const eta = new Eta({ views: folder, cache: true });
  for (const file of readdirSync(folder)) {
    const filepath = eta.resolvePath(file);
    eta.templatesSync.define(filepath, eta.compile(eta.readFile(filepath), { filepath }));
  }
  return { render: (template, values) => eta.render(template, { ...shared, ...values }) };
}
