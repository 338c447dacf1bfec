// A worker of a Ramify mesh in JavaScript: the wire protocol (docs/protocol.md, "Being a worker") without Python.
//
//   hello -> welcome              once: versions fit, or this worker stops
//   beat  -> answer               every two seconds, and at once on news: leases, orders, receipts
//   row in the outbox -> receipt  results, checkpoints, failures, leases handed back
//
// It runs the kind `noop`. Another kind is another entry in KINDS. Settings: see README.md.

import { randomBytes } from "node:crypto";
import { freemem, hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as artifacts from "./artifacts.mjs";
import { Mesh } from "./mesh.mjs";
import * as noop from "./noop.mjs";
import { epochToken, Outbox } from "./outbox.mjs";

const PROTOCOL = [1, 1];
const KINDS = { noop: { version: 1, run: noop.run } };
const LEASES_MAX = 4;
const BEAT_MS = Number(process.env.RAMIFY_SCHEDULER_BEAT_S ?? 2) * 1000;
const ASK_AGAIN_BEATS = 3; // beats without a receipt before the ledger is asked
const LEAVE_MS = 10_000;
const ENDED_MAX = 1_000;
const MEMORY_BYTES = Number(process.env.RAMIFY_WORKER_MEMORY_BYTES ?? Math.floor(freemem() / 2));
const DISK_BYTES = 1 << 30;

class Worker {
  constructor(mesh, folder) {
    this.mesh = mesh;
    this.incarnation = `${mesh.name}.${randomBytes(4).toString("hex")}`;
    this.outbox = new Outbox(mesh, folder);
    this.held = new Map(); // task and epoch -> the running work
    this.ended = new Set(); // leases that were worked on in this life: a repeated one is not begun again
    this.declined = [];
    this.heard = { ledger_seq: 0, generation: 0, ledger_digest: "" };
    this.offer = { number: 0, content: "" };
    [this.beats, this.unanswered, this.stopping, this.turned] = [0, 0, "", performance.now()];
  }

  async hello() {
    const { mesh } = this;
    const fields = {
      role: "worker", name: mesh.name, incarnation: this.incarnation, protocol_min: PROTOCOL[0], protocol_max: PROTOCOL[1],
      program: "javascript-1.0.0", kinds: versions(), host: hostname(), pid: process.pid, facts: { artifacts: "the broker" },
    };
    for (;;) {
      try {
        const welcome = await mesh.ask(`${mesh.prefix}.ask.scheduler.${mesh.name}`, mesh.encode("hello", fields), "welcome", "problem");
        if (welcome.kind === "problem" || !welcome.accepted) throw new Refused(welcome.reason ?? "the scheduler refused the hello");
        return;
      } catch (error) {
        if (error instanceof Refused) throw error;
        if (this.stopping) return;
        await sleep(500); // nobody leads at the moment
      }
    }
  }

  async run() {
    const { mesh } = this;
    const ear = mesh.connection.subscribe(`${mesh.prefix}.in.${mesh.name}.answer`);
    const hearing = (async () => {
      for await (const message of ear) await this.hear(message.data);
    })();
    await this.hello();
    await this.outbox.sendAgain().catch(() => {}); // what an earlier life owed; else the beats see to it
    console.log(`${mesh.name} works for ${mesh.prefix} on ${mesh.connection.getServer()}`);
    const turning = setInterval(() => (this.turned = performance.now()), 100);
    while (!this.stopping) {
      this.beat();
      await Promise.race([sleep(BEAT_MS), new Promise((wake) => (this.wake = wake))]);
      if (this.outbox.owed.length && (this.unanswered += 1) >= ASK_AGAIN_BEATS) {
        this.unanswered = 0;
        await this.outbox.sendAgain().catch(() => {});
      }
    }
    await this.leave();
    clearInterval(turning);
    ear.unsubscribe();
    await hearing;
  }

  // Hand everything back, and stay until the ledger has said so, or for ten seconds.
  async leave() {
    this.beat();
    await Promise.allSettled([...this.held.values()].map((work) => work.done));
    const until = performance.now() + LEAVE_MS;
    while (this.outbox.owed.length && performance.now() < until) {
      this.beat();
      await sleep(100);
    }
    this.beat();
    await this.mesh.connection.flush().catch(() => {});
  }

  stop(reason) {
    this.stopping ||= reason;
    this.wake?.();
  }

  soon() {
    this.wake?.();
  }

  // -- beats and answers ---------------------------------------------------------------------------------------------

  beat() {
    const taken = [...this.held.values()].reduce((sum, work) => sum + (work.lease.task.needs?.memory_bytes ?? 0), 0);
    const content = {
      leases_max: this.stopping ? 0 : LEASES_MAX - this.held.size, cores: 1, memory_bytes: Math.max(0, MEMORY_BYTES - taken), disk_bytes: DISK_BYTES,
      gpus: 0, gpu_memory_bytes: 0, share_gpus: false, gpu_room_bytes: [], labels: ["javascript"], kinds: versions(), cached: [],
    };
    if (JSON.stringify(content) !== this.offer.content) this.offer = { number: this.offer.number + 1, content: JSON.stringify(content) };
    const fields = {
      worker: this.mesh.name, incarnation: this.incarnation, number: (this.beats += 1), reply: `${this.mesh.prefix}.in.${this.mesh.name}.answer`,
      loop_age_s: (performance.now() - this.turned) / 1000, offer: { number: this.offer.number, ...content },
      held: [...this.held.values()].map(({ lease, step }) => ({ task: lease.task.id, epoch: lease.epoch, silent_s: 0, step, waits: false })),
      owed: this.outbox.owed.slice(0, 1_000), declined: this.declined.splice(0, 512), ...this.heard, note: this.stopping,
    };
    this.mesh.send(`${this.mesh.prefix}.beat.${this.mesh.name}`, this.mesh.encode("beat", fields));
  }

  async hear(bytes) {
    const answer = this.mesh.decode(bytes, "answer");
    const older = answer.generation < this.heard.generation || (answer.generation === this.heard.generation && answer.ledger_seq < this.heard.ledger_seq);
    if (answer.incarnation !== this.incarnation || older) return;
    const restored = this.heard.generation > 0 && answer.generation > this.heard.generation;
    this.heard = { ledger_seq: answer.ledger_seq, generation: answer.generation ?? 0, ledger_digest: answer.ledger_digest ?? "" };
    this.unanswered = 0;
    this.outbox.receive(answer.receipts ?? []);
    for (const order of answer.orders ?? []) {
      const work = this.held.get(nameOf(order));
      if (work && order.order !== "keep") work.stopped = { order: order.order, reason: order.reason || "the leader asked for it" };
    }
    for (const lease of answer.leases ?? []) this.take(lease);
    if (answer.renew) this.offer.content = "";
    if (restored) await this.outbox.oweAgain().catch((error) => console.error(`not sent again yet: ${error.message}`));
  }

  take(lease) {
    const name = nameOf({ task: lease.task.id, epoch: lease.epoch });
    if (this.held.has(name) || this.ended.has(name)) return;
    if (this.stopping) {
      this.declined.push([lease.task.id, lease.epoch]);
      return;
    }
    const work = { lease, step: 0, stopped: null, number: lease.checkpoint_number ?? 0 };
    this.held.set(name, work);
    work.done = this.work(work).finally(() => {
      this.held.delete(name);
      this.ended.add(name);
      if (this.ended.size > ENDED_MAX) this.ended.delete(this.ended.values().next().value);
      this.soon();
    });
    this.soon(); // the lease is repeated until a beat names it
  }

  // -- the work ------------------------------------------------------------------------------------------------------

  async work(work) {
    const { lease } = work;
    const { task } = lease;
    const owe = (kind, fields, named) => this.outbox.put(task.id, lease.epoch, kind, { incarnation: this.incarnation, ...fields }, named);
    console.log(`${task.id} (${task.executor}), epoch ${epochToken(lease.epoch)}, attempt ${lease.attempt}`);
    try {
      const made = await KINDS[task.executor].run(this.mesh, {
        lease,
        stop: () => work.stopped?.reason || this.stopping,
        report: (step, done) => this.report(work, step, done),
        checkpoint: async (files, step, trained_s) => {
          if (work.stopped?.order === "stop") return; // the epoch is over: nothing of it can be recorded
          work.number += 1;
          const facts = { task: task.id, epoch: epochToken(lease.epoch), number: work.number, step };
          const manifest = await artifacts.put(this.mesh, files, "checkpoint", facts);
          await owe("checkpoint", { manifest, step, best: false, trained_s }, [manifest]);
        },
      });
      if (work.stopped?.order === "stop") return;
      const outcome = { outputs: made.outputs, kpis: made.kpis, stopped_by: "finished", seconds: made.seconds, facts: {}, exact: true };
      await owe("result", { outcome }, Object.values(made.outputs));
      console.log(`${task.id} is done`);
    } catch (error) {
      if (work.stopped?.order === "stop") return;
      if (error instanceof noop.Stopped) await owe("give-back", { reason: error.message });
      else await owe("failure", { failure: error.failure ?? "retry", reason: error.message.slice(0, 2_000) || "it failed without a reason", missing: [] });
      console.log(`${task.id} was given back: ${error.message}`);
    }
  }

  report(work, step, done) {
    const { task, epoch } = work.lease;
    work.step = step;
    const fields = {
      topic: task.topic, task: task.id, epoch, worker: this.mesh.name, line: task.line ?? null, purpose: task.purpose ?? "",
      step, done, metrics: {}, phase: "waiting",
    };
    this.mesh.send(`${this.mesh.prefix}.progress.${this.mesh.name}.${task.topic}.${task.id}`, this.mesh.encode("progress", fields));
  }
}

class Refused extends Error {}
class TurnedOut extends Error {}

const versions = () => Object.fromEntries(Object.entries(KINDS).map(([kind, { version }]) => [kind, version]));
const nameOf = ({ task, epoch }) => `${task} ${epochToken(epoch)}`;

async function main() {
  const name = process.env.RAMIFY_WORKER_NAME ?? `${hostname().toLowerCase().replace(/[^a-z0-9-]/g, "-")}-js`;
  const mesh = await Mesh.connect({
    servers: (process.env.NATS_URL ?? "nats://127.0.0.1:4222").split(","), prefix: process.env.RAMIFY_PREFIX ?? "mesh", name,
    seedFile: process.env.NATS_NKEY, caFile: process.env.NATS_CA,
  });
  const worker = new Worker(mesh, join(process.env.RAMIFY_HOME ?? ".ramify-js", name, "outbox"));
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => worker.stop("the worker stops"));
  // The client comes back after every outage; it gives up only where its key opens nothing any more.
  const turnedOut = mesh.connection.closed().then((error) => {
    if (error) throw new TurnedOut(`the broker refuses this worker's key now (${error.message}): it was revoked, or is another mesh's`);
  });
  try {
    await Promise.race([worker.run(), turnedOut]);
  } finally {
    turnedOut.catch(() => {});
    await mesh.connection.close();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(`worker: ${error.message}`);
    process.exit(error instanceof Refused ? 8 : error instanceof TurnedOut ? 9 : 4);
  },
);
