import timers from 'wasm-serve:deferred/timers@0.1.0';
import { serve } from './http.js';
import { bytes, print, printError, text } from './host.js';

const DELAY_NANOSECONDS = 5_000_000_000;

export const handler = serve(answer);

// Answers a request, and defers the rest of the work: it begins five seconds later, in
// any instance. Only the payload passes from here to there.
async function answer(request) {
  const [path] = request.target.split('?');
  try {
    timers.callLater(DELAY_NANOSECONDS, bytes(path));
  } catch ({ payload: { tag, val } }) {
    await printError(`not deferred: ${tag} ${val}`);
  }
  return { status: 200, headers: [['content-type', 'text/plain']], body: 'Hello World\n' };
}

// Runs the deferred call. Standard output is the server's log. What is thrown here has
// to be a text, and is logged.
export const callbackAsync = {
  async run({ payload }) {
    await print(`deferred: ${text(payload)}`);
  },
};
