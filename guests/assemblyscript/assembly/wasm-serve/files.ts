// Files of the folders that the server was told to show: `--dir`.
import { encode, release, result, takeText } from "./abi";
import { InputStream } from "./streams";

@external("wasi:filesystem/preopens@0.2.12", "get-directories")
declare function getDirectories(result: usize): void;
@external("wasi:filesystem/types@0.2.12", "[method]descriptor.open-at")
declare function openAt(
  folder: i32, pathFlags: i32, path: usize, pathBytes: usize, openFlags: i32, flags: i32, result: usize,
): void;
@external("wasi:filesystem/types@0.2.12", "[method]descriptor.read-via-stream")
declare function readViaStream(file: i32, offset: u64, result: usize): void;
@external("wasi:filesystem/types@0.2.12", "[resource-drop]descriptor")
declare function dropDescriptor(descriptor: i32): void;

const SYMLINK_FOLLOW = 1;
const READ = 1;

/** The codes of `wasi:filesystem`, in its order. */
const ERRORS: StaticArray<string> = [
  "access", "would-block", "already", "bad-descriptor", "busy", "deadlock", "quota", "exist", "file-too-large",
  "illegal-byte-sequence", "in-progress", "interrupted", "invalid", "io", "is-directory", "loop",
  "too-many-links", "message-size", "name-too-long", "no-device", "no-entry", "no-lock", "insufficient-memory",
  "insufficient-space", "not-directory", "not-empty", "not-recoverable", "unsupported", "no-tty",
  "no-such-device", "overflow", "not-permitted", "pipe", "read-only", "invalid-seek", "text-file-busy",
  "cross-device",
];

/** A file that is read from its beginning to its end. */
export class File {
  /** Why it cannot be read, or no further. */
  error: string | null = null;
  private descriptor: i32 = 0;
  private stream: InputStream | null = null;

  /** Opens it. Relative paths start at `/`. */
  constructor(path: string) {
    this.open(path.startsWith("/") ? path : "/" + path);
  }

  private open(path: string): void {
    const folder = folderOf(path);
    if (folder == null) {
      this.error = "no-entry";
      return;
    }
    const rest = encode(path.substring(folder.prefix.length));
    openAt(folder.descriptor, SYMLINK_FOLLOW, rest.dataStart, rest.length, 0, READ, result);
    if (this.failed()) return;
    this.descriptor = load<i32>(result, 4);
    readViaStream(this.descriptor, 0, result);
    if (!this.failed()) this.stream = new InputStream(load<i32>(result, 4));
  }

  /** The next piece. Null is the end, unless there is an error. */
  read(): Uint8Array | null {
    const stream = this.stream;
    if (stream == null) return null;
    const piece = stream.read();
    if (stream.isBroken) this.error = "io";
    return piece;
  }

  /** All that is left, as text. */
  readText(): string {
    const pieces: Uint8Array[] = [];
    let length = 0;
    for (let piece = this.read(); piece != null; piece = this.read()) {
      pieces.push(piece);
      length += piece.length;
    }
    const bytes = new Uint8Array(length);
    for (let i = 0, at = 0; i < pieces.length; at += pieces[i++].length) bytes.set(pieces[i], at);
    return String.UTF8.decodeUnsafe(bytes.dataStart, length);
  }

  close(): void {
    const stream = this.stream;
    if (stream != null) stream.drop();
    if (this.descriptor != 0) dropDescriptor(this.descriptor);
    this.stream = null;
    this.descriptor = 0;
  }

  /** Whether the last call gave an error code. */
  private failed(): bool {
    if (load<u8>(result) == 0) return false;
    this.error = ERRORS[load<u8>(result, 4)];
    return true;
  }
}

class Folder {
  /** The prefix is its name with a slash at the end. */
  constructor(public descriptor: i32, public prefix: string) {}
}

/** Asked for once: the server gives new descriptors each time. */
let folders: Folder[] | null = null;

/** The folder that has this path, the innermost one if they are nested. */
function folderOf(path: string): Folder | null {
  let known = folders;
  if (known == null) {
    known = listFolders();
    folders = known;
  }
  let found: Folder | null = null;
  for (let i = 0; i < known.length; i++) {
    const folder = known[i];
    if (path.startsWith(folder.prefix) && (found == null || folder.prefix.length > found.prefix.length)) {
      found = folder;
    }
  }
  return found;
}

function listFolders(): Folder[] {
  getDirectories(result);
  const entries = load<usize>(result);
  const count = load<usize>(result, 4);
  const list: Folder[] = [];
  for (let i: usize = 0; i < count; i++) {
    const entry = entries + 12 * i;
    const name = takeText(load<usize>(entry, 4), load<usize>(entry, 8));
    list.push(new Folder(load<i32>(entry), name.endsWith("/") ? name : name + "/"));
  }
  release(entries, count);
  return list;
}
