// Streams of bytes: bodies, files, standard output.
import { result, takeBytes } from "./abi";

@external("wasi:io/streams@0.2.12", "[method]input-stream.blocking-read")
declare function blockingRead(stream: i32, bytesMax: u64, result: usize): void;
@external("wasi:io/streams@0.2.12", "[resource-drop]input-stream")
declare function dropInputStream(stream: i32): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.check-write")
declare function checkWrite(stream: i32, result: usize): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.write")
declare function write(stream: i32, bytes: usize, length: usize, result: usize): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.blocking-flush")
declare function blockingFlush(stream: i32, result: usize): void;
@external("wasi:io/streams@0.2.12", "[method]output-stream.subscribe")
declare function subscribe(stream: i32): i32;
@external("wasi:io/streams@0.2.12", "[resource-drop]output-stream")
declare function dropOutputStream(stream: i32): void;
@external("wasi:io/poll@0.2.12", "[method]pollable.block")
declare function block(pollable: i32): void;
@external("wasi:io/poll@0.2.12", "[resource-drop]pollable")
declare function dropPollable(pollable: i32): void;
@external("wasi:io/error@0.2.12", "[resource-drop]error")
declare function dropError(error: i32): void;

/** Bytes of one piece, at most. */
const PIECE_BYTES_MAX = 64 << 10;

export class InputStream {
  /** After `read` gave null: it was not the end. */
  isBroken: bool = false;

  constructor(private handle: i32) {}

  /** Waits for the next piece. Null is the end, unless the stream is broken then. */
  read(): Uint8Array | null {
    do {
      blockingRead(this.handle, PIECE_BYTES_MAX, result);
      if (load<u8>(result) != 0) {
        this.isBroken = isFailure(result + 4);
        return null;
      }
    } while (load<usize>(result, 8) == 0);
    return takeBytes(load<usize>(result, 4), load<usize>(result, 8));
  }

  drop(): void {
    dropInputStream(this.handle);
  }
}

export class OutputStream {
  constructor(private handle: i32) {}

  /** Waits until there is room for it. False if nobody takes it any more. */
  write(piece: Uint8Array): bool {
    let done: usize = 0;
    while (done < usize(piece.length)) {
      checkWrite(this.handle, result);
      if (load<u8>(result) != 0) {
        isFailure(result + 8);
        return false;
      }
      const room = load<u64>(result, 8);
      if (room == 0) {
        const ready = subscribe(this.handle);
        block(ready);
        dropPollable(ready);
        continue;
      }
      const bytes = usize(min<u64>(room, usize(piece.length) - done));
      write(this.handle, piece.dataStart + done, bytes, result);
      if (load<u8>(result) != 0) {
        isFailure(result + 4);
        return false;
      }
      done += bytes;
    }
    return true;
  }

  /** Waits until all of it has been taken. */
  flush(): void {
    blockingFlush(this.handle, result);
    if (load<u8>(result) != 0) isFailure(result + 4);
  }

  drop(): void {
    dropOutputStream(this.handle);
  }
}

/** Whether a stream is broken; else it is only at its end. */
function isFailure(at: usize): bool {
  const isClosed = load<u8>(at) != 0;
  if (!isClosed) dropError(load<i32>(at, 4));
  return !isClosed;
}
