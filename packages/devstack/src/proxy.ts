import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

/** What the proxy stands before. */
export interface ProxyOptions {
  readonly target: { readonly host: string; readonly port: number };
  /** Default: a free one. */
  readonly port?: number;
}

/** A TCP proxy on 127.0.0.1 that can misbehave like a network. */
export interface Proxy {
  readonly port: number;
  /** `url` with this proxy's host and port instead of its own. */
  urlFor(url: string): string;
  /** From now on nothing is forwarded, either way; connections stay open, new ones are taken. */
  blackhole(): void;
  /** Half-open: what clients send still arrives, what the target answers does not. Connections stay open. */
  mute(): void;
  /**
   * Shows `look` every piece of data before it is passed on. Where it answers true, the piece is dropped and the
   * connection cut, both ends of it.
   */
  cutWhen(look: (piece: Buffer, from: 'client' | 'target') => boolean): void;
  /** Ends all connections, now. New ones work. */
  cut(): void;
  /** Ends all connections and refuses new ones. */
  refuse(): Promise<void>;
  /** Holds every piece of data back for `ms`, either way; 0 forwards at once. */
  delay(ms: number): void;
  /** Ends every fault. What a blackhole or a mute held back arrives now, as TCP would send it again. */
  restore(): Promise<void>;
  /** Ends the proxy. */
  stop(): Promise<void>;
}

/** Starts a fault proxy before `target`. It does nothing wrong until it is told to. */
export async function startProxy({ target, port: wished = 0 }: ProxyOptions): Promise<Proxy> {
  const sockets = new Set<Socket>();
  const wakers = new Set<() => void>();
  let isBlackhole = false;
  let isMute = false;
  let isLastPiece: Parameters<Proxy['cutWhen']>[0] | undefined;
  let delayMs = 0;

  const track = (socket: Socket): Socket => {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => {
      // `close` follows, and passes the end on.
    });
    socket.once('close', () => sockets.delete(socket));
    return socket;
  };

  /** Passes on what `source` sends, its end included, in order, each piece when it is due. */
  const forward = (source: Socket, sink: Socket, from: 'client' | 'target'): void => {
    const waiting: { readonly dueAt: number; readonly deliver: () => void }[] = [];
    let timer: NodeJS.Timeout | undefined;
    const flush = (): void => {
      clearTimeout(timer);
      if (isBlackhole || (isMute && from === 'target')) return;
      for (let head = waiting[0]; head !== undefined; head = waiting[0]) {
        const restMs = head.dueAt - performance.now();
        if (restMs > 0) {
          timer = setTimeout(flush, restMs);
          return;
        }
        waiting.shift();
        head.deliver();
      }
    };
    const later = (deliver: () => void): void => {
      // Never before its predecessor, also when the delay has just been shortened.
      const dueAt = Math.max(delayMs === 0 ? 0 : performance.now() + delayMs, waiting.at(-1)?.dueAt ?? 0);
      waiting.push({ dueAt, deliver });
      flush();
    };
    wakers.add(flush);
    source.on('data', (chunk) =>
      later(() => {
        if (isLastPiece?.(chunk, from) === true) {
          source.destroy();
          sink.destroy();
          return;
        }
        if (sink.write(chunk) || source.destroyed) return;
        source.pause();
        sink.once('drain', () => source.resume());
      }),
    );
    source.once('end', () => later(() => sink.end()));
    source.once('close', () => later(() => sink.destroySoon()));
    sink.once('close', () => {
      clearTimeout(timer);
      wakers.delete(flush);
    });
  };

  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = track(connect({ ...target, allowHalfOpen: true }));
    forward(track(client), upstream, 'client');
    forward(upstream, client, 'target');
  });
  const listen = async (port: number): Promise<void> => {
    server.listen({ port, host: '127.0.0.1' });
    await once(server, 'listening');
  };
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  const refuse = async (): Promise<void> => {
    if (!server.listening) return cut();
    const closed = once(server, 'close');
    server.close();
    cut();
    await closed;
  };

  await listen(wished);
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the listening socket has no port');
  const { port } = address;
  return {
    port,
    urlFor(url) {
      const proxied = new URL(url);
      proxied.host = `127.0.0.1:${port}`;
      return proxied.href;
    },
    blackhole() {
      isBlackhole = true;
    },
    mute() {
      isMute = true;
    },
    cutWhen(look) {
      isLastPiece = look;
    },
    delay(ms) {
      delayMs = ms;
    },
    async restore() {
      isBlackhole = false;
      isMute = false;
      isLastPiece = undefined;
      delayMs = 0;
      for (const wake of wakers) wake();
      if (!server.listening) await listen(port);
    },
    cut,
    refuse,
    stop: refuse,
  };
}
