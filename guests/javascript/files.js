// Reads files in the folders that the host grants. The engine has no files of
// its own; this is WASI, which is there at any import, and can be copied as it is.

import { getDirectories } from 'wasi:filesystem/preopens@0.2.12';

const PIECE_BYTES = 65_536n;

let folders;

/** The bytes of a file. An Error tells the reason, such as `no-entry`. */
export function readFile(name) {
  const { folder, path } = locate(name.startsWith('/') ? name : `/${name}`);
  try {
    const file = folder.openAt({ symlinkFollow: true }, path, {}, { read: true });
    try {
      return readAll(file);
    } finally {
      file[Symbol.dispose ?? Symbol.for('dispose')]();
    }
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  }
}

// The folder with the longest name that the path begins with. Folders are asked
// for in the first request, since there are none while the component is built.
function locate(path) {
  folders ??= getDirectories()
    .map(([folder, name]) => ({ folder, prefix: name.endsWith('/') ? name : `${name}/` }))
    .sort((a, b) => b.prefix.length - a.prefix.length);
  const found = folders.find(({ prefix }) => path.startsWith(prefix));
  if (!found) throw new Error(`${path}: no folder was granted`);
  return { folder: found.folder, path: path.slice(found.prefix.length) || '.' };
}

function readAll(file) {
  const pieces = [];
  let length = 0;
  for (let ended = false; !ended; ) {
    const [piece, end] = file.read(PIECE_BYTES, BigInt(length));
    pieces.push(piece);
    length += piece.byteLength;
    ended = end;
  }
  const bytes = new Uint8Array(length);
  for (let offset = 0; pieces.length; ) {
    const piece = pieces.shift();
    bytes.set(piece, offset);
    offset += piece.byteLength;
  }
  return bytes;
}
