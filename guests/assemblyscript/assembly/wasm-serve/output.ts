// Standard output and standard error, which the server's log shows.
import { encode } from "./abi";
import { OutputStream } from "./streams";

@external("wasi:cli/stdout@0.2.12", "get-stdout")
declare function getStdout(): i32;
@external("wasi:cli/stderr@0.2.12", "get-stderr")
declare function getStderr(): i32;

export function print(line: string): void {
  writeLine(getStdout(), line);
}

export function printError(line: string): void {
  writeLine(getStderr(), line);
}

function writeLine(handle: i32, line: string): void {
  const stream = new OutputStream(handle);
  stream.write(encode(line + "\n"));
  stream.flush();
  stream.drop();
}

// An uncaught error ends here. @global, so that the compiler finds it by its name.
// @ts-ignore: decorator
@global
function abortWithMessage(message: string | null, file: string | null, line: u32, column: u32): void {
  printError(`${message == null ? "abort" : message} (${file == null ? "" : file}:${line}:${column})`);
  unreachable();
}
