/** Draws numbers from 0 to 1, 1 excluded; the same ones for the same seed. */
export type Random = () => number;

/** A generator for a seed: mulberry32, begun at the text's FNV-1a hash. Good enough to choose, useless for secrets. */
export function randomOf(seed: string): Random {
  let state = 0x81_1c_9d_c5;
  for (const byte of Buffer.from(seed)) state = Math.imul(state ^ byte, 0x01_00_01_93);
  return () => {
    state = (state + 0x6d_2b_79_f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A whole number from `least` to `most`, both included. */
export function between(random: Random, least: number, most: number): number {
  return least + Math.floor(random() * (most - least + 1));
}

/** One of `choices`. @throws RangeError when there is none */
export function oneOf<Choice>(random: Random, choices: readonly Choice[]): Choice {
  const choice = choices[between(random, 0, choices.length - 1)];
  if (choice === undefined) throw new RangeError('there is nothing to choose from');
  return choice;
}
