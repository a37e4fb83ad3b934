// Keys and values are bytes. Here they are strings of one character a byte ("\x00" to "\xff"), so that
// they compare in etcd's order, and are translated at the edges: base64 for the server, text for people.

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

export const fromBase64 = (base64) => (base64 ? atob(base64) : "");
export const toBase64 = (bytes) => btoa(bytes);

/** The bytes of a text in UTF-8. */
export function fromText(text) {
  const bytes = encoder.encode(text);
  let out = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    out += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return out;
}

export const toArray = (bytes) => Uint8Array.from(bytes, (byte) => byte.charCodeAt(0));

/** The text that the bytes are in UTF-8, or null if they are none. */
export function toText(bytes) {
  try {
    return decoder.decode(toArray(bytes));
  } catch {
    return null;
  }
}

const hex = (byte) => byte.toString(16).padStart(2, "0");

/** One line for people: what cannot be printed is written as \x00, and `parse` reads it back. */
export function show(bytes) {
  const text = toText(bytes);
  if (text === null) {
    return bytes.replace(/[^\x20-\x7e]|\\(?=x[0-9a-f]{2})/g, (byte) => `\\x${hex(byte.charCodeAt(0))}`);
  }
  return text.replace(/[\x00-\x1f\x7f]|\\(?=x[0-9a-f]{2})/g, (control) => `\\x${hex(control.charCodeAt(0))}`);
}

/** The bytes that a line stands for, as `show` writes them and as people type them. */
export function parse(line) {
  return line
    .split(/(\\x[0-9a-f]{2})/)
    .map((part, index) => (index % 2 ? String.fromCharCode(parseInt(part.slice(2), 16)) : fromText(part)))
    .join("");
}

/** The first key behind all keys that begin with `prefix`; "\0" says that there is none. */
export function prefixEnd(prefix) {
  for (let at = prefix.length - 1; at >= 0; at -= 1) {
    const byte = prefix.charCodeAt(at);
    if (byte < 0xff) return prefix.slice(0, at) + String.fromCharCode(byte + 1);
  }
  return "\0";
}

/** The key that comes directly behind `key`. */
export const successor = (key) => `${key}\0`;

/** Offsets, sixteen bytes a line, and what of them can be printed. */
export function hexDump(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const line = bytes.slice(at, at + 16);
    const numbers = Array.from(line, (byte) => hex(byte.charCodeAt(0))).join(" ");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${numbers.padEnd(47)}  ${line.replace(/[^\x20-\x7e]/g, ".")}`);
  }
  return lines.join("\n");
}
