"""From a command line to a published topic: a quick look at the data, its artifact, the topic's record.

A topic's id is `slug-<8 hex>`: readable, and different for every publication. The topic is put if absent, so a publish
that is repeated after a lost answer changes nothing.
"""

from __future__ import annotations

import argparse
import getpass
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agents.commands import flags, published
from agents.commands.reach import Reach
from mesh import codec, limits, traced, tracing
from mesh.errors import BusUnavailable, Conflict, DataRefused, ModelRefused, NotFound, SettingsInvalid
from mesh.messages.models import BaseModel, ModelFormat
from mesh.messages.tasks import OnDisconnect
from mesh.messages.topics import DataRef, Independent, Topic
from planner import bases
from planner.graph import slug

if TYPE_CHECKING:
    from executors.modelfolder import ModelFolder

BUILTIN = "builtin:"

CORPUS_TASK = "language-model"
"""The task of plain text: its folders are not labels."""

ADAPTER_TASK = "lora"
"""The task that puts an adapter on the model of --base."""

BUDGET_S_DEFAULT = 180.0
WAIT_S_DEFAULT = 600.0

PUBLISH_TRIES = 5
"""Attempts to store the topic while the broker is away for a moment."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The options that describe a topic."""
    parser.add_argument("topic", metavar="TOPIC", help="what to train specialists for: a sentence")
    parser.add_argument(
        "--data", metavar="D", help="CSV, TSV, JSON lines or Parquet file, folder of texts, builtin:digits …"
    )
    parser.add_argument("--text", metavar="COLUMN", help="column with the text; else it is inferred")
    parser.add_argument("--label", metavar="COLUMN", help="column with the label; else it is inferred")
    parser.add_argument(
        "--base", metavar="MODEL",
        help="model of the mesh from which the evolver starts, or that --task lora adapts: a name or digest",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", metavar="DIR",
        help="sentence encoder by which the lines read texts: a transformers folder here, or a pushed model's name",
    )  # fmt: skip
    parser.add_argument("--task", metavar="KIND", help="executor kind that trains; else it is inferred from the data")
    parser.add_argument(
        "--budget", metavar="DURATION", type=flags.duration_s, default=BUDGET_S_DEFAULT,
        help="training time per line, for example 5m (default: 3m)",
    )  # fmt: skip
    parser.add_argument(
        "--priority", metavar="N", type=flags.priority, default=5, help="0 (last) to 9 (first); default 5"
    )
    parser.add_argument(
        "--branches", metavar="N", type=flags.branches, default=None,
        help="branches that become specialists of their own: a number, never, or auto (default): the data decide",
    )  # fmt: skip
    parser.add_argument("--specialization", metavar="NODE", type=flags.name, help="node of the graph to put it under")
    parser.add_argument(
        "--kpi", metavar="CONDITION", type=flags.kpi, action="append", default=[],
        help="one more condition of the gate, for example 'accuracy>=0.9'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--independent", choices=[choice.value for choice in Independent], default=Independent.PREFER.value,
        help="must another worker check the results, or is that only preferred (default)",
    )  # fmt: skip
    parser.add_argument(
        "--on-disconnect", choices=[choice.value for choice in OnDisconnect], default=OnDisconnect.REPLACE.value,
        help="what happens to a task whose worker is cut off: another one takes it over at once (default), or it waits",
    )  # fmt: skip
    parser.add_argument(
        "--wait-limit", metavar="DURATION", type=flags.duration_s, default=None,
        help="how long a task waits for a worker that is cut off, with --on-disconnect wait (default: 10m)",
    )  # fmt: skip


def look(given: argparse.Namespace) -> None:
    """Refuse at once what can not become a topic; nothing is started or stored for it."""
    text = given.topic.strip()
    if not text or len(text) > limits.TEXT_CHARS_MAX:
        raise SettingsInvalid(
            f"a topic is a sentence of 1 to {limits.TEXT_CHARS_MAX} characters, got {len(text)}; "
            'for example: bin/agent run "handwritten digits" --data builtin:digits'
        )
    if not 1 <= given.budget <= 30 * 86_400:
        raise SettingsInvalid(f"--budget is 1 second to 30 days per line, got {given.budget:g} s.")
    if given.task == ADAPTER_TASK and given.base is None:
        raise SettingsInvalid(
            "--task lora adapts a model: push a transformers folder with `bin/agent models push DIR`, then name it "
            "with --base."
        )
    if given.wait_limit is not None and given.on_disconnect != OnDisconnect.WAIT:
        raise SettingsInvalid("--wait-limit says how long a task waits: it needs --on-disconnect wait.")
    if given.wait_limit is not None and not 0 <= given.wait_limit <= 30 * 86_400:
        raise SettingsInvalid(f"--wait-limit is at most 30 days, got {given.wait_limit:g} s.")
    if given.encoder is not None and Path(given.encoder).expanduser().is_dir():
        look_at_encoder(Path(given.encoder).expanduser())
    if given.data is None:
        return
    if not given.data.strip():
        raise DataRefused(
            "--data expects a file, a folder or builtin:NAME, and it is empty: check the shell's variable."
        )
    from executors.datasets import look as looking  # after the parser: a mistyped option answers faster

    if given.data.startswith(BUILTIN):
        name = given.data.removeprefix(BUILTIN)
        if name not in looking.BUILTINS:
            known = ", ".join(BUILTIN + one for one in looking.BUILTINS)
            raise DataRefused(f"there is no built-in dataset {given.data!r}; the built-ins are {known}.")
        return
    looking.quick_look(Path(given.data).expanduser(), corpus=given.task == CORPUS_TASK)


async def check_streams(reach: Reach) -> None:
    """NotFound with a sentence where no scheduler ever made the streams: nothing is stored for a mesh that is none."""
    try:
        await reach.broker.state(reach.stream("TOPICS"))
    except NotFound:
        raise NotFound(
            f"the broker at {reach.where} knows no mesh {reach.subjects.prefix!r}: start one there with "
            "`bin/agent up --server …`, or check --server and --prefix."
        ) from None


async def store_data(reach: Reach, data: str | None, say: Callable[[str], None]) -> DataRef | None:
    """Make the dataset available to every worker: as an artifact, or named by a scheme that all can resolve."""
    if data is None:
        return None
    if data.startswith(BUILTIN):
        return DataRef(source=data, name=data.removeprefix(BUILTIN))
    from agents.commands import store_use

    path = Path(data).expanduser().resolve()
    await store_use.check_home(reach)
    store = reach.store()
    try:
        digest = await store.put(path, media="dataset", facts={"name": path.name})
        manifest = await store.manifest(digest)
    except OSError as error:
        raise DataRefused(f"{data!r} can not be read ({error.strerror or error}): check its permissions.") from None
    say(f"stored {path.name} ({manifest.size_bytes:,} bytes) as {digest[:12]}")
    return DataRef(source=digest, name=path.name, size_bytes=manifest.size_bytes)


async def base_of(reach: Reach, name: str | None, task: str | None = None) -> BaseModel | None:
    """The base model that the topic names. NotFound when the mesh has none of that name or no longer stores it,
    ModelRefused when it can not be the base of a topic with this task."""
    if name is None:
        return None
    from agents.commands import known_models

    try:
        found = await known_models.base_of(reach, name)
    except NotFound as error:
        if Path(name).expanduser().is_dir():
            raise NotFound(
                f"--base names a model of the mesh, and {name!r} is a folder here: take it in with "
                f"`bin/agent models push {name}`, then name it as that command says."
            ) from None
        raise NotFound(f"--base: {error}") from None
    await known_models.check_there(reach, found.model)
    if why := bases.why_never(found, task):
        raise ModelRefused(f"--base {name}: {why}")
    return found


def look_at_encoder(folder: Path) -> ModelFolder:
    """What the folder of an encoder holds. ModelRefused with a sentence when it is none."""
    from executors import modelfolder

    found = modelfolder.look(folder)
    if found.format is not ModelFormat.TRANSFORMERS:
        raise ModelRefused(f"--encoder is a transformers folder, and {str(folder)!r} holds a {found.format.value}.")
    return found


async def encoder_of(reach: Reach, name: str | None, say: Callable[[str], None]) -> DataRef | None:
    """The encoder that the topic names, stored as an artifact when it is a folder. ModelRefused, NotFound."""
    if name is None:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from agents.commands import known_models

        try:
            pushed = await known_models.base_of(reach, name)
        except NotFound as error:
            raise NotFound(f"--encoder names a folder or a pushed model: {error}") from None
        if pushed.format is not ModelFormat.TRANSFORMERS:
            raise ModelRefused(f"--encoder is a transformers model, and {name!r} is a {pushed.format.value}.")
        await known_models.check_there(reach, pushed.model)
        return DataRef(source=pushed.model, name=name, size_bytes=pushed.size_bytes)
    from agents.commands import store_use

    found = look_at_encoder(folder)
    await store_use.check_home(reach)
    facts = {"format": found.format.value, "architecture": found.architecture}
    digest = await reach.store().put(folder, media="model", facts=facts, only=found.files)
    say(f"stored the encoder {folder.name} ({found.size_bytes:,} bytes) as {digest[:12]}")
    return DataRef(source=digest, name=folder.name, size_bytes=found.size_bytes)


def topic_of(
    given: argparse.Namespace,
    data: DataRef | None,
    base: BaseModel | None = None,
    encoder: DataRef | None = None,
) -> Topic:
    """The topic's record, under a fresh id, in the caller's trace or a new one."""
    return Topic(
        id=f"{slug(given.topic)}-{secrets.token_hex(4)}",
        text=given.topic.strip(),
        data=data,
        text_column=given.text,
        label_column=given.label,
        task=given.task,
        node=given.specialization,
        kpis=tuple(given.kpi),
        budget_s=given.budget,
        priority=given.priority,
        independent=Independent(given.independent),
        on_disconnect=OnDisconnect(given.on_disconnect),
        wait_s=WAIT_S_DEFAULT if given.wait_limit is None else given.wait_limit,
        publisher=publisher(),
        published_at_ms=int(time.time() * 1_000),
        base=base,
        encoder=encoder,
        branches=given.branches,
        trace=tracing.from_environment().parent,
    )


def publisher() -> str:
    """Who publishes, for people: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"[:120]


async def publish(reach: Reach, topic: Topic, data: str | None = None) -> int:
    """Store the topic; the result stream's sequence from which its records come. data: where its data were read."""
    own = topic.data is not None and not topic.data.source.startswith(BUILTIN)
    published.keep(reach.settings, topic, str(Path(data).expanduser().resolve()) if data and own else "")
    state = await reach.broker.state(reach.stream("RESULTS"))
    for tried in range(1, PUBLISH_TRIES + 1):
        try:
            with tracing.within(traced.of(topic)):
                await reach.broker.append(reach.subjects.topic(topic.id), codec.encode(topic), subject_seq=0)
        except Conflict:
            break  # an earlier attempt was stored, its answer was lost
        except BusUnavailable:
            if tried == PUBLISH_TRIES:
                raise
        else:
            break
    return state.last_seq + 1
