// How values pass between the program and the server: the component model's canonical
// ABI. A text or a list is an address and a length in bytes; what does not fit into
// one result is written to an address that the caller gives.

/** Where the server writes what a call gives back, until the next call. */
export const result: usize = memory.data(40, 8);

/** The server's way to get memory for texts and lists. */
export function cabi_realloc(old: usize, oldBytes: usize, alignment: usize, bytes: usize): usize {
  if (bytes == 0) return alignment;
  return old == 0 ? heap.alloc(bytes) : heap.realloc(old, bytes);
}

export function takeText(at: usize, bytes: usize): string {
  const text = String.UTF8.decodeUnsafe(at, bytes);
  release(at, bytes);
  return text;
}

export function takeBytes(at: usize, bytes: usize): Uint8Array {
  const taken = new Uint8Array(i32(bytes));
  memory.copy(taken.dataStart, at, bytes);
  release(at, bytes);
  return taken;
}

/** Frees what the server got from `cabi_realloc`. */
export function release(at: usize, bytes: usize): void {
  if (bytes != 0) heap.free(at);
}

export function encode(text: string): Uint8Array {
  return Uint8Array.wrap(String.UTF8.encode(text));
}
