import { connect } from 'node:net';

/**
 * Sends one inline command to a Redis and returns the first line of its answer with the rest behind it, as sent; resolves
 * undefined when nothing listens, or no answer comes within 300 ms (Docker's proxy takes connections before the
 * server in the container does).
 */
export function askRedis(port: number, command: string, host = '127.0.0.1'): Promise<string | undefined> {
  return new Promise((resolve) => {
    let answer = '';
    const socket = connect({ host, port }, () => socket.write(`${command}\r\nQUIT\r\n`));
    socket.setTimeout(300, () => socket.destroy());
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => (answer += text));
    socket.on('error', () => {
      // Nothing listens yet: `close` follows.
    });
    socket.on('close', () => resolve(answer === '' ? undefined : answer));
  });
}
