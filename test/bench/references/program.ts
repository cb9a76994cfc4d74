import {
  createLog,
  loadSettings,
  openDatabase,
  OperatorError,
  runMain,
  runServices,
  type Database,
  type Log,
  type Service,
} from '@lapse/runtime';

/** What a reference works on: the same rows and the same Redis as Lapse. */
export interface Ground {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  /** A pool of 20, with Lapse's own settings: prepared statements, and statements that share a round trip. */
  readonly database: Database;
  readonly log: Log;
}

/** Another way to cancel orders when their time is over. */
export interface Reference {
  /** Schedules every pending order, once, as checkouts would have done one by one. */
  arm(ground: Ground): Promise<void>;
  /** What consumes what was armed, and cancels. */
  work(ground: Ground): Omit<Service, 'name'>;
}

/**
 * Makes a program of a reference: with `arm` it schedules all pending orders and ends; with `work` it consumes until it is
 * told to stop, and says `{"msg":"ready"}` when it does.
 */
export async function runReference(reference: Reference): Promise<void> {
  await runMain(async () => {
    const { databaseUrl, redisUrl } = loadSettings(['databaseUrl', 'redisUrl']);
    const log = createLog('reference', 'warn');
    const database = openDatabase({ url: databaseUrl, app: 'reference', log, max: 20 });
    const ground: Ground = { databaseUrl, redisUrl, database, log };
    const [side] = process.argv.slice(2);
    if (side === 'arm') {
      await reference.arm(ground);
      await database.end();
    } else if (side === 'work') {
      const pool = { name: 'database', start: () => Promise.resolve(), stop: () => database.end() };
      const isRunning = await runServices([pool, { name: 'reference', ...reference.work(ground) }], log);
      if (isRunning) console.log(JSON.stringify({ msg: 'ready' }));
    } else {
      throw new OperatorError('a reference is started with arm or work');
    }
  });
}

/** A pending order, as far as a timer has to know it. */
export interface Due {
  readonly id: string;
  readonly expireAt: Date;
}

/** Reads every pending order, in pages: `size` is what the reference adds in one go. */
export async function readPending({ database }: Ground, size: number): Promise<Due[][]> {
  const { rows } = await database.query<Due>(
    `select id, expire_at as "expireAt" from orders where status = 'pending_payment' order by id`,
  );
  return Array.from({ length: Math.ceil(rows.length / size) }, (_, page) =>
    rows.slice(page * size, (page + 1) * size),
  );
}
