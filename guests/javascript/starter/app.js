import { callLater } from 'wasm-serve:deferred/timers@0.1.0';
import { serve } from './http.js';

const DELAY_NANOSECONDS = 5_000_000_000n;

export const incomingHandler = serve(answer);

// Answers a request, and defers the rest of the work: it begins five seconds later, in
// any instance. Only the payload passes from here to there.
async function answer(request) {
  const { pathname } = new URL(request.url);
  try {
    callLater(DELAY_NANOSECONDS, new TextEncoder().encode(pathname));
  } catch ({ payload: { tag, val } }) {
    console.error(`not deferred: ${tag} ${val}`);
  }
  return new Response('Hello World\n', { headers: { 'content-type': 'text/plain' } });
}

// Runs the deferred call. Standard output is the server's log. What is thrown here has
// to be a text, and is logged.
export const callback = {
  run({ payload }) {
    console.log(`deferred: ${new TextDecoder().decode(payload)}`);
  },
};
