// The outbox: what this worker owes the ledger. A row is on disk before it is sent, and goes only on its receipt.
//
//   <folder>/<number>.row     owed: msgpack of [key, kind, the record's bytes, artifacts that it names]
//   <folder>/<number>.done    receipted; kept for a day, in case the broker's store comes back older
//
// One process per folder: two lives of one worker never run at once.

import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { decode, encode } from "@msgpack/msgpack";

const KEEP_DONE_MS = 24 * 3_600_000;

function synced(folder) {
  if (process.platform === "win32") return; // folders can not be opened there
  const handle = openSync(folder, "r");
  fsyncSync(handle);
  closeSync(handle);
}

const spelled = (key) => JSON.stringify(key);
export const epochToken = (epoch) => epoch.join("-");

export class Outbox {
  constructor(mesh, folder) {
    [this.mesh, this.folder, this.rows, this.number] = [mesh, folder, new Map(), 0];
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    for (const file of readdirSync(folder).sort()) {
      this.number = Math.max(this.number, parseInt(file, 10) || 0);
      if (file.endsWith(".row")) this.#take(file);
      if (file.endsWith(".done") && Date.now() - statSync(join(folder, file)).mtimeMs > KEEP_DONE_MS) rmSync(join(folder, file));
    }
  }

  // Keys of what is owed, oldest first.
  get owed() {
    return [...this.rows.values()].map((row) => row.key);
  }

  // Numbers tell rows of one kind under one epoch apart, and rise over all lives.
  async put(task, epoch, kind, fields, artifacts = []) {
    this.number += 1;
    const key = [task, epoch, kind, this.number];
    const record = this.mesh.encode(kind, { key, ...fields });
    const file = `${String(this.number).padStart(12, "0")}.row`;
    const handle = openSync(join(this.folder, `${file}.new`), "wx", 0o600);
    writeSync(handle, encode([key, kind, record, artifacts]));
    fsyncSync(handle);
    closeSync(handle);
    renameSync(join(this.folder, `${file}.new`), join(this.folder, file));
    synced(this.folder); // the name is on disk, too
    this.#take(file);
    await this.#send(spelled(key));
  }

  // Send again what the ledger does not know. The subject is the key, so that nothing is stored twice.
  async sendAgain() {
    if (this.rows.size === 0) return;
    const answer = await this.mesh.ask(`${this.mesh.prefix}.ask.scheduler.${this.mesh.name}`, this.mesh.encode("owed", { keys: this.owed.slice(0, 1_000) }), "owed-answer");
    this.receive(answer.receipts);
    for (const key of [...this.rows.keys()]) await this.#send(key);
  }

  // The ledger's final word, recorded or refused: the row is owed no longer.
  receive(receipts) {
    for (const receipt of receipts) {
      const row = this.rows.get(spelled(receipt.key));
      if (!row) continue;
      if (!receipt.recorded) console.error(`refused: ${row.kind} of ${receipt.key[0]}: ${receipt.reason}`);
      renameSync(join(this.folder, row.file), join(this.folder, row.file.replace(".row", ".done")));
      this.rows.delete(spelled(receipt.key));
    }
  }

  // The broker's store came back older than it was: owe again what the ledger may have forgotten, but for rows whose
  // artifacts are no longer there.
  async oweAgain() {
    for (const file of readdirSync(this.folder).filter((name) => name.endsWith(".done")).sort()) {
      const artifacts = decode(readFileSync(join(this.folder, file)))[3];
      const found = await Promise.all(artifacts.map((digest) => this.mesh.last("ARTIFACTS", `${this.mesh.prefix}.art.m.${digest}`)));
      if (found.includes(null)) continue;
      renameSync(join(this.folder, file), join(this.folder, file.replace(".done", ".row")));
      this.#take(file.replace(".done", ".row"));
    }
    await this.sendAgain();
  }

  #take(file) {
    const [key, kind, record] = decode(readFileSync(join(this.folder, file)));
    this.rows.set(spelled(key), { key, kind, record, file });
  }

  async #send(spelledKey) {
    const row = this.rows.get(spelledKey);
    if (!row) return;
    const [task, epoch, kind, number] = row.key;
    const subject = `${this.mesh.prefix}.cmd.${this.mesh.name}.${kind}.${task}.${epochToken(epoch)}.${number}`;
    try {
      await this.mesh.store(subject, Buffer.from(row.record), { ifAbsent: true });
    } catch (error) {
      console.error(`not stored yet, it stays owed: ${error.message}`);
    }
  }
}
