"""`bin/agent refused`: what workers on this machine were refused, kept a week below `<home>/workers/<name>/refused/`.

A row is refused when the ledger can never record it: the task ended meanwhile, or the lease was lost. Most are
checkpoints of leases that others finished. A finished result is worth a look, and there are two things to do with it:

    hand-in KEY           send it once more, under the next number of its key. While the task is open (say, after
                          `resubmit`) the ledger leases the task to the sender again and records the result there; the
                          worker that runs it by then is told to stop. If the task has ended, the answer says so.
    take-out KEY DIR      write the artifacts that it names into a folder: each output of a result, or the checkpoint.
                          They are in the mesh, because a row is sent after everything that it names.

Neither changes what the mesh has decided: a model gets to be a champion only through a topic of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from agents.commands import flags, loop, output, take_out
from agents.commands.commanding import heard, store
from agents.commands.reach import Reach, found, reach
from mesh import codec
from mesh.errors import EnvironmentUnfit, Malformed, NotFound, Reject, SettingsInvalid
from mesh.messages.base import Key, Record
from mesh.messages.commands import CheckpointMade, ResultFound
from mesh.messages.leases import Receipt
from mesh.messages.services import OwedAnswer, OwedQuestion, Problem
from mesh.refused import RefusedRow, refused_rows
from mesh.setting_tree import Settings

EXAMPLE = """bin/agent refused
bin/agent refused hand-in handwritten-digits-3fa1c20b-evolver/1-2/result/1
bin/agent refused take-out handwritten-digits-3fa1c20b-evolver/1-2/result/1 ./late-result"""

NUMBERS_TRIED = 20
"""Numbers after the row's own that are tried: an earlier handing in may have used some."""

RECEIPT_S = 3.0
"""Patience with the scheduler's word; it comes with the turn that hears the row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """One refused row and the worker here that was told so."""

    worker: str
    row: RefusedRow


def add_flags(parser: argparse.ArgumentParser) -> None:
    """List, or do something with one row."""
    parser.add_argument("action", nargs="?", choices=["hand-in", "take-out"], help="send one again, or take it out")
    parser.add_argument("key", metavar="KEY", nargs="?", help="TASK/EPOCH/KIND/NUMBER, as the list shows it")
    parser.add_argument("folder", metavar="DIR", nargs="?", help="take-out: a folder that is empty or not there yet")
    flags.add_json(parser, "the rows, or what was done,")


def run(given: argparse.Namespace) -> int:
    """The list needs no mesh. 2 without a needed key, 4 without a mesh, 6 for an unknown key, 1 when refused again."""
    if given.action is not None and (not given.key or (given.action == "take-out" and not given.folder)):
        needed = "a KEY and a DIR" if given.action == "take-out" else "a KEY"
        raise SettingsInvalid(f"refused {given.action} expects {needed}; `bin/agent refused` lists the keys.")
    output.check_target(given.json)
    settings = flags.settings_of(given)
    rows = on_this_machine(settings.home)
    if given.action is None:
        return _list(given, rows)
    one = choose(rows, given.key)
    if given.action == "take-out":
        take_out.check_folder(Path(given.folder), "refused take-out")
        return loop.run_simply(_take_out(given, found(settings, flags.selected_of(given)), one))
    return loop.run_simply(_hand_in(given, found(settings, flags.selected_of(given)), one))


def on_this_machine(home: Path) -> list[Refused]:
    """What the workers of this home folder were refused, the newest first."""
    try:
        folders = [path for path in (home / "workers").iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EnvironmentUnfit(f"The folder {home / 'workers'} can not be read ({error.strerror}).") from None
    rows = [Refused(folder.name, row) for folder in folders for row in refused_rows(folder)]
    return sorted(rows, key=lambda one: -one.row.refused_at)


def choose(rows: Sequence[Refused], key: str) -> Refused:
    """The row of a key. NotFound when there is none."""
    for one in rows:
        if one.row.key == key:
            return one
    raise NotFound(f"no refused row here has the key {key!r}; `bin/agent refused` lists them.")


def _list(given: argparse.Namespace, rows: Sequence[Refused]) -> int:
    if given.json:
        output.write_json(given.json, {"refused": [_told(one) for one in rows]})
    if given.json != "-":
        output.say(picture(rows))
    return 0


def _told(one: Refused) -> dict[str, object]:
    row = one.row
    return {"key": row.key, "worker": one.worker, "reason": row.reason, "size_bytes": len(row.data),
            "refused_at_ms": int(row.refused_at * 1_000), "file": str(row.path)}  # fmt: skip


def picture(rows: Sequence[Refused]) -> str:
    """One line per row."""
    if not rows:
        return "no worker of this home folder was refused anything within a week."
    cells = [
        (
            one.row.key,
            one.worker,
            dt.datetime.fromtimestamp(one.row.refused_at, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            output.size(len(one.row.data)),
            one.row.reason,
        )
        for one in rows
    ]
    return output.table(("key", "worker", "refused", "size", "reason"), cells)


# -- with one row -----------------------------------------------------------------------------------------------------


def read(one: Refused) -> ResultFound | CheckpointMade:
    """The row's record. Reject when the file does not hold one."""
    try:
        record: Record = codec.decode(one.row.data, ResultFound, CheckpointMade)
    except Malformed as error:
        raise Reject(f"{one.row.key} is no result and no checkpoint ({error}): it can only be looked at.") from None
    assert isinstance(record, ResultFound | CheckpointMade)
    return record


async def _hand_in(given: argparse.Namespace, settings: Settings, one: Refused) -> int:
    record = read(one)
    if not isinstance(record, ResultFound):
        raise Reject(f"{one.row.key} is a checkpoint of a lease that is over: only results can be handed in.")
    async with reach(settings) as there:
        receipt = await send_again(there, one.worker, record)
    if not receipt.recorded:
        raise Reject(
            f"the mesh refuses it again: {receipt.reason}. If the task is parked, `bin/agent resubmit "
            f"{record.key.task}` opens it; `bin/agent refused take-out {one.row.key} DIR` saves what was made."
        )
    one.row.path.unlink(missing_ok=True)
    if given.json:
        output.write_json(given.json, {"key": one.row.key, "recorded_as": str(receipt.key)})
    if given.json != "-":
        output.say(f"{record.key.task} has succeeded with the result of {one.worker}, recorded as {receipt.key}.")
    return 0


async def send_again(there: Reach, worker: str, record: ResultFound) -> Receipt:
    """Put the result under the next free number of its key; the ledger's word on it."""
    for number in range(record.key.number + 1, record.key.number + 1 + NUMBERS_TRIED):
        key = Key(record.key.task, record.key.epoch, record.key.kind, number)
        receipt = await _receipt(there, key)  # of a task that has ended it is known before anything is sent
        if receipt is None:
            seq = await store(there, there.subjects.owed(worker, key), record.evolve(key=key))
            await heard(there, seq)
            receipt = await _receipt(there, key)
        if receipt is not None:
            return receipt
    raise Reject(f"{record.key} was handed in {NUMBERS_TRIED} times, and the scheduler says nothing about it.")


async def _receipt(there: Reach, key: Key) -> Receipt | None:
    question = codec.encode(OwedQuestion(keys=(key,)))
    subject = there.subjects.ask("scheduler", there.broker.name)
    message = await there.broker.request(subject, question, timeout_s=RECEIPT_S)
    answer = codec.decode(message.data, OwedAnswer, Problem)
    return next(iter(answer.receipts), None) if isinstance(answer, OwedAnswer) else None


async def _take_out(given: argparse.Namespace, settings: Settings, one: Refused) -> int:
    record = read(one)
    named = record.outcome.outputs if isinstance(record, ResultFound) else {"checkpoint": record.manifest}
    if not named:
        raise NotFound(f"{one.row.key} names no artifact: its figures are all there is (`bin/agent refused --json -`).")
    target = Path(given.folder)
    target.mkdir(exist_ok=True)
    async with reach(settings) as there:
        for name, digest in sorted(named.items()):
            await take_out.fetch(there, digest, target / name)
    if given.json:
        output.write_json(given.json, {"key": one.row.key, "folder": str(target.resolve()), "outputs": named})
    if given.json != "-":
        output.say(f"{', '.join(sorted(named))} of {one.row.key} stand in {target}")
    return 0
