"""Profile: what is this dataset? Reads it, chooses label and input, writes the four splits, and says what the next
tasks need. Plain text without labels is a corpus for a language model: documents, split by what they come from.

In:    `data`: a file, a folder, or `builtin:NAME`
Out:   `train`, `validation`, `holdout`, `audit` (media "split" or "corpus"), and facts for the planner
       (planner/profile.py)
Loses: nothing: it is short, keeps no checkpoint and starts over; the same data gives the same bytes
Not:   decides nothing about specializations or branches
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from executors import port, room
from executors.port import Context, Job, Made, Runtime, Stopped
from mesh.errors import DataRefused, TaskRefused
from mesh.messages.tasks import Needs

if TYPE_CHECKING:
    from executors.datasets.columns import Choice
    from executors.datasets.examples import Array, Examples
    from executors.datasets.table import Table

DEFAULT_SALT = "ramify"

CORPUS_TASK = "language-model"
"""The task of plain text."""

ADAPTER_TASK = "lora"
"""The task of any texts whose publisher wants an adapter to a model of his."""

LABEL_NAMES_MAX = 100
"""Label names in the facts; their number and digest tell the rest."""

KINDS_AFTER = {
    "classify": ("classify", "baseline", "evaluate"),
    "language-model": ("language-model", "evaluate"),
    "lora": ("lora", "baseline", "evaluate"),
}
"""By task: kinds whose needs are estimated from the data."""

_READING, _MAKING = 0.6, 0.9
"""Shares of the work that are done after reading and after making examples."""


class ProfileSettings(port.Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user said about the data; '' is to be inferred."""

    name: str = ""
    """The file's own name: its suffix tells the format."""
    text_column: str = ""
    """One column, or several with commas between them."""
    label_column: str = ""
    task: str = ""
    salt: str = DEFAULT_SALT
    """Part of what decides the split of an example: another salt gives other splits."""

    def __post_init__(self) -> None:
        if not self.salt or len(self.salt) > 100:
            raise ValueError("a salt has 1 to 100 characters")


class Profile:
    """The kind `profile`."""

    name: ClassVar[str] = "profile"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.SCIENCE
    inputs: ClassVar[port.Inputs | None] = port.Inputs(("data",))
    Settings: ClassVar[type[port.Settings]] = ProfileSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """facts: `bytes` of the dataset. A CSV of short numbers takes up to five times its size, texts two to three."""
        size = int(facts.get("bytes", 0))
        return Needs(cores=1.0, memory_bytes=300 * 1024 * 1024 + 5 * size, disk_bytes=64 * 1024 * 1024 + 2 * size)

    def run(self, job: Job, context: Context) -> Made:
        """Read, choose, split, write. DataRefused with one sentence when the data can not be used."""
        from executors.datasets import documents, examples, splits

        settings: ProfileSettings = job.settings
        if "data" not in job.inputs:
            raise TaskRefused("a profile needs the input 'data': a file, a folder, or builtin:NAME")
        report = _Report(context)
        unsaid = not _form(settings) and not settings.label_column
        if settings.task == CORPUS_TASK or (unsaid and documents.fits(job.inputs["data"], settings.name)):
            return _corpus(job, context, report)
        chosen = _chosen(job, report)
        if chosen is None:
            return _corpus(job, context, report)
        table, choice = chosen
        made = examples.make(table, choice, settings.salt, report.within("examples", _READING, _MAKING))
        split = splits.assign(made)
        rows = {name: (split == index).nonzero()[0] for index, name in enumerate(splits.SPLITS)}
        facts = {**_facts(table, choice, made, rows), "task": settings.task or "classify"}
        table.columns.clear()  # the table is no longer needed, and writing needs the memory
        encoding = splits.Encoding(made, rows["train"]) if choice.modality == "tabular" else None
        facts["features"] = len(encoding.features) if encoding else 0
        facts["features_digest"] = _digest(encoding.features) if encoding else ""
        facts["needs"] = needs_of_kinds(facts)
        outputs = {}
        reported = report.within("splits", _MAKING, 1.0)
        for index, name in enumerate(splits.SPLITS):
            reported(index / len(splits.SPLITS))
            outputs[name] = job.scratch / name
            if outputs[name].exists():
                shutil.rmtree(outputs[name])
            write = functools.partial(
                splits.write, examples=made, rows=rows[name], split=name, salt=settings.salt, encoding=encoding,
                text_columns=facts["text_columns"],
            )  # fmt: skip
            room.written(context, outputs[name], write, step=index)
        media = dict.fromkeys(outputs, "split")
        facts_of = {
            name: {"split": name, "examples": facts["splits"][name], "modality": choice.modality} for name in outputs
        }
        return Made(outputs=outputs, media=media, facts_of=facts_of, kpis={"examples": float(len(made))}, facts=facts)


def _chosen(job: Job, report: _Report) -> tuple[Table, Choice] | None:
    """The table and its columns; None where it is a corpus: texts under a name that says so, and no label among the
    columns, nor one that was asked for."""
    from executors.datasets import columns, documents, reading

    settings: ProfileSettings = job.settings
    table = reading.read(job.inputs["data"], settings.name, report.within("reading", 0.0, _READING))
    try:
        choice = columns.choose(
            table, text_wanted=settings.text_column, label_wanted=settings.label_column, task=_form(settings)
        )
        columns.check_label(choice.label, table.rows)
    except DataRefused:
        if _form(settings) or settings.label_column or not documents.unlabelled(table):
            raise
        return None
    if settings.task == ADAPTER_TASK and choice.modality != "text":
        raise DataRefused("an adapter reads texts, and this data is a table of numbers: leave out --task lora.")
    return table, choice


def _form(settings: ProfileSettings) -> str:
    """The task as far as it says what the data is: an adapter takes texts with labels, and without."""
    return "" if settings.task == ADAPTER_TASK else settings.task


def _corpus(job: Job, context: Context, report: _Report) -> Made:
    """Plain text: cut into documents, split by their sources, written as corpora."""
    from executors.datasets import corpora, documents

    settings: ProfileSettings = job.settings
    reading = report.within("reading", 0.0, _MAKING)
    found = documents.read(job.inputs["data"], settings.name, settings.salt, reading, column=settings.text_column)
    rows = corpora.rows_of(found)
    facts = corpora.facts(found, rows)
    facts["task"] = settings.task or CORPUS_TASK
    facts["needs"] = needs_of_kinds(facts)
    outputs, reported = {}, report.within("splits", _MAKING, 1.0)
    for step, (name, of) in enumerate(rows.items()):
        reported(step / len(rows))
        outputs[name] = job.scratch / name
        if outputs[name].exists():
            shutil.rmtree(outputs[name])
        room.written(
            context, outputs[name], functools.partial(corpora.write, documents=found, rows=of), step=step
        )  # fmt: skip
    media = dict.fromkeys(outputs, "corpus")
    facts_of = {name: {"split": name, "examples": facts["splits"][name], "modality": "corpus"} for name in outputs}
    kpis = {"examples": float(facts["examples"])}
    return Made(outputs=outputs, media=media, facts_of=facts_of, kpis=kpis, facts=facts)


class _Report:
    """Progress of the whole from the progress of its parts; stops when asked to."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._step = 0

    def within(self, phase: str, start: float, end: float) -> Any:
        """A callable that takes the share of this part (0 to 1)."""

        def report(share: float) -> None:
            if reason := self._context.stop_requested():
                raise Stopped(reason)
            self._step += 1
            self._context.progress(self._step, start + (end - start) * share, {}, phase)

        return report


def _digest(names: Sequence[str]) -> str:
    """Identity of a list of names."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _facts(table: Table, choice: Choice, made: Examples, rows: dict[str, Array]) -> dict[str, Any]:
    import numpy as np

    from executors.datasets import bounds
    from executors.datasets.keywords import keywords

    counts = np.bincount(made.y, minlength=len(made.labels))
    repeated, conflicting = _duplicates(made)
    warnings = [*table.warnings, *choice.warnings, *made.warnings, *_warnings(made, rows, counts, conflicting)]
    return {
        "task": "classify",
        "modality": choice.modality,
        "rows": table.rows,
        "examples": len(made),
        "labels": len(made.labels),
        "label_names": made.labels[:LABEL_NAMES_MAX],
        "label_digest": _digest(sorted(made.labels)),
        "text_columns": [column.name[:100] for column in choice.texts][:20],
        "label_column": choice.label.name[:100],
        "splits": {name: len(of) for name, of in rows.items()},
        "duplicates": repeated,
        "conflicting": conflicting,
        "dropped": {**table.dropped, **made.dropped},
        "imbalance": round(float(counts.max() / counts.min()), 3),
        "warnings": [text[:400] for text in warnings[: bounds.WARNINGS_MAX]],
        "keywords": [word[:40] for word in keywords(made, rows["train"])],
        "bytes": table.bytes_read,
    }


def _duplicates(made: Examples) -> tuple[int, int]:
    """(examples whose input occurred before, inputs that carry more than one label)."""
    import numpy as np

    inputs, group = np.unique(made.ids, return_inverse=True)
    labels_of = np.bincount(np.unique(np.stack([group, made.y]), axis=1)[0], minlength=len(inputs))
    return len(made) - len(inputs), int((labels_of > 1).sum())


def _warnings(made: Examples, rows: dict[str, Array], counts: Array, conflicting: int) -> list[str]:
    import numpy as np

    from executors.datasets.splits import HOLDOUT_FEW

    found: list[str] = []
    if conflicting:
        found.append(f"{conflicting} inputs occur with more than one label; no model can get all of them right")
    in_train = np.bincount(made.y[rows["train"]], minlength=len(made.labels))
    if (few := in_train < 2).any():
        shown = ", ".join(repr(made.labels[int(index)][:40]) for index in np.flatnonzero(few)[:5])
        found.append(f"{int(few.sum())} labels have fewer than 2 examples in train and can hardly be learned: {shown}")
    if counts.max() >= 10 * counts.min() and counts.max() > 0.5 * len(made):
        share = 100 * counts.max() / len(made)
        found.append(
            f"{share:.0f} % of the examples have the label {made.labels[int(counts.argmax())][:40]!r}: the labels "
            "are unbalanced"
        )
    if len(rows["holdout"]) < HOLDOUT_FEW:
        found.append(
            f"the holdout has {len(rows['holdout'])} examples only: differences between models will be hard to prove"
        )
    folded = {label.casefold() for label in made.labels}
    if len(folded) < len(made.labels):
        found.append("some labels differ in upper and lower case only; they count as different labels")
    return found


def needs_of_kinds(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the tasks after this one take on this data (cores, memory, disk): each kind's own estimate, with its default
    settings. The one place where a profile and the kinds meet; a kind that is not installed here is left out."""
    from executors import kinds

    found = {name: kinds.needs_of(name, {}, facts) for name in KINDS_AFTER[facts.get("task", "classify")]}
    return {name: msgspec.to_builtins(needs) for name, needs in found.items() if needs is not None}
