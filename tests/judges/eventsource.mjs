// Node's own EventSource against a running Postlog: a stream that ends again and again is resumed by the client itself.
//
// A browser's EventSource cannot carry a key, so a page reaches Postlog through its own server; here a few lines of proxy
// play that server, and end the stream after every second event.
//
// Environment: BASE_URL, SMTP, MAILBOX_KEY. Needs Node.js 22 with --experimental-eventsource.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import readline from 'node:readline';

const { BASE_URL, SMTP, MAILBOX_KEY } = process.env;
const MAILS = 9;
setTimeout(() => { console.error('it took too long'); process.exit(1); }, 60_000).unref();

async function mail(n) {
  const [host, port] = SMTP.split(':');
  const socket = net.connect(Number(port), host);
  const answers = readline.createInterface({ input: socket })[Symbol.asyncIterator]();
  const content = `From: <ann@example.com>\r\nTo: <agent@postlog.test>\r\nSubject: mail ${n}\r\n` +
    `Message-ID: <eventsource-${n}@example.com>\r\n\r\nx\r\n.`;
  const lines = ['EHLO judge.example', 'MAIL FROM:<ann@example.com>', 'RCPT TO:<agent@postlog.test>', 'DATA', content];
  for (const line of [null, ...lines]) {
    if (line !== null) socket.write(`${line}\r\n`);
    for (;;) {
      const { value } = await answers.next();
      assert.match(value ?? 'nothing', /^[23]/);
      if (value[3] !== '-') break;
    }
  }
  socket.end('QUIT\r\n');
}

const resumed = [];
const proxy = http.createServer((request, response) => {
  resumed.push(request.headers['last-event-id']);
  const headers = { ...request.headers, authorization: `Bearer ${MAILBOX_KEY}`, host: new URL(BASE_URL).host };
  const upstream = http.get(`${BASE_URL}${request.url}`, { headers }, (answer) => {
    assert.equal(answer.statusCode, 200);
    response.writeHead(200, { 'content-type': answer.headers['content-type'] });
    response.flushHeaders();
    let [text, events] = ['', 0];
    answer.setEncoding('utf8').on('error', () => {}).on('data', (chunk) => {
      const blocks = (text + chunk).split('\n\n');
      text = blocks.pop();
      for (const block of blocks) {
        if (events === 2) break;
        response.write(`${block}\n\n`);
        if (/^id:/m.test(block)) events += 1;
      }
      if (events === 2) {
        response.end();
        upstream.destroy();
      }
    });
  });
  upstream.on('error', () => {});
});
proxy.listen(0, '127.0.0.1');
await once(proxy, 'listening');

const source = new EventSource(`http://127.0.0.1:${proxy.address().port}/mailbox/events`);
await once(source, 'open');
const seen = [];
const done = new Promise((resolve) => {
  source.addEventListener('message.received', (event) => {
    seen.push({ id: event.lastEventId, subject: JSON.parse(event.data).message.subject });
    if (seen.length === MAILS) resolve();
  });
});
for (let n = 0; n < MAILS; n += 1) await mail(n);
await done;
source.close();

assert.deepEqual(seen.map(({ subject }) => subject), Array.from({ length: MAILS }, (_, n) => `mail ${n}`));
const ids = seen.map(({ id }) => id);
assert.equal(new Set(ids).size, MAILS);
assert.deepEqual(ids, [...ids].sort(), 'ids sort like the log');
assert.ok(resumed.length >= 5, `it reconnected ${resumed.length - 1} times`);
assert.equal(resumed[0], undefined);
assert.ok(resumed.slice(1).every((id) => ids.includes(id)), 'it resumed from ids that it had seen');
console.log('all checks passed');
process.exit(0);
