// A sender of HL7 messages for test_hl7_peers.py, by node-hl7-client or @medplum/hl7.
// In: node send.mjs node|medplum PORT, and on stdin a JSON list of messages. Out: a JSON list of [code, control id], as its
// own parser reads the acknowledgements.
import { Hl7Client } from '@medplum/hl7';
import { Hl7Message } from '@medplum/core';
import { Client, Message } from 'node-hl7-client';

const [kind, port] = [process.argv[2], Number(process.argv[3])];
let given = '';
for await (const piece of process.stdin) given += piece;
const messages = JSON.parse(given);
const told = [];

if (kind === 'node') {
  const client = new Client({ host: '127.0.0.1' });
  await new Promise((resolve, reject) => {
    const outbound = client.createConnection({ port }, async (response) => {
      const answer = response.getMessage();
      told.push([answer.get('MSA.1').toString(), answer.get('MSA.2').toString()]);
      if (told.length === messages.length) resolve();
      else outbound.sendMessage(new Message({ text: messages[told.length] })).catch(reject);
    });
    outbound.sendMessage(new Message({ text: messages[0] })).catch(reject);
  });
} else {
  const client = new Hl7Client({ host: '127.0.0.1', port });
  for (const text of messages) {
    const answer = await client.sendAndWait(Hl7Message.parse(text));
    const msa = answer.getSegment('MSA');
    told.push([msa.getComponent(1, 1), msa.getComponent(2, 1)]);
  }
}
process.stdout.write(JSON.stringify(told), () => process.exit(0));
