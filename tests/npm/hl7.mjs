// A receiver of HL7 messages for test_hl7_peers.py, by node-hl7-server or @medplum/hl7.
// In: node hl7.mjs node|medplum|medplum-enhanced. Out: a line of JSON {port}, then one for each message as its own parser
// reads it: {id, type, status, study, patient, texts}.
import net from 'node:net';
import { Hl7Connection } from '@medplum/hl7';
import { Server } from 'node-hl7-server';

const kind = process.argv[2];
const tell = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);

async function freePort() {
  const probe = net.createServer();
  await new Promise((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

if (kind === 'node') {
  const port = await freePort();
  // Release 2.5.0 hands over every earlier message of a connection again, and acknowledges it again. Told apart by its
  // control id, as a receiver has to.
  const seen = new Set();
  const server = new Server({ bindAddress: '127.0.0.1' });
  const inbound = server.createInbound({ port }, async (request, response) => {
    const message = request.getMessage();
    const id = message.get('MSH.10').toString();
    if (!seen.has(id)) tell({
      id,
      type: [1, 2, 3].map((part) => message.get(`MSH.9.${part}`).toString()).join('^'),
      status: message.get('OBR.25').toString(),
      patient: message.get('PID.5').toString(),
      text: message.toString(),
    });
    seen.add(id);
    await response.sendResponse('AA');
  });
  inbound.on('listen', () => tell({ port }));
} else {
  const server = net.createServer((socket) => {
    const connection = new Hl7Connection(socket, 'utf-8', kind === 'medplum-enhanced');
    connection.addEventListener('message', ({ message }) => {
      tell({
        id: message.header.getComponent(10, 1),
        type: message.getSegment('MSH').getField(9).toString(),
        status: message.getSegment('OBR').getComponent(25, 1),
        patient: message.getSegment('PID').getField(5).toString(),
        text: message.toString(),
      });
      connection.send(message.buildAck());
    });
    connection.addEventListener('error', ({ error }) => tell({ error: String(error) }));
  });
  server.listen(0, '127.0.0.1', () => tell({ port: server.address().port }));
}
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
