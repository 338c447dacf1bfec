"""The same small GPT by the same steps: a bare loop, our trainer under a worker, and the trainers people use.

    bare loop        PyTorch by hand, as a careful person writes it
    Ramify           the kind `language-model` as a task: a child under a worker, progress and checkpoints on
    the others       Hugging Face's Trainer, Lightning's Trainer, a loop over Fabric; without checkpoints or progress

Ten million parameters, 128 bytes a window, 8 windows a step, one thread, float32; network, text, optimizer, rate and
clipping are the same (benchmarks/peers/small_gpt.py). A step's cost is what passed between the end of the second step
and the end of the last one in the process that trains, divided by the steps: wall time, and processor time of all its
threads. Ours packs checkpoints in a process of its own, which that does not count and the wall time feels.

Everybody runs once a round, each in a fresh process, in an order that turns around every round; ratios are taken within
rounds. The interval beside a ratio is that of its mean, by resampling rounds.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks import gpt
from benchmarks.document import SHARE
from benchmarks.frame import CHECKOUT, Frame, environment
from benchmarks.peers import small_gpt, table
from benchmarks.programs import timed
from benchmarks.resume import mesh
from mesh.errors import ChildBroke, RamifyError
from mesh.messages.base import Facts
from mesh.messages.tasks import Needs, TaskSpec

NAME = "training"
WHY = "What a training step costs under this program, beside a bare loop and the trainers people use."

STEPS, QUICK_STEPS = 60, 5
ROUNDS = 5

TEXT_BYTES, DOCUMENT_BYTES = 1_000_000, 8_192

RUN_S, READY_S = 900.0, 120.0

OURS, BARE = "Ramify", "bare loop"

PEERS = {
    "Hugging Face Trainer": ("hf_trainer", ("transformers", "accelerate", "torch")),
    "Lightning Trainer": ("lightning_trainer", ("lightning", "torch")),
    "Lightning Fabric": ("fabric_loop", ("lightning", "torch")),
}
"""Module, and the distributions that it needs."""

SETTINGS: Facts = {
    "tokenizer": "bytes", "layers": small_gpt.SHAPE.layers, "width": small_gpt.SHAPE.width,
    "heads": small_gpt.SHAPE.heads, "inner": small_gpt.SHAPE.inner, "sequence": small_gpt.SEQUENCE,
    "batch": small_gpt.BATCH, "dropout": 0.0, "learning_rate": small_gpt.RATE, "weight_decay": small_gpt.DECAY,
    "clip": small_gpt.CLIP, "warmup_steps": small_gpt.WARM_UP, "schedule": "linear", "evaluate_every": 10_000_000,
    "validation_bytes_max": 1_000, "sample_tokens": 0, "checkpoint_steps": 20, "checkpoint_s": 86_400.0,
}  # fmt: skip
"""A checkpoint every twenty steps: twice as often as by default on a quiet machine, and as often on a busy one. A
validation stands before the first step and after the last one, outside of what is measured: nobody else has one."""

NEEDS = Needs(cores=1.0, memory_bytes=3 * 1024**3, disk_bytes=1024**3)


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What one step of one run cost."""

    cpu_s: float
    wall_s: float
    loss: float | None = None
    """Running mean at the end."""
    checkpoints: float = 0.0


def run(frame: Frame) -> None:
    """Rounds of everybody, then the figures."""
    python = table.peers_python(frame.peers_python)
    with frame.home() as data:
        windows(data)
        entrants: dict[str, Callable[[], Cost]] = {
            BARE: lambda: alone(frame, data, Path(sys.executable), "bare_loop"),
            OURS: lambda: ours(frame, data),
        }
        for who, (module, packages) in PEERS.items():
            why = "a quick run leaves the peers out" if frame.quick else lacking(python, packages)
            if why:
                frame.skip(who, "processor time per step", "s", why)
            else:
                entrants[who] = _peer(frame, data, python, module)
        found: dict[str, list[Cost]] = {who: [] for who in entrants}
        for number in range(frame.runs(ROUNDS)):
            for who in list(entrants)[:: -1 if number % 2 else 1]:
                frame.say(f"round {number + 1}: {who}")
                _round(frame, found, entrants, who)
    rows(frame, found, python)
    aims(frame, found)


def _peer(frame: Frame, data: Path, python: Path, module: str) -> Callable[[], Cost]:
    return lambda: alone(frame, data, python, module)


def _round(frame: Frame, found: dict[str, list[Cost]], entrants: dict[str, Callable[[], Cost]], who: str) -> None:
    """One run. Who failed is not tried again."""
    if who not in found:
        return
    try:
        cost = entrants[who]()
    except (RamifyError, OSError) as error:
        del found[who]
        frame.fail(who, "processor time per step", "s", str(error))
        return
    found[who].append(cost)
    frame.say(f"{cost.cpu_s:.4f} s of processor, {cost.wall_s:.4f} s a step")


def lacking(python: Path, packages: Sequence[str]) -> str:
    """Why a peer can not be measured with that Python; '' when it can."""
    absent = [name for name in packages if name not in table.versions(python, packages)]
    wanted = "transformers accelerate lightning torch==2.13.0 safetensors"
    return f"{' and '.join(absent)} not installed in {python}: `pip install {wanted}`" if absent else ""


def steps_of(frame: Frame) -> int:
    """Steps of one run."""
    return QUICK_STEPS if frame.quick else STEPS


# -- data -------------------------------------------------------------------------------------------------------------


def windows(folder: Path) -> None:
    """One text, as windows of bytes for the loops, and as a corpus of documents for the task."""
    text = gpt.text()[:TEXT_BYTES]
    places = torch.arange((len(text) - 1) // small_gpt.SEQUENCE)[:, None] * small_gpt.SEQUENCE
    save_file(
        {"tokens": text[places + torch.arange(small_gpt.SEQUENCE + 1)].contiguous()}, folder / "windows.safetensors"
    )
    whole = bytes(text.tolist())
    pieces = [whole[at : at + DOCUMENT_BYTES] for at in range(0, len(whole), DOCUMENT_BYTES)]
    lines = [json.dumps({"text": piece.decode("utf-8", "ignore")}) for piece in pieces]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- runs -------------------------------------------------------------------------------------------------------------


def alone(frame: Frame, data: Path, python: Path, module: str) -> Cost:
    """A loop in a process of its own. ChildBroke when it fails."""
    with frame.home() as home:
        argv = [str(python), "-P", "-m", f"benchmarks.peers.{module}", str(data / "windows.safetensors")]
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        env = {**environment(home), "PYTHONPATH": str(CHECKOUT), **threads, **quiet}
        done = timed([*argv, str(steps_of(frame))], timeout_s=frame.timeout_s(RUN_S), env=env, cwd=home)
    if done.trouble:
        raise ChildBroke(f"{module}: {done.trouble}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return Cost(told["step_cpu_s"], told["step_s"], told["loss"])


def ours(frame: Frame, data: Path) -> Cost:
    """A task on a fresh mesh with one worker."""
    with frame.home() as home:
        return asyncio.run(_ours(frame, home, data))


async def _ours(frame: Frame, home: Path, data: Path) -> Cost:
    async with mesh(home, "w1") as (there, stage, _):
        corpus = await there.store().put(data / "corpus.jsonl", media="corpus")
        settings = {**SETTINGS, "steps_max": steps_of(frame)}
        task = TaskSpec(
            id="train", topic=stage.topic, executor="language-model", settings=settings, inputs={"train": corpus},
            needs=NEEDS, budget_s=RUN_S, wall_s_max=RUN_S,
        )  # fmt: skip
        await stage.submit(task)
        outcome = (await stage.success("train", frame.timeout_s(RUN_S + READY_S))).outcome
    assert outcome is not None
    cost, checkpoints = outcome.facts["cost"], outcome.facts["checkpoints"]
    assert isinstance(cost, dict)
    assert isinstance(checkpoints, dict)
    loss = outcome.facts.get("train_loss")
    told = float(loss) if isinstance(loss, int | float) else None
    return Cost(float(cost["step_cpu_s"]), float(cost["step_s"]), told, float(checkpoints["taken"]))


# -- figures ----------------------------------------------------------------------------------------------------------


def rows(frame: Frame, found: dict[str, list[Cost]], python: Path) -> None:
    """What everybody's steps cost, and how that stands to the bare loop's."""
    remarks = {who: said(python, packages) for who, (_, packages) in PEERS.items()}
    if found.get(OURS):
        taken = statistics.median(cost.checkpoints for cost in found[OURS])
        remarks[OURS] = f"under a worker, with progress and {taken:g} checkpoints a run"
    for who, costs in found.items():
        if not costs:
            continue
        frame.row(who, "processor time per step", [cost.cpu_s for cost in costs], "s", remarks.get(who, ""))
        frame.row(who, "time per step", [cost.wall_s for cost in costs], "s")
        if losses := [cost.loss for cost in costs if cost.loss is not None]:
            frame.row(who, "training loss at the end", losses, SHARE)
    for who in found:
        if who == BARE or not found.get(BARE) or not found[who]:
            continue
        for metric, of in (("processor time", _cpu), ("time", _wall)):
            shares = ratios(found[BARE], found[who], of)
            frame.row(who, f"bare loop's {metric} over its own", shares, SHARE, interval_said(shares))


def said(python: Path, packages: Sequence[str]) -> str:
    """Versions of a peer."""
    return ", ".join(f"{name} {version}" for name, version in table.versions(python, packages).items())


def aims(frame: Frame, found: dict[str, list[Cost]]) -> None:
    """Processor time: others share the machine."""
    mine = found.get(OURS, [])
    frame.at_least("the bare loop's processor time over ours", 0.98, SHARE, ratios(found.get(BARE, []), mine, _cpu))
    for who in ("Hugging Face Trainer", "Lightning Trainer"):
        frame.at_least(f"{who}'s processor time over ours", 1.0, SHARE, ratios(found.get(who, []), mine, _cpu))


def _cpu(cost: Cost) -> float:
    return cost.cpu_s


def _wall(cost: Cost) -> float:
    return cost.wall_s


def ratios(base: Sequence[Cost], own: Sequence[Cost], of: Callable[[Cost], float]) -> list[float]:
    """Quotients round by round; none when a side has no figures."""
    return [of(one) / of(other) for one, other in zip(base, own, strict=False)]


def interval(values: Sequence[float], draws: int = 2_000) -> tuple[float, float]:
    """The middle 95 % of means of resampled values, from a fixed seed."""
    draw = random.Random(len(values))
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(draws))
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]


def interval_said(values: Sequence[float]) -> str:
    """The interval in words; '' where there are too few rounds for one."""
    if len(values) < 3:
        return ""
    low, high = interval(values)
    return f"mean {statistics.fmean(values):.3f}, 95 % interval {low:.3f} to {high:.3f}"
