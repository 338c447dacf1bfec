"""What a model has to be before it is believed, and what its training says of its data. numpy only.

    described   the model's own folder names the kind and the settings that its task asked for
    data        the digest of the rows that its steps took is the one that follows from its task (executors/taken.py)
    gain        its loss on the data that it was given is lower than on data that it never saw

The order of a training's rows follows from the task's id, their number and the batch (executors/data.py). So whoever
has the data can say which rows so many steps took; `consumed` makes a digest of their ids. Where a row is a window over
many documents, the digest is of all documents (`given`): cutting them again would take the tokenizer of that day. It
proves no training: it finds who read another split, or a part of it, before anything has to be trained again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from executors.child import seed_of
from executors.data import Ints, Split, order
from executors.taken import Taken

DIGEST_BYTES = 16
"""128 bits: nobody can find other data of the same digest, and no collector takes it for an artifact's name."""

SAMPLE = 500
"""Examples of the own data on which the loss is taken: a mean of their losses varies by some 2 %."""

CHOSEN_BY_KINDS = frozenset({"linear_path"})
"""Settings that a kind may leave aside for a reason that it says in its facts."""


class Trained(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the mesh knows of the training of a model that is checked."""

    task: str
    """Id: every generator started from it."""
    kind: str
    settings: dict[str, Any] = {}
    """The task's own, as it was planned."""
    data: dict[str, Any] = {}
    """What its result says of the rows that it took; {} where it says nothing."""


def consumed(ids: NDArray[np.uint64], seed: int, batch: int, steps: int) -> str:
    """Digest of the ids that the first `steps` steps took, all of them in the whole epochs, and those of the last one,
    and of what decides their order."""
    epochs, left = divmod(steps, -(-len(ids) // batch))
    begun = order(seed, epochs, len(ids))[: left * batch] if left else np.zeros(0, np.int64)
    found = hashlib.blake2b(f"{seed} {len(ids)} {batch} {steps}".encode(), digest_size=DIGEST_BYTES)
    for part in (ids, ids[begun]):
        found.update(np.sort(part).astype("<u8").tobytes())
    return found.hexdigest()


def given(ids: NDArray[np.uint64], seed: int, batch: int, steps: int) -> str:
    """Digest of all ids, in the order in which they were read, and of what decides which of them so many steps took."""
    found = hashlib.blake2b(f"all {seed} {len(ids)} {batch} {steps}".encode(), digest_size=DIGEST_BYTES)
    found.update(np.ascontiguousarray(ids).astype("<u8").tobytes())
    return found.hexdigest()


def data_of(taken: Taken, seed: int, batch: int, steps: int) -> dict[str, Any]:
    """What a result says of the rows that its training took."""
    digest = _digest(taken, seed, batch, steps)
    return {"digest": digest, "rows": len(taken.ids), "batch": batch, "steps": steps}


def _digest(taken: Taken, seed: int, batch: int, steps: int) -> str:
    return (given if taken.whole else consumed)(taken.ids, seed, batch, steps)


def model_fault(described: Mapping[str, Any], trained: Trained) -> str:
    """Why this model, by what its own folder says, is not what the task asked for; or ''."""
    if described.get("kind") != trained.kind:
        return f"the model is one of {str(described.get('kind'))[:40]!r}, its task trains {trained.kind!r}"
    own = described.get("settings")
    if not isinstance(own, dict):
        return "the model does not say with which settings it was trained"
    for name, asked in trained.settings.items():
        if name not in CHOSEN_BY_KINDS and _plain(own.get(name)) != _plain(asked):
            return f"the model was trained with {name} {str(own.get(name))[:60]}, its task asked for {str(asked)[:60]}"
    return ""


def data_fault(trained: Trained, taken: Taken) -> str:
    """Why the training did not take these rows, by its own word; or ''. taken: what its kind reads of the data that it
    was given."""
    told = trained.data
    if not told:
        return "its result does not say which examples its steps took"
    try:
        rows, batch, steps = (int(told[name]) for name in ("rows", "batch", "steps"))
    except (KeyError, TypeError, ValueError):
        return "what its result says of its data can not be read"
    if rows != len(taken.ids) or not 0 < batch <= 1 << 20 or not 0 <= steps <= 1 << 53:
        return f"its training took {rows} examples, and the data that it was given has {len(taken.ids)}"
    if told.get("digest") != _digest(taken, seed_of(trained.task), batch, steps):
        return "its training took other examples than those that it was given, or in another order"
    return ""


def sample(split: Split, task: str) -> Split:
    """Some examples of the data that a training was given, the same for all who check it."""
    rows = np.sort(order(seed_of(f"{task} sample"), 0, len(split))[:SAMPLE])
    return _some(split, rows)


def _some(split: Split, rows: Ints) -> Split:
    return Split(
        split.schema, split.labels[rows], split.ids[rows], split.clusters[rows],
        texts=[split.texts[row] for row in rows.tolist()] if split.texts else [],
        table=split.table[rows] if len(split.table) else split.table,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """As it comes over the wire: a tuple is a list, a whole float an integer."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
