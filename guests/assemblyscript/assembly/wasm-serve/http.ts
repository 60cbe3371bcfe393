// Requests and responses: `wasi:http` 0.2.
import { encode, release, result, takeText } from "./abi";
import { InputStream, OutputStream } from "./streams";

@external("wasi:http/types@0.2.12", "[method]incoming-request.path-with-query")
declare function pathWithQuery(request: i32, result: usize): void;
@external("wasi:http/types@0.2.12", "[method]incoming-request.headers")
declare function headersOf(request: i32): i32;
@external("wasi:http/types@0.2.12", "[method]incoming-request.consume")
declare function consume(request: i32, result: usize): void;
@external("wasi:http/types@0.2.12", "[resource-drop]incoming-request")
declare function dropRequest(request: i32): void;
@external("wasi:http/types@0.2.12", "[method]incoming-body.stream")
declare function streamOf(body: i32, result: usize): void;
@external("wasi:http/types@0.2.12", "[resource-drop]incoming-body")
declare function dropIncomingBody(body: i32): void;
@external("wasi:http/types@0.2.12", "[constructor]fields")
declare function newFields(): i32;
@external("wasi:http/types@0.2.12", "[method]fields.get")
declare function getField(fields: i32, name: usize, nameBytes: usize, result: usize): void;
@external("wasi:http/types@0.2.12", "[method]fields.append")
declare function appendField(
  fields: i32, name: usize, nameBytes: usize, value: usize, valueBytes: usize, result: usize,
): void;
@external("wasi:http/types@0.2.12", "[resource-drop]fields")
declare function dropFields(fields: i32): void;
@external("wasi:http/types@0.2.12", "[constructor]outgoing-response")
declare function newResponse(headers: i32): i32;
@external("wasi:http/types@0.2.12", "[method]outgoing-response.set-status-code")
declare function setStatusCode(response: i32, status: i32): i32;
@external("wasi:http/types@0.2.12", "[method]outgoing-response.body")
declare function bodyOf(response: i32, result: usize): void;
@external("wasi:http/types@0.2.12", "[resource-drop]outgoing-response")
declare function dropResponse(response: i32): void;
// The parameters after the response are those of error codes.
@external("wasi:http/types@0.2.12", "[static]response-outparam.set")
declare function setResponse(
  outparam: i32, isError: i32, response: i32, _3: i32, _4: i64, _5: i32, _6: i32, _7: i32, _8: i32,
): void;
@external("wasi:http/types@0.2.12", "[resource-drop]response-outparam")
declare function dropOutparam(outparam: i32): void;
@external("wasi:http/types@0.2.12", "[method]outgoing-body.write")
declare function writeOf(body: i32, result: usize): void;
@external("wasi:http/types@0.2.12", "[static]outgoing-body.finish")
declare function finishBody(body: i32, hasTrailers: i32, trailers: i32, result: usize): void;
@external("wasi:http/types@0.2.12", "[resource-drop]outgoing-body")
declare function dropOutgoingBody(body: i32): void;

// Handles are numbers from 1; 0 is none.

export class Request {
  private bodyHandle: i32 = 0;
  private stream: InputStream | null = null;

  constructor(private handle: i32) {}

  /** The path and the query as they came: `/echo?a=b`. */
  get target(): string {
    pathWithQuery(this.handle, result);
    const isSome = load<u8>(result) != 0;
    return isSome ? takeText(load<usize>(result, 4), load<usize>(result, 8)) : "";
  }

  /** The first value of a header. */
  header(name: string): string | null {
    const encoded = encode(name);
    const headers = headersOf(this.handle);
    getField(headers, encoded.dataStart, encoded.length, result);
    dropFields(headers);
    const values = load<usize>(result);
    const count = load<usize>(result, 4);
    let first: string | null = null;
    for (let i: usize = 0; i < count; i++) {
      const value = takeText(load<usize>(values + 8 * i), load<usize>(values + 8 * i, 4));
      if (i == 0) first = value;
    }
    release(values, count);
    return first;
  }

  /** If it is broken at its end, the client broke off. */
  get body(): InputStream {
    let stream = this.stream;
    if (stream == null) {
      consume(this.handle, result);
      this.bodyHandle = load<i32>(result, 4);
      streamOf(this.bodyHandle, result);
      stream = new InputStream(load<i32>(result, 4));
      this.stream = stream;
    }
    return stream;
  }

  /** Streams belong to bodies, and bodies to requests: they go first. */
  drop(): void {
    const stream = this.stream;
    if (stream != null) stream.drop();
    if (this.bodyHandle != 0) dropIncomingBody(this.bodyHandle);
    dropRequest(this.handle);
  }
}

/**
 * If the program returns without `start`, the client gets a 500; without `finish`, the
 * transfer breaks.
 */
export class Response {
  private headers: i32 = newFields();
  private body: i32 = 0;
  private stream: OutputStream | null = null;

  constructor(private outparam: i32) {}

  /** Adds a header, before `start`. False if its name or value is not allowed. */
  header(name: string, value: string): bool {
    if (this.headers == 0) return false;
    const encodedName = encode(name);
    const encodedValue = encode(value);
    appendField(
      this.headers, encodedName.dataStart, encodedName.length,
      encodedValue.dataStart, encodedValue.length, result,
    );
    return load<u8>(result) == 0;
  }

  /**
   * The status and the headers. False if there is no such status, which forgets the
   * headers, or if the response has begun.
   */
  start(status: i32): bool {
    if (this.outparam == 0) return false;
    const response = newResponse(this.headers);
    this.headers = 0;
    if (setStatusCode(response, status) != 0) {
      dropResponse(response);
      this.headers = newFields();
      return false;
    }
    bodyOf(response, result);
    this.body = load<i32>(result, 4);
    writeOf(this.body, result);
    this.stream = new OutputStream(load<i32>(result, 4));
    setResponse(this.outparam, 0, response, 0, 0, 0, 0, 0, 0);
    this.outparam = 0;
    return true;
  }

  /** A piece of the body; waits until the client has taken enough. False if it is gone. */
  write(piece: Uint8Array): bool {
    const stream = this.stream;
    return stream != null && stream.write(piece);
  }

  /** The response is complete. */
  finish(): void {
    if (this.body == 0) return;
    this.dropStream();
    finishBody(this.body, 0, 0, result);
    this.body = 0;
  }

  /** A whole response, of plain text. */
  text(status: i32, text: string): void {
    const body = encode(text);
    this.header("content-type", "text/plain");
    this.header("content-length", body.length.toString());
    if (!this.start(status)) return;
    this.write(body);
    this.finish();
  }

  drop(): void {
    this.dropStream();
    if (this.body != 0) dropOutgoingBody(this.body);
    if (this.headers != 0) dropFields(this.headers);
    if (this.outparam != 0) dropOutparam(this.outparam);
  }

  private dropStream(): void {
    const stream = this.stream;
    if (stream != null) stream.drop();
    this.stream = null;
  }
}

export type Handler = (request: Request, response: Response) => void;

export let handler: Handler = (request: Request, response: Response): void => {};

/** Says which function answers requests. */
export function onRequest(answer: Handler): void {
  handler = answer;
}
