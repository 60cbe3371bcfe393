import { encode } from "./wasm-serve/abi";
import { DeferredCall, callLater, onDeferred } from "./wasm-serve/deferred";
import { Request, Response, onRequest } from "./wasm-serve/http";
import { print, printError } from "./wasm-serve/output";

export * from "./wasm-serve/exports";

const DELAY_NANOSECONDS: u64 = 5000000000;

// Answers a request, and defers the rest of the work: it begins five seconds later, in
// any instance. Only the payload passes from here to there.
onRequest((request: Request, response: Response): void => {
  const scheduled = callLater(DELAY_NANOSECONDS, encode(request.target));
  const error = scheduled.error;
  if (error != null) printError("not deferred: " + error);
  response.text(200, "Hello World\n");
});

// Runs the deferred call. Standard output is the server's log. A text that is returned
// is an error, and is logged.
onDeferred((call: DeferredCall): string | null => {
  print("deferred: " + String.UTF8.decode(call.payload.buffer));
  return null;
});
