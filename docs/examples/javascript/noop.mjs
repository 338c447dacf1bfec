// The kind `noop`, version 1: waits, reports, makes bytes, keeps checkpoints, fails on request.
//
// Its checkpoints are those of any other worker (a file noop.json), so a task moves freely between languages.

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import * as artifacts from "./artifacts.mjs";

const STEP_S = 0.05;
const PROGRESS_S = 0.5;
const PAYLOAD_BYTES_MAX = 64 * 1024 * 1024; // made in memory here
const STATE_BYTES_MAX = 64 * 1024;
const DEFAULTS = { seconds: 0, payload_bytes: 0, checkpoint_s: 0, hold_gil_s: 0, fail: "", fail_attempts: 1_000, fail_after_s: 0 };
const FAILURES = ["", "retry", "reject", "memory", "crash", "hang"];

export class Stopped extends Error {}

export class Failed extends Error {
  constructor(failure, reason) {
    super(reason);
    this.failure = failure; // retry, reject or memory: what it means for the task
  }
}

// work: { lease, stop(): reason or "", report(step, done), checkpoint(files, step, trained_s) }. Made: { outputs, kpis, seconds }.
export async function run(mesh, work) {
  const settings = checked(work.lease.task.settings ?? {});
  const state = await resumed(mesh, work.lease);
  state.attempts += 1;
  const before = settings.fail === "memory" ? (work.lease.memory_attempts ?? 0) : state.attempts - 1;
  const failing = settings.fail !== "" && before < settings.fail_attempts;
  const clock = { began: performance.now() / 1000 - state.elapsed_s, saved_s: state.elapsed_s, reported_s: -PROGRESS_S };
  const save = async () => {
    clock.saved_s = state.elapsed_s;
    const files = new Map([["noop.json", Buffer.from(JSON.stringify(state))]]);
    await work.checkpoint(files, Math.floor(state.elapsed_s / STEP_S), state.elapsed_s);
  };
  if (failing && settings.fail_attempts < 1_000 && settings.fail !== "memory") await save(); // carries the count to the next attempt
  await wait(work, state, clock, settings, failing ? state.elapsed_s + settings.fail_after_s : settings.seconds, save);
  if (failing) await fail(settings.fail);
  const outputs = {};
  if (settings.payload_bytes > 0) outputs.payload = await artifacts.put(mesh, new Map([["payload", payload(work.lease.task.id, settings.payload_bytes)]]), "bytes");
  return { outputs, kpis: { seconds: Math.round(state.elapsed_s * 1000) / 1000, attempts: state.attempts }, seconds: state.elapsed_s };
}

function checked(given) {
  const unknown = Object.keys(given).filter((name) => !(name in DEFAULTS));
  const settings = { ...DEFAULTS, ...given };
  const numbers = Object.keys(DEFAULTS).filter((name) => name !== "fail");
  const wrong = numbers.find((name) => typeof settings[name] !== "number" || !(settings[name] >= 0));
  if (unknown.length) throw new Failed("reject", `noop has no setting ${unknown[0]}`);
  if (wrong) throw new Failed("reject", `noop's ${wrong} is a number of at least 0, got ${settings[wrong]}`);
  if (!FAILURES.includes(settings.fail)) throw new Failed("reject", `noop's fail is one of ${FAILURES.join(", ")}, got ${settings.fail}`);
  if (settings.payload_bytes > PAYLOAD_BYTES_MAX) throw new Failed("retry", `this worker makes payloads of at most ${PAYLOAD_BYTES_MAX} bytes`);
  return settings;
}

// The newest checkpoint that is whole, else the beginning.
async function resumed(mesh, lease) {
  for (const manifest of [lease.resume, ...(lease.older ?? []).map((one) => one.manifest)].filter(Boolean)) {
    try {
      const files = await artifacts.get(mesh, manifest, STATE_BYTES_MAX);
      const { elapsed_s, attempts } = JSON.parse(files.get("noop.json"));
      if (Number.isFinite(elapsed_s) && Number.isInteger(attempts)) return { elapsed_s, attempts };
    } catch (error) {
      console.error(`${lease.task.id}: the checkpoint ${manifest.slice(0, 12)} can not be used: ${error.message}`);
    }
  }
  return { elapsed_s: 0, attempts: 0 };
}

async function wait(work, state, clock, settings, untilS, save) {
  for (;;) {
    state.elapsed_s = Math.max(state.elapsed_s, performance.now() / 1000 - clock.began);
    if (state.elapsed_s - clock.reported_s >= PROGRESS_S || state.elapsed_s >= untilS) {
      clock.reported_s = state.elapsed_s;
      work.report(Math.floor(state.elapsed_s / STEP_S), untilS > 0 ? Math.min(1, state.elapsed_s / untilS) : 1);
    }
    const reason = work.stop();
    if (reason) {
      await save();
      throw new Stopped(reason);
    }
    if (state.elapsed_s >= untilS) return;
    if (settings.checkpoint_s > 0 && state.elapsed_s - clock.saved_s >= settings.checkpoint_s) await save();
    await sleep(1000 * Math.min(STEP_S, untilS - state.elapsed_s));
  }
}

async function fail(how) {
  if (how === "crash") process.exit(66);
  if (how === "hang") await sleep(3_600_000);
  const said = { retry: "noop was asked to fail this time", reject: "noop was asked to fail for good", memory: "noop was asked to run out of memory" };
  throw new Failed(said[how] ? how : "retry", said[how] ?? "noop was asked to hang, and nobody killed it within an hour");
}

// Bytes that depend on the task only: SHA-256 of its name and a counter.
function payload(name, size) {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at += 32) createHash("sha256").update(`${name} ${at}`).digest().copy(bytes, at);
  return bytes;
}
