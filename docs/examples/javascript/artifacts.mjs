// Artifacts: immutable folders named by the digest of their manifest (docs/protocol.md, "Artifacts").
//
// Writing cuts files into raw objects of at most 512 KiB, sends every object, then the manifest. Objects are sent without
// the condition "if absent" on purpose: what has just been sent can not be on an older list of condemned objects, so this
// writer need not read those lists. A writer of large artifacts would read them, and send only what is missing.
//
// Reading checks every digest and every path before a byte is used. It understands raw objects and planes; it refuses
// deltas, and planes in zstd where this Node.js has no zstd: whoever reads a checkpoint then starts from an older one.

import { createHash } from "node:crypto";
import zlib from "node:zlib";

const OBJECT_BYTES_MAX = 512 * 1024;
const FILES_MAX = 10_000;
const RAW_HEADER = Buffer.from([0x52, 0x4f, 1, 0]); // "RO", format 1, coding 0

export class Unusable extends Error {}

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

// files: Map of relative path to Buffer. The digest of the manifest, when everything is stored.
export async function put(mesh, files, media, facts = {}) {
  const entries = [];
  for (const [path, content] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const entry = { path, size_bytes: content.length, objects: [], sizes: [] };
    for (let offset = 0; offset < content.length; offset += OBJECT_BYTES_MAX) {
      const piece = content.subarray(offset, offset + OBJECT_BYTES_MAX);
      const digest = sha256(piece);
      await mesh.store(`${mesh.prefix}.art.c.${digest}`, Buffer.concat([RAW_HEADER, piece]));
      entry.objects.push(digest);
      entry.sizes.push(piece.length);
    }
    entries.push(entry);
  }
  const manifest = mesh.encode("manifest", { media, files: entries, facts });
  const digest = sha256(manifest);
  await mesh.store(`${mesh.prefix}.art.m.${digest}`, manifest);
  return digest;
}

// The files of an artifact: Map of path to Buffer. Unusable, with a reason, when it is not there, damaged or too large.
export async function get(mesh, digest, bytesMax) {
  const stored = await mesh.last("ARTIFACTS", `${mesh.prefix}.art.m.${digest}`);
  if (stored === null) throw new Unusable(`the artifact ${digest} is not in the store`);
  if (sha256(stored) !== digest) throw new Unusable(`the manifest ${digest} does not match its digest`);
  const manifest = mesh.decode(stored, "manifest");
  if (manifest.files.length > FILES_MAX) throw new Unusable(`the artifact ${digest} has too many files`);
  const files = new Map();
  let left = bytesMax;
  for (const entry of manifest.files) {
    const parts = entry.path.split("/");
    if (parts.some((part) => ["", ".", ".."].includes(part))) throw new Unusable(`the path ${entry.path} leads elsewhere`);
    if (entry.lists?.length || entry.bases?.length) throw new Unusable("lists of objects and deltas are not read here");
    left -= entry.size_bytes;
    if (left < 0) throw new Unusable(`the artifact ${digest} is larger than ${bytesMax} bytes`);
    const pieces = [];
    for (const [index, object] of entry.objects.entries()) {
      const bytes = await mesh.last("ARTIFACTS", `${mesh.prefix}.art.c.${object}`);
      if (bytes === null) throw new Unusable(`the object ${object} is not in the store`);
      const decoded = decodedObject(bytes, entry.sizes[index]);
      if (sha256(decoded) !== object) throw new Unusable(`the object ${object} does not match its digest`);
      pieces.push(decoded);
    }
    const content = Buffer.concat(pieces);
    if (content.length !== entry.size_bytes) throw new Unusable(`the file ${entry.path} does not add up`);
    files.set(entry.path, content);
  }
  return files;
}

function decodedObject(stored, size) {
  const bytes = Buffer.from(stored);
  if (bytes.length < 4 || bytes.toString("latin1", 0, 2) !== "RO" || bytes[2] !== 1) throw new Unusable("no object of format 1");
  if (size > OBJECT_BYTES_MAX) throw new Unusable(`an object of ${size} bytes is too large`);
  if (bytes[3] === 0) return bytes.subarray(4);
  if (bytes[3] !== 1) throw new Unusable("an object that is a delta is not read here");
  return joinedPlanes(bytes, size);
}

// Coding 1: a width, the decoded size, a mode and a length for each plane, then the planes.
function joinedPlanes(bytes, size) {
  const width = bytes[4];
  const total = bytes.length >= 9 ? bytes.readUInt32LE(5) : -1;
  if (![1, 2, 4, 8].includes(width) || total !== size || total % width !== 0) throw new Unusable("an object's planes do not add up");
  const rows = total / width;
  const decoded = Buffer.alloc(total);
  let at = 9 + 5 * width;
  for (let plane = 0; plane < width; plane += 1) {
    if (bytes.length < 14 + 5 * plane) throw new Unusable("an object's planes do not add up");
    const mode = bytes[9 + 5 * plane];
    const length = bytes.readUInt32LE(10 + 5 * plane);
    const coded = bytes.subarray(at, at + length);
    at += length;
    const whole = mode === 0 ? coded : unpacked(coded, rows);
    if (whole.length !== rows) throw new Unusable("an object's planes do not add up");
    for (let row = 0; row < rows; row += 1) decoded[row * width + plane] = whole[row];
  }
  return decoded;
}

function unpacked(coded, size) {
  if (!zlib.zstdDecompressSync) throw new Unusable("this Node.js has no zstd (22.15 and later have)");
  return zlib.zstdDecompressSync(coded, { maxOutputLength: size });
}
