// Makes calls of two FHIR clients for test_fhir_clients.py: a line of JSON in, a line of JSON out.
// In: {client: "kit" or "smart", call: name, args: [...]}.
// Out: {answer, status}, the answer of a generator being the list of what it yields; or {error, status, told: its body}.
import { createInterface } from 'node:readline';
import { Client } from 'fhir-kit-client';
import smart from 'fhirclient';

const baseUrl = process.argv[2];
const clients = {
  kit: new Client({ baseUrl }),
  // Of a server that wants no launch, `client` needs neither a request nor a session.
  smart: smart({ headers: {} }, {}, {}).client({ serverUrl: baseUrl }),
};

async function called({ client, call, args }) {
  const answer = await clients[client][call](...args);
  if (!answer?.[Symbol.asyncIterator]) {
    return answer;
  }
  const all = [];
  for await (const one of answer) {
    all.push(one);
  }
  return all;
}

process.stdout.write(`${JSON.stringify({ node: process.versions.node })}\n`);
for await (const line of createInterface({ input: process.stdin })) {
  let said;
  try {
    const answer = await called(JSON.parse(line));
    const response = answer instanceof Response ? answer : answer && Client.httpFor(answer).response;
    said = { answer: answer instanceof Response ? null : answer, status: response?.status };
  } catch (error) {
    said = { error: String(error.message), status: error.response?.status ?? error.status, told: error.response?.data };
  }
  process.stdout.write(`${JSON.stringify(said)}\n`);
}
