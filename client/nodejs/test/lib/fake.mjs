// Servers that do not behave.
import net from 'node:net';
import { after } from 'node:test';

const servers = new Set();

after(() => servers.forEach((server) => server.end()));

// Listens on a free port; connection(socket) does the rest. `address` is what connect() takes.
export async function listen(connection, create = net.createServer) {
  const sockets = new Set();
  const server = create((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    connection(socket);
  });
  server.on('tlsClientError', () => {});
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const fake = {
    address: `127.0.0.1:${server.address().port}`,
    connections: () => sockets.size,
    end() {
      sockets.forEach((socket) => socket.destroy());
      server.close();
    },
  };
  servers.add(fake);
  return fake;
}

// Arrays of bulk strings out of bytes; calls command(words) for each.
function parser(command) {
  let buffer = Buffer.alloc(0);
  const line = (at) => {
    const end = buffer.indexOf('\r\n', at);
    return end < 0 ? null : { value: Number(buffer.subarray(at + 1, end)), next: end + 2 };
  };
  const one = () => {
    const head = line(0);
    if (head === null) {
      return false;
    }
    const words = [];
    let at = head.next;
    for (let i = 0; i < head.value; i++) {
      const size = line(at);
      if (size === null || buffer.length < size.next + size.value + 2) {
        return false;
      }
      words.push(buffer.subarray(size.next, size.next + size.value).toString());
      at = size.next + size.value + 2;
    }
    buffer = buffer.subarray(at);
    command(words);
    return true;
  };
  return (data) => {
    buffer = Buffer.concat([buffer, data]);
    while (buffer.length > 0 && one());
  };
}

// A node that knows no cluster. answer(words) is what it says to the commands that are not part of a
// greeting; undefined: nothing.
export function fakeNode(answer, create) {
  return listen((socket) => {
    const take = parser((words) => {
      const name = words[0].toUpperCase();
      let reply;
      if (name === 'PING') {
        reply = '+PONG\r\n';
      } else if (['AUTH', 'SELECT', 'RESET', 'CLIENT', 'CONSISTENCY'].includes(name) || words[1]?.toUpperCase() === 'USE') {
        reply = '+OK\r\n';
      } else if (['CLUSTER', 'HELLO', 'ONCE'].includes(name)) {
        reply = `-ERR unknown command '${name}'\r\n`;
      } else {
        reply = answer(words, socket);
      }
      if (reply !== undefined) {
        socket.write(reply);
      }
    });
    socket.on('data', take);
  }, create);
}
