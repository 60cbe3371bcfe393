// What the engine does not have itself: texts as bytes, printing, and files of the
// folders that the host grants.

import preopens from 'wasi:filesystem/preopens@0.3.0';
import stderr from 'wasi:cli/stderr@0.3.0';
import stdout from 'wasi:cli/stdout@0.3.0';

/** The UTF-8 of a text. */
export function bytes(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (character) => character.charCodeAt(0));
}

/** The text of UTF-8, or of Latin 1 if it is not UTF-8. */
export function text(bytes) {
  let characters = '';
  for (let at = 0; at < bytes.length; at += 4096) characters += String.fromCharCode(...bytes.subarray(at, at + 4096));
  try {
    return decodeURIComponent(escape(characters));
  } catch {
    return characters;
  }
}

export const print = (line) => write(stdout, line);
export const printError = (line) => write(stderr, line);

async function write(output, line) {
  const { readable } = wit.Stream.from([bytes(`${line}\n`)], wit.Stream.U8);
  const written = output.writeViaStream(readable);
  await written.read();
  written.drop();
}

let folders;

/** The bytes of a file. An Error tells the reason, such as `no-entry`. */
export async function readFile(name) {
  const { folder, path } = locate(name.startsWith('/') ? name : `/${name}`);
  try {
    const file = await folder.openAt({ symlinkFollow: true }, path, {}, { read: true });
    try {
      return await readAll(file);
    } finally {
      file[Symbol.dispose]();
    }
  } catch (error) {
    throw new Error(`${name}: ${error.payload?.tag ?? error.message}`);
  }
}

// The folder with the longest name that the path begins with. Folders are asked
// for in the first request, since there are none while the component is built.
function locate(path) {
  folders ??= preopens.getDirectories()
    .map(([folder, name]) => ({ folder, prefix: name.endsWith('/') ? name : `${name}/` }))
    .sort((a, b) => b.prefix.length - a.prefix.length);
  const found = folders.find(({ prefix }) => path.startsWith(prefix));
  if (!found) throw new Error(`${path}: no folder was granted`);
  return { folder: found.folder, path: path.slice(found.prefix.length) || '.' };
}

async function readAll(file) {
  const [stream, ended] = file.readViaStream(0);
  const pieces = [];
  let length = 0;
  for await (const piece of stream) {
    pieces.push(piece);
    length += piece.byteLength;
  }
  const { tag, val } = await ended.read();
  ended.drop();
  if (tag === 'err') throw new Error(val.tag);
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const piece of pieces) {
    whole.set(piece, offset);
    offset += piece.byteLength;
  }
  return whole;
}
