// Lets a function from a Request to a Response answer `wasi:http` 0.2. The engine has
// an event for that, too, but it comes once in the life of an instance.

import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@0.2.12';

const PIECE_BYTES = 65_536n;
const BODILESS = ['GET', 'HEAD'];

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The export `incomingHandler` of a guest whose requests the function answers. */
export const serve = (answer) => ({
  async handle(incoming, out) {
    const body = new RequestBody(incoming);
    const request = requestOf(incoming, body);
    const response = await answer(request);
    const { outgoing, stream } = start(response, out);
    // A body that is given back as it came need not pass through JavaScript.
    if (response.body && response.body === request.body) body.passTo(stream);
    else if (response.body) await copy(response.body, stream);
    drop(stream);
    OutgoingBody.finish(outgoing, undefined);
    body.drop();
    drop(incoming);
  },
});

function requestOf(incoming, body) {
  const { tag, val } = incoming.method();
  const method = tag === 'other' ? val : tag.toUpperCase();
  const url = `http://${incoming.authority() ?? 'localhost'}${incoming.pathWithQuery() ?? '/'}`;
  const fields = incoming.headers();
  const headers = fields.entries().map(([name, value]) => [name, decoder.decode(value)]);
  drop(fields);
  if (BODILESS.includes(method)) return new Request(url, { method, headers });
  return new Request(url, { method, headers, body: body.readable(), duplex: 'half' });
}

class RequestBody {
  #incoming;
  #body;
  #stream;

  constructor(incoming) {
    this.#incoming = incoming;
  }

  readable() {
    return new ReadableStream({ pull: (controller) => this.#pull(controller) }, { highWaterMark: 0 });
  }

  #open() {
    this.#body ??= this.#incoming.consume();
    this.#stream ??= this.#body.stream();
    return this.#stream;
  }

  #pull(controller) {
    const piece = orEnd(() => this.#open().blockingRead(PIECE_BYTES));
    if (piece === END) controller.close();
    else controller.enqueue(piece);
  }

  passTo(output) {
    while (orEnd(() => output.blockingSplice(this.#open(), PIECE_BYTES)) !== END);
  }

  // A stream belongs to its body, and the body to the request: they go in this order.
  drop() {
    if (!this.#stream) return;
    drop(this.#stream);
    drop(this.#body);
  }
}

const END = Symbol('end');

// What the call to a stream gives, or END if the stream has ended.
function orEnd(call) {
  try {
    return call();
  } catch (error) {
    if (error.payload?.tag === 'closed') return END;
    throw new Error('the client has left');
  }
}

// Sends the head of the response. The stream is for the body.
function start(response, out) {
  const fields = new Fields();
  for (const [name, value] of response.headers) fields.append(name, encoder.encode(value));
  const head = new OutgoingResponse(fields);
  head.setStatusCode(response.status);
  const outgoing = head.body();
  const stream = outgoing.write();
  ResponseOutparam.set(out, { tag: 'ok', val: head });
  return { outgoing, stream };
}

async function copy(readable, stream) {
  const reader = readable.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    write(stream, value);
  }
}

function write(stream, piece) {
  for (let written = 0; written < piece.byteLength; ) {
    const room = Number(stream.checkWrite());
    if (room === 0) {
      const ready = stream.subscribe();
      ready.block();
      drop(ready);
      continue;
    }
    const now = piece.subarray(written, written + room);
    stream.write(now);
    written += now.byteLength;
  }
}

function drop(resource) {
  resource[Symbol.dispose ?? Symbol.for('dispose')]();
}
