// Makes calls of dicomweb-client for test_npm_client.py: a line of JSON in, a line of JSON out.
// In: {client: options of its constructor, call: name, args: [...]}. Out: {answer} or {error, status}, with what the
// client asked (its request hooks see that), what it printed, and the bytes that its progress callback heard of.
import { createInterface } from 'node:readline';
import dicomweb from 'dicomweb-client';
import XMLHttpRequest from 'xhr2';

globalThis.XMLHttpRequest = XMLHttpRequest;
const { DICOMwebClient } = dicomweb.api;

let heard = {};
for (const level of ['log', 'debug', 'warn', 'error']) {
  console[level] = (...words) => heard.printed.push(words.join(' '));
}

const clients = new Map();
function clientOf(options) {
  const key = JSON.stringify(options);
  if (!clients.has(key)) {
    const hook = (request, { method, url, headers }) => {
      heard.asked.push({ method, url, headers });
      if (!headers.Accept) {
        request.setRequestHeader('Accept', '*/*'); // every browser does it by itself (the Fetch standard's main fetch)
      }
      return request;
    };
    const errorInterceptor = ({ status }) => heard.intercepted.push(status);
    clients.set(key, new DICOMwebClient({ ...options, requestHooks: [hook], errorInterceptor }));
  }
  return clients.get(key);
}

// Binary objects go in and out as base64.
function received(argument) {
  if (argument === null || typeof argument !== 'object') {
    return argument;
  }
  const progressCallback = ({ loaded }) => heard.progress.push(loaded);
  const datasets = argument.datasets?.map((text) => Uint8Array.from(Buffer.from(text, 'base64')).buffer);
  return { ...argument, ...(datasets && { datasets }), request: { progressCallback } };
}

function sent(answer) {
  if (answer instanceof ArrayBuffer) {
    const { contentType, transferSyntaxUID } = answer;
    return { bytes: Buffer.from(answer).toString('base64'), contentType, transferSyntaxUID };
  }
  return Array.isArray(answer) ? answer.map(sent) : answer;
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

say({
  version: dicomweb.version,
  calls: Object.getOwnPropertyNames(DICOMwebClient.prototype).filter((name) => /^[a-z]/.test(name) && name !== 'constructor'),
  functions: Object.keys(dicomweb.utils),
});
for await (const line of createInterface({ input: process.stdin })) {
  const { client, call, args } = JSON.parse(line);
  heard = { asked: [], intercepted: [], printed: [], progress: [] };
  try {
    const called = call in dicomweb.utils ? dicomweb.utils : clientOf(client);
    say({ answer: sent(await called[call](...args.map(received))), ...heard });
  } catch ({ message, status }) {
    say({ error: message, status, ...heard });
  }
}
