/**
 * Something that whoever runs this process can mend: a wrong setting, a missing server, an id that does not exist. Its
 * message says what is wrong and what to do, so it is shown without a stack.
 */
export class OperatorError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'OperatorError';
  }
}

/**
 * Runs the entry of a process. Exit code 1 for any error: an OperatorError is told plainly, others with their stack.
 *
 * @param main reads its settings, builds, and runs
 */
export async function runMain(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    process.exitCode = 1;
    console.error(error instanceof OperatorError ? error.message : error);
  }
}
