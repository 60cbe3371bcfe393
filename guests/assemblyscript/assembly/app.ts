// The example that wasm-serve has in every language: one small route for each thing
// that a guest can do.
import { encode } from "./wasm-serve/abi";
import { DeferredCall, Scheduled, callLater, cancel, onDeferred } from "./wasm-serve/deferred";
import { File } from "./wasm-serve/files";
import { Request, Response, onRequest } from "./wasm-serve/http";
import { print, printError } from "./wasm-serve/output";

export * from "./wasm-serve/exports";

onRequest((request: Request, response: Response): void => {
  const target = request.target;
  const mark = target.indexOf("?");
  const path = mark < 0 ? target : target.substring(0, mark);
  const query = new Query(mark < 0 ? "" : target.substring(mark + 1));
  if (path == "/") response.text(200, "Hello World");
  else if (path == "/echo") echo(request, response);
  else if (path == "/status") status(query, response);
  else if (path == "/file") file(query, response);
  else if (path == "/later") later(query, response);
  else if (path == "/cancel") cancelById(query, response);
  else if (path == "/log") log(query, response);
  else if (path == "/trap") throw new Error("asked to trap");
  else response.text(404, "not found");
});

/** Sends the body back piece by piece, as it arrives. */
function echo(request: Request, response: Response): void {
  const type = request.header("content-type");
  if (type != null) response.header("content-type", type);
  response.start(200);
  const body = request.body;
  for (let piece = body.read(); piece != null; piece = body.read()) {
    if (!response.write(piece)) return;
  }
  // If the body broke off, so does the response: without its end, nobody takes it for
  // the whole.
  if (!body.isBroken) response.finish();
}

function status(query: Query, response: Response): void {
  const code = query.number("code", 0);
  if (query.isWrong || code < 200 || code > 599) {
    return response.text(400, "code is not a number from 200 to 599");
  }
  const headers = query.all("header");
  for (let i = 0; i < headers.length; i++) {
    const colon = headers[i].indexOf(":");
    if (colon < 0 || !response.header(headers[i].substring(0, colon), headers[i].substring(colon + 1))) {
      return response.text(400, "header is not NAME:VALUE, or not allowed");
    }
  }
  response.start(i32(code));
  if (code != 204 && code != 304) response.write(encode(code.toString()));
  response.finish();
}

function file(query: Query, response: Response): void {
  const file = new File(query.text("name", ""));
  let piece = file.read();
  if (file.error != null) {
    response.text(404, file.error!);
  } else {
    response.header("content-type", "text/plain");
    response.start(200);
    while (piece != null && response.write(piece)) piece = file.read();
    if (file.error == null) response.finish();
  }
  file.close();
}

function later(query: Query, response: Response): void {
  const milliseconds = query.number("delay-ms", 5000);
  const count = query.number("count", 1);
  const size = query.number("size", 0);
  if (query.isWrong || count == 0 || size > (1 << 30)) {
    return response.text(400, "delay-ms, count or size is not a number, or too large");
  }
  const payload = query.has("size") ? new Uint8Array(i32(size)).fill(0x78) : encode(query.text("text", ""));
  // A delay beyond what fits is beyond every limit too, and the server says so.
  const delay = milliseconds > u64.MAX_VALUE / 1000000 ? u64.MAX_VALUE : milliseconds * 1000000;
  let scheduled = new Scheduled();
  for (let i: u64 = 0; i < count && scheduled.error == null; i++) scheduled = callLater(delay, payload);
  const error = scheduled.error;
  if (error != null) response.text(503, error);
  else response.text(200, scheduled.id.toString());
}

function cancelById(query: Query, response: Response): void {
  const id = query.number("id", 0);
  if (query.isWrong || !query.has("id")) return response.text(400, "id is not a number");
  response.text(200, cancel(id).toString());
}

function log(query: Query, response: Response): void {
  const text = query.text("text", "");
  print("out " + text);
  printError("err " + text);
  response.text(200, "logged");
}

onDeferred((call: DeferredCall): string | null => {
  const text = String.UTF8.decode(call.payload.buffer);
  if (text == "fail") return "asked to fail";
  if (text.startsWith("read ")) return printLines(text.substring(5));
  print("deferred " + text);
  return null;
});

/** Writes `k:LINE` for each line of a file, k from 0. */
function printLines(name: string): string | null {
  const file = new File(name);
  const text = file.readText();
  file.close();
  if (file.error != null) return `${name}: ${file.error!}`;
  const lines = text.split("\n");
  if (lines[lines.length - 1] == "") lines.pop();
  for (let k = 0; k < lines.length; k++) print(`${k}:${lines[k]}`);
  return null;
}

class Query {
  /** A value that should be a number was none. */
  isWrong: bool = false;
  private names: string[] = [];
  private values: string[] = [];

  constructor(text: string) {
    const parameters = text.split("&");
    for (let i = 0; i < parameters.length; i++) {
      const mark = parameters[i].indexOf("=");
      if (mark < 0) continue;
      this.names.push(parameters[i].substring(0, mark));
      this.values.push(percentDecoded(parameters[i].substring(mark + 1)));
    }
  }

  has(name: string): bool {
    return this.names.includes(name);
  }

  text(name: string, otherwise: string): string {
    const i = this.names.indexOf(name);
    return i < 0 ? otherwise : this.values[i];
  }

  all(name: string): string[] {
    const found: string[] = [];
    for (let i = 0; i < this.names.length; i++) {
      if (this.names[i] == name) found.push(this.values[i]);
    }
    return found;
  }

  /** Only decimal digits, and only what fits. */
  number(name: string, otherwise: u64): u64 {
    if (!this.has(name)) return otherwise;
    const text = this.text(name, "");
    let number: u64 = 0;
    for (let i = 0; i < text.length; i++) {
      const digit = u64(text.charCodeAt(i) - 0x30);
      if (digit > 9 || number > (u64.MAX_VALUE - digit) / 10) this.isWrong = true;
      number = number * 10 + digit;
    }
    if (text == "") this.isWrong = true;
    return number;
  }
}

function percentDecoded(text: string): string {
  const bytes = encode(text);
  let length = 0;
  for (let i = 0; i < bytes.length; i++) {
    const digits = bytes[i] == 0x25 && i + 2 < bytes.length ? hexadecimal(bytes[i + 1], bytes[i + 2]) : -1;
    bytes[length++] = digits < 0 ? bytes[i] : u8(digits);
    if (digits >= 0) i += 2;
  }
  return String.UTF8.decodeUnsafe(bytes.dataStart, length);
}

/** The number that two hexadecimal digits stand for, or -1. */
function hexadecimal(high: u8, low: u8): i32 {
  const digits = "0123456789abcdef";
  const first = digits.indexOf(String.fromCharCode(high).toLowerCase());
  const second = digits.indexOf(String.fromCharCode(low).toLowerCase());
  return first < 0 || second < 0 ? -1 : first << 4 | second;
}
