// Lets a function from a request to a response answer `wasi:http` 0.3.
//
// A request has `method`, `target` (the path and the query), `header(name)` and
// `body()`, a stream of bytes. A response has `status`, `headers` (names and values)
// and `body`: a text, bytes, a stream, or null.

import http from 'wasi:http/types@0.3.0';
import { bytes, text } from './host.js';

/** The export `handler` of a guest whose requests the function answers. */
export const serve = (answer) => ({
  async handle(incoming) {
    const request = new Request(incoming);
    const response = responseOf(await answer(request));
    request.drop();
    return response;
  },
});

/** Whether the host lets a response have this header. */
export function headerAllowed(name, value) {
  const fields = new http.Fields();
  try {
    fields.append(name, bytes(value));
    return true;
  } catch {
    return false;
  } finally {
    fields[Symbol.dispose]();
  }
}

class Request {
  #incoming;
  #consumed = false;

  constructor(incoming) {
    this.#incoming = incoming;
  }

  get method() {
    const { tag, val } = this.#incoming.getMethod();
    return tag === 'other' ? val : tag.toUpperCase();
  }

  get target() {
    return this.#incoming.getPathWithQuery() ?? '/';
  }

  header(name) {
    const fields = this.#incoming.getHeaders();
    const [value] = fields.get(name);
    fields[Symbol.dispose]();
    return value && text(value);
  }

  // It takes the request with it: what else is to be known of it is asked for before.
  body() {
    const received = future({ tag: 'ok' }, 'RESULT_VOID_WASI_HTTP_TYPES_0_3_0_ERROR_CODE');
    const [stream, trailers] = http.Request.consumeBody(this.#incoming, received);
    trailers.drop();
    this.#consumed = true;
    return stream;
  }

  // An instance may have 10,000 handles, and nobody else gives them back in time.
  drop() {
    if (!this.#consumed) this.#incoming[Symbol.dispose]();
  }
}

function responseOf({ status, headers, body }) {
  const fields = new http.Fields();
  for (const [name, value] of headers) fields.append(name, bytes(value));
  const whole = typeof body === 'string' ? bytes(body) : body;
  if (whole instanceof Uint8Array) fields.set('content-length', [bytes(String(whole.byteLength))]);
  const contents = whole instanceof Uint8Array ? [whole] : whole;
  const trailers = future({ tag: 'ok', val: null }, 'RESULT_OPTION_OTHER_ERROR_CODE');
  const [response, sent] = http.Response.new(fields, contents, trailers);
  sent.drop();
  response.setStatusCode(status);
  return response;
}

function future(value, type) {
  return wit.Future.from(value, wit.Future[type]).readable;
}
