"""`bin/agent models`: champions and pushed models; `models pull` takes one out of the mesh, `models push` one in,
`models remove` takes a pushed one's name away, `models lineage` tells a champion's versions and `models rollback` goes
back to one."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from agents.commands import flags, known_models, loop, models_back, models_pull, models_push, output, take_out
from agents.commands.reach import reach_stored
from mesh.errors import NotFound, SettingsInvalid
from mesh.messages.judgement import Champion
from mesh.messages.models import PushedModel

EXAMPLE = """bin/agent models
bin/agent models pull handwritten-digits-3fa1c2 ./digits-model
bin/agent models push ./tiny-bert --name tiny-bert
bin/agent models remove tiny-bert
bin/agent models lineage handwritten-digits-3fa1c2
bin/agent models rollback handwritten-digits-3fa1c2 --to 2 --reason slow"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`pull NAME DIR`, `push DIR`, `remove NAME`, `lineage NODE`, `rollback NODE`, or nothing."""
    parser.add_argument(
        "action", metavar="ACTION", nargs="?", choices=["pull", "push", "remove", "lineage", "rollback"],
        help="pull: write a model's files into a folder; push: take a folder's files in; remove: forget a pushed "
        "model; lineage: a champion's versions; rollback: make an earlier version champion again",
    )  # fmt: skip
    parser.add_argument(
        "name", metavar="NAME", nargs="?",
        help="pull: a specialization, a pushed model, or the first digits of a model's digest; push: the folder; "
        "remove: a pushed model; lineage, rollback: a specialization",
    )  # fmt: skip
    parser.add_argument("folder", metavar="DIR", nargs="?", help="pull: a folder that is empty or not there yet")
    parser.add_argument(
        "--name", metavar="NAME", dest="called", type=flags.name,
        help="push: what the model is called in the mesh (default: the folder's name)",
    )  # fmt: skip
    parser.add_argument(
        "--replace", action="store_true", help="pull: move a folder that holds files aside, to DIR.before"
    )
    parser.add_argument(
        "--to", metavar="VERSION", type=int,
        help="rollback: the version to go back to (default: the newest one with another model)",
    )  # fmt: skip
    parser.add_argument("--reason", metavar="TEXT", help="rollback: why; it stands in the champion's record")
    flags.add_json(parser, "the models, or what was pulled or pushed,")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 when no mesh runs here and none ever did, 6 for an unknown model, 3 for a folder of no use, 5 for one
    that holds no model."""
    output.check_target(given.json)
    _check(given)
    if given.action == "pull":
        take_out.check_folder(Path(given.folder), "models pull", replace=given.replace)
        return loop.run_simply(models_pull.pull(given))
    if given.action == "push":
        return loop.run_simply(models_push.push(given, models_push.look(Path(given.name))))
    one = {"remove": models_push.remove, "lineage": models_back.lineage, "rollback": models_back.rollback}
    return loop.run_simply(one.get(given.action, _list)(given))


def _check(given: argparse.Namespace) -> None:
    """Refuse words and options that belong to the other action."""
    if given.action == "pull" and not (given.name and given.folder):
        raise NotFound("models pull expects a NAME and a DIR; `bin/agent models` lists the names.")
    if given.action == "push" and (not given.name or given.folder):
        raise SettingsInvalid("models push expects one DIR: bin/agent models push DIR --name NAME.")
    if given.action in ("remove", "lineage", "rollback") and (not given.name or given.folder):
        raise SettingsInvalid(f"models {given.action} expects one NAME; `bin/agent models` lists them.")
    if (given.to is not None or given.reason is not None) and given.action != "rollback":
        raise SettingsInvalid("--to and --reason belong to models rollback.")
    if given.called is not None and given.action != "push":
        raise SettingsInvalid("--name belongs to models push; models pull takes the name as its first word.")
    if given.replace and given.action != "pull":
        raise SettingsInvalid("--replace belongs to models pull.")


async def _list(given: argparse.Namespace) -> int:
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        models = await known_models.known(there)
    champions, pushed = models.champions, models.pushed
    if given.json:
        document = {
            "models": [champions[id_] for id_ in sorted(champions)],
            "pushed": [pushed[name] for name in sorted(pushed)],
        }
        output.write_json(given.json, document)
    if given.json != "-":
        output.say(picture(champions))
        if pushed:
            output.say("\n" + pushed_picture(pushed, now_ms=time.time() * 1_000))
    return 0


def picture(champions: Mapping[str, Champion]) -> str:
    """One row per champion."""
    if not champions:
        return "no champion yet."
    rows = [
        (
            id_,
            one.version_number,
            one.line.value,
            one.kpis.get("accuracy"),
            one.kpis.get("loss"),
            output.size(one.kpis["size_bytes"]) if "size_bytes" in one.kpis else None,
            one.model[:12],
            one.topic,
        )
        for id_, one in sorted(champions.items())
    ]
    return output.table(("specialization", "version", "line", "accuracy", "loss", "size", "model", "topic"), rows)


def pushed_picture(pushed: Mapping[str, PushedModel], *, now_ms: float) -> str:
    """One row per pushed model."""
    rows = [
        (
            name,
            one.version_number,
            one.base.format.value,
            one.architecture or None,
            one.parameters,
            output.size(one.base.size_bytes),
            one.model[:12],
            one.base.license or None,
            output.age(max(0.0, (now_ms - one.pushed_at_ms) / 1_000)),
            one.pushed_by,
        )
        for name, one in sorted(pushed.items())
    ]
    headers = ("pushed", "version", "format", "architecture", "parameters", "size", "model", "license", "age", "by")
    return output.table(headers, rows)
