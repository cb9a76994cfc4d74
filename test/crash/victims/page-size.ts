/** Orders in one step of a process that halts: small, so that a step leaves some for the next one. */
export const pageSize = 4;
