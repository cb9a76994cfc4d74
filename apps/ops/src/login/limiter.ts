import { isIPv6 } from 'node:net';

/** How many logins may fail from one address within a window. */
const maxFailures = 10;

/** Length of a window, ms. */
const windowMs = 10 * 60 * 1000;

/** Most addresses remembered; beyond it the oldest is forgotten. About 1 MB. */
const maxAddresses = 10_000;

/** Limits guesses of the password: ten an address in ten minutes. Lives in memory, and counts anew after a restart. */
export class LoginLimiter {
  readonly #tries = new Map<string, { count: number; readonly until: number }>();

  /**
   * Counts a try.
   *
   * @returns 0 when it may go on, else how long to wait, ms
   */
  take(address: string, now = Date.now()): number {
    const key = network(address);
    const known = this.#tries.get(key);
    const tries = known !== undefined && known.until > now ? known : { count: 0, until: now + windowMs };
    if (tries.count >= maxFailures) return tries.until - now;
    tries.count += 1;
    // Set anew, so that the map stays in the order of the last try.
    this.#tries.delete(key);
    this.#tries.set(key, tries);
    const [oldest] = this.#tries.keys();
    if (this.#tries.size > maxAddresses && oldest !== undefined) this.#tries.delete(oldest);
    return 0;
  }

  /** Forgets the tries of an address: its user knew the password. */
  forgive(address: string): void {
    this.#tries.delete(network(address));
  }

  /** Addresses remembered. */
  get size(): number {
    return this.#tries.size;
  }
}

/** A customer of an IPv6 provider has at least a /64 of addresses: they count as one. */
export function network(address: string): string {
  if (!isIPv6(address) || address.startsWith('::ffff:')) return address;
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  if (tail !== undefined) {
    const behind = tail === '' ? [] : tail.split(':');
    while (groups.length + behind.length < 8) groups.push('0');
  }
  return groups.slice(0, 4).join(':');
}
