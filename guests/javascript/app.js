// An application for wasm-serve: a function from a Request to a Response, and work
// after the answer by deferred calls. Each function of `routes` answers one path.

import { callLater, cancel } from 'wasm-serve:deferred/timers@0.1.0';
import { readFile } from './files.js';
import { serve } from './http.js';

const DELAY_DEFAULT_MS = 5000n;
const NANOSECONDS_PER_MS = 1_000_000n;
const U64_MAX = 2n ** 64n - 1n;

export const incomingHandler = serve(answer);

async function answer(request) {
  const { pathname, searchParams } = new URL(request.url);
  const route = routes[pathname];
  if (!route) return text(404, 'not found');
  try {
    return await route(searchParams, request);
  } catch (error) {
    if (error instanceof BadRequest) return text(400, error.message);
    throw error;
  }
}

const routes = {
  __proto__: null,

  '/': () => text(200, 'Hello World'),

  '/echo'(_, request) {
    const type = request.headers.get('content-type');
    return new Response(request.body, { headers: type === null ? {} : { 'content-type': type } });
  },

  '/status'(query) {
    const status = Number(wholeNumber(query, 'code'));
    // Responses do not check more than the last 16 bits.
    if (status > 599) throw new BadRequest(`${status} is not a status`);
    const body = status === 204 || status === 304 ? null : String(status);
    try {
      return new Response(body, { status, headers: query.getAll('header').map(header) });
    } catch (error) {
      throw new BadRequest(error.message);
    }
  },

  '/file'(query) {
    try {
      return text(200, readFile(query.get('name') ?? ''));
    } catch (error) {
      return text(404, error.message);
    }
  },

  async '/fetch'(query) {
    try {
      return text(200, await ask(query.get('url') ?? ''));
    } catch (error) {
      return text(502, error.message);
    }
  },

  '/later'(query) {
    const delay = wholeNumber(query, 'delay-ms', DELAY_DEFAULT_MS) * NANOSECONDS_PER_MS;
    const count = wholeNumber(query, 'count', 1n);
    const payload = payloadOf(query);
    try {
      let id = '';
      // A delay beyond what fits is beyond every limit too, and the host says so.
      for (let n = 0n; n < count; n++) id = callLater(delay < U64_MAX ? delay : U64_MAX, payload);
      return text(200, String(id));
    } catch ({ payload: { tag, val } }) {
      return text(503, `${tag} ${val}`);
    }
  },

  '/cancel': (query) => text(200, String(cancel(wholeNumber(query, 'id')))),

  '/log'(query) {
    console.log(`out ${query.get('text') ?? ''}`);
    console.error(`err ${query.get('text') ?? ''}`);
    return text(200, 'logged');
  },

  '/trap'() {
    throw new Error('asked to die');
  },
};

// The export `wasm-serve:deferred/callback`. What it throws is the error that the
// host logs, and has to be a text.
export const callback = {
  async run({ payload }) {
    try {
      await deferred(new TextDecoder().decode(payload));
    } catch (error) {
      throw error.message;
    }
  },
};

async function deferred(payload) {
  console.log(`deferred ${payload}`);
  if (payload === 'fail') throw new Error('asked to fail');
  if (payload.startsWith('read ')) logLines(payload.slice('read '.length));
  if (payload.startsWith('fetch ')) console.log(`fetched ${await ask(payload.slice('fetch '.length))}`);
}

// What another server answers: its status, and its body.
async function ask(url) {
  const response = await fetch(url);
  return `${response.status} ${await response.text()}`;
}

function logLines(name) {
  const lines = new TextDecoder().decode(readFile(name)).split('\n');
  if (lines.at(-1) === '') lines.pop();
  lines.forEach((line, k) => console.log(`${k}:${line}`));
}

class BadRequest extends Error {}

function wholeNumber(query, name, otherwise) {
  const digits = query.get(name) ?? otherwise?.toString() ?? '';
  const number = /^\d{1,20}$/.test(digits) ? BigInt(digits) : undefined;
  if (number === undefined || number > U64_MAX) throw new BadRequest(`${name} is not a whole number`);
  return number;
}

function payloadOf(query) {
  if (!query.has('size')) return new TextEncoder().encode(query.get('text') ?? '');
  try {
    return new Uint8Array(Number(wholeNumber(query, 'size'))).fill('x'.charCodeAt(0));
  } catch {
    throw new BadRequest('size is not a size');
  }
}

function header(parameter) {
  const colon = parameter.indexOf(':');
  if (colon < 0) throw new BadRequest('a header is NAME:VALUE');
  return [parameter.slice(0, colon), parameter.slice(colon + 1)];
}

function text(status, body) {
  return new Response(body, { status, headers: { 'content-type': 'text/plain' } });
}
