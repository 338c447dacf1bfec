// The carrier and the records: one connection, msgpack maps, stored writes with their acknowledgement.

import { readFileSync } from "node:fs";
import { decode, encode } from "@msgpack/msgpack";
import { connect, headers, nkeyAuthenticator } from "@nats-io/transport-node";

const WRONG_LAST_SEQUENCE = [10071, 10164]; // somebody wrote first: "already stored" where the condition was "if absent"
const ANSWER_MS = 5_000;

export class Mesh {
  constructor(connection, prefix, name) {
    [this.connection, this.prefix, this.name] = [connection, prefix, name];
  }

  // seedFile, caFile: the nkey seed and the certificate authority of a mesh that other machines can join.
  static async connect({ servers, prefix, name, seedFile, caFile }) {
    const connection = await connect({
      servers,
      name,
      inboxPrefix: `${prefix}.in.${name}`,
      maxReconnectAttempts: -1,
      ...(caFile ? { tls: { caFile } } : {}),
      ...(seedFile ? { authenticator: nkeyAuthenticator(() => readFileSync(seedFile).subarray(0, 58)) } : {}),
    });
    return new Mesh(connection, prefix, name);
  }

  // A record: `kind` and `v` first, then its fields in the order of the tables. Equal records then have equal bytes.
  encode(kind, fields) {
    return Buffer.from(encode({ kind, v: 1, ...fields }));
  }

  decode(bytes, ...kinds) {
    const record = decode(bytes);
    if (!kinds.includes(record?.kind) || record.v !== 1) throw new Error(`expected ${kinds.join(" or ")}, got ${record?.kind} ${record?.v}`);
    return record;
  }

  send(subject, bytes) {
    if (!this.connection.isClosed()) this.connection.publish(subject, bytes);
  }

  async ask(subject, bytes, ...kinds) {
    const answer = await this.connection.request(subject, bytes, { timeout: ANSWER_MS });
    return this.decode(answer.data, ...kinds);
  }

  // Write to a stream; resolves when the server has it on disk. ifAbsent: what is there already is as good as stored.
  async store(subject, bytes, { ifAbsent = false } = {}) {
    const condition = headers();
    if (ifAbsent) condition.set("Nats-Expected-Last-Subject-Sequence", "0");
    const answer = JSON.parse((await this.connection.request(subject, bytes, { timeout: ANSWER_MS, headers: condition })).string());
    if (answer.error && !(ifAbsent && WRONG_LAST_SEQUENCE.includes(answer.error.err_code))) {
      throw new Error(`${subject} was not stored: ${answer.error.description}`);
    }
  }

  // The newest message of a subject, or null.
  async last(stream, subject) {
    const from = `$JS.API.DIRECT.GET.${this.prefix.toUpperCase()}_${stream}.${subject}`;
    const answer = await this.connection.request(from, undefined, { timeout: ANSWER_MS });
    if (answer.headers?.code === 404) return null;
    if (answer.headers?.code >= 400) throw new Error(`${subject} was not read: ${answer.headers.description}`);
    return Buffer.from(answer.data);
  }
}
