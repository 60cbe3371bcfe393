// An application for wasm-serve: a function from a request to a response, and work
// after the answer by deferred calls. Each function of `routes` answers one path.

import timers from 'wasm-serve:deferred/timers@0.1.0';
import { headerAllowed, serve } from './http.js';
import { bytes, print, printError, readFile, text } from './host.js';

const DELAY_DEFAULT_MS = 5000;
const NANOSECONDS_PER_MS = 1_000_000;
const U64_MAX = 2 ** 64;

export const handler = serve(answer);

async function answer(request) {
  const { path, query } = parse(request.target);
  const route = routes[path];
  if (!route) return plain(404, 'not found');
  try {
    return await route(query, request);
  } catch (error) {
    if (error instanceof BadRequest) return plain(400, error.message);
    throw error;
  }
}

const routes = {
  __proto__: null,

  '/': () => plain(200, 'Hello World'),

  '/echo'(_, request) {
    const type = request.header('content-type');
    return { status: 200, headers: type === undefined ? [] : [['content-type', type]], body: request.body() };
  },

  '/status'(query) {
    const status = wholeNumber(query, 'code');
    if (status < 200 || status > 599) throw new BadRequest(`${status} is not a status from 200 to 599`);
    const body = status === 204 || status === 304 ? null : String(status);
    const headers = query.all('header').map(header);
    const refused = headers.find(([name, value]) => !headerAllowed(name, value));
    if (refused) throw new BadRequest(`${refused[0]} is not a header that can be sent`);
    return { status, headers, body };
  },

  async '/file'(query) {
    try {
      return plain(200, await readFile(query.get('name') ?? ''));
    } catch (error) {
      return plain(404, error.message);
    }
  },

  '/later'(query) {
    const delay = wholeNumber(query, 'delay-ms', DELAY_DEFAULT_MS) * NANOSECONDS_PER_MS;
    const count = wholeNumber(query, 'count', 1);
    const payload = payloadOf(query);
    try {
      let id = '';
      // A number has 53 bits. A delay beyond that is beyond every limit too.
      for (let n = 0; n < count; n++) id = timers.callLater(Math.min(delay, Number.MAX_SAFE_INTEGER), payload);
      return plain(200, String(id));
    } catch ({ payload: { tag, val } }) {
      return plain(503, `${tag} ${val}`);
    }
  },

  '/cancel': (query) => plain(200, String(timers.cancel(wholeNumber(query, 'id')))),

  async '/log'(query) {
    await print(`out ${query.get('text') ?? ''}`);
    await printError(`err ${query.get('text') ?? ''}`);
    return plain(200, 'logged');
  },

  '/trap'() {
    throw new Error('asked to die');
  },
};

// The export `wasm-serve:deferred/callback-async`. What it throws is the error that
// the host logs, and has to be a text.
export const callbackAsync = {
  async run({ payload }) {
    try {
      await deferred(text(payload));
    } catch (error) {
      throw error.message;
    }
  },
};

async function deferred(payload) {
  await print(`deferred ${payload}`);
  if (payload === 'fail') throw new Error('asked to fail');
  if (payload.startsWith('read ')) await printLines(payload.slice('read '.length));
}

async function printLines(name) {
  const lines = text(await readFile(name)).split('\n');
  if (lines.at(-1) === '') lines.pop();
  if (lines.length > 0) await print(lines.map((line, k) => `${k}:${line}`).join('\n'));
}

class BadRequest extends Error {}

function parse(target) {
  const [path, ...rest] = target.split('?');
  const parameters = rest.join('?').split('&').map((parameter) => {
    const [name, ...value] = parameter.split('=');
    return [decode(name), decode(value.join('='))];
  });
  const all = (name) => parameters.filter(([other]) => other === name).map(([, value]) => value);
  return { path, query: { all, get: (name) => all(name)[0] } };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function wholeNumber(query, name, otherwise) {
  const digits = query.get(name);
  if (digits === undefined && otherwise !== undefined) return otherwise;
  if (!/^\d{1,20}$/.test(digits) || Number(digits) > U64_MAX) throw new BadRequest(`${name} is not a whole number`);
  return Number(digits);
}

function payloadOf(query) {
  if (query.get('size') === undefined) return bytes(query.get('text') ?? '');
  try {
    return new Uint8Array(wholeNumber(query, 'size')).fill('x'.charCodeAt(0));
  } catch {
    throw new BadRequest('size is not a size');
  }
}

function header(parameter) {
  const colon = parameter.indexOf(':');
  if (colon < 0) throw new BadRequest('a header is NAME:VALUE');
  return [parameter.slice(0, colon), parameter.slice(colon + 1)];
}

function plain(status, body) {
  return { status, headers: [['content-type', 'text/plain']], body };
}
