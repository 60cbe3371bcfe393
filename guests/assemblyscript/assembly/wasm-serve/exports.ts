// What the server calls. The program exports it: `export * from "./wasm-serve/exports"`.
import { result } from "./abi";
import { DeferredCall, callback } from "./deferred";
import { Request, Response, handler } from "./http";

export { cabi_realloc } from "./abi";

export function handle(incoming: i32, outparam: i32): void {
  const request = new Request(incoming);
  const response = new Response(outparam);
  handler(request, response);
  request.drop();
  response.drop();
}

// The server reads the message after the function has returned.
let message = new ArrayBuffer(0);

export function run(id: u64, payload: usize, bytes: usize, scheduledAt: u64, dueAt: u64, attempt: u32): usize {
  const error = callback(new DeferredCall(id, payload, bytes, scheduledAt, dueAt, attempt));
  if (error != null) message = String.UTF8.encode(error);
  store<u8>(result, u8(error != null));
  store<usize>(result, changetype<usize>(message), 4);
  store<i32>(result, message.byteLength, 8);
  return result;
}
