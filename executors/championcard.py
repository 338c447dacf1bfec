"""The card of a champion that leaves the mesh: what the holdout said, where it comes from, how to load it.

It takes the place of the card that training wrote, which knew validation only. For a model in the form of another
library the text of its own card is kept below. Everything stands here as plain values: who asks has read it from the
mesh, and whatever the mesh has forgotten is left out, never guessed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from executors import modelcard, treecard
from executors.modelcard import block, code, joined, plain, table

LINEAGE_SHOWN_MAX = 20
"""Champions before this one that are listed, the newest first."""

LOADER = Path(__file__).resolve().parents[1] / "docs" / "load_model.py"
"""The loader without this program; a test compares its answers with the program's."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
"""What a model hub takes as the name of a dataset."""

MEASURES = (
    ("accuracy", "accuracy", "share of right answers"),
    ("loss", "loss", "nats per example"),
    ("latency_p50_ms", "latency p50", "ms for one answer"),
    ("latency_p95_ms", "latency p95", "ms for one answer"),
    ("size_bytes", "size", "bytes"),
)
"""KPI, its name in the card, its unit."""

TREE = "tree"
"""Kind of a model that consists of several."""

USE = """With Ramify: `bin/agent models push DIR` takes this folder into a mesh, and
`bin/agent run TOPIC --data D --base NAME` goes on from it.

Without it, torch and safetensors are enough: save the program below as `load_model.py`.

```python
from load_model import Classifier

model = Classifier("this/folder")
model.predict(inputs)        # texts, or rows of numbers: the likeliest label of each
model.probabilities(inputs)  # a tensor [inputs, labels]
```

transformers' `AutoModel` does not know this architecture and can not load it; any program that reads safetensors reads
the tensors."""


ADAPTER_USE = """This is an adapter: only together with the model that it adapts, in `{below}/`, does it answer.

With Ramify: `bin/agent task evaluate --input model=DIR --input base=DIR/{below} --input split=SPLIT --out OUT`.

Without it, by transformers and peft; a classifier's labels stand in `ramify.json` in their order:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM  # for labels: AutoModelForSequenceClassification, num_labels=…

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("this/folder/{below}"), "this/folder")
```"""


@dataclasses.dataclass(frozen=True, slots=True)
class Ancestor:
    """One earlier champion of the same specialization."""

    version_number: int
    model: str
    line: str
    changed: str


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """What the mesh knows of a champion. Empty: it does not know."""

    specialization: str
    digest: str
    version_number: int
    line: str
    name: str = ""
    changed: str = ""
    topic: str = ""
    """Id of the topic that made it champion."""
    text: str = ""
    """That topic's sentence."""
    data: str = ""
    """The dataset's name."""
    kpis: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """As the holdout gave them."""
    holdout: str = ""
    holdout_examples: int = 0
    holdout_uses: int = 1
    why: str = ""
    """The verdict's sentence."""
    evidence: str = ""
    """How much of its claims was reproduced, a sentence."""
    base: str = ""
    """Name and digest of the base model from which its topic started."""
    license: str = ""
    """That base model's."""
    lineage: Sequence[Ancestor] = ()
    """Earlier versions, newest first."""
    below: str = ""
    """Of an adapter: the folder in its own that holds the model that it adapts."""


def champion_card(config: Mapping[str, Any] | None, told: Told, stored: str) -> str:
    """config: the "ramify" part of config.json, None for the form of another library; stored: the card beside the
    model, '' for none."""
    title = f"# {plain(told.text or told.name or told.specialization)}"
    if config is None:
        own = ["`from_pretrained` of transformers, or of peft for an adapter, loads this folder as it is."]
        own = [ADAPTER_USE.format(below=told.below)] if told.below else own
        body = _body(stored)
        end = ["## Its card before", body] if body else []
    elif config["kind"] == TREE:
        own, end = [treecard.USE], treecard.by_branch(config.get("made") or {})
    else:
        own = [USE, _loader()]
        end = [*modelcard.how_trained(config), "## Files and limits", modelcard.LIMITS]
    return joined(
        block(_metadata(config, told, stored)),
        title,
        f"Champion of the specialization {code(told.specialization)}, version {told.version_number}, of the "
        f"{told.line} line.\nArtifact `{told.digest}`.",
        plain(told.why) + "." if told.why else "",
        *_what_it_is(config),
        "## Measured",
        *_measured(told),
        "## Where it comes from",
        *_origin(told),
        "## How to load it",
        *own,
        *end,
    )


def _what_it_is(config: Mapping[str, Any] | None) -> list[str]:
    if config is None:
        return []
    return treecard.what_it_is(config) if config["kind"] == TREE else modelcard.what_it_is(config)


# -- metadata ---------------------------------------------------------------------------------------------------------


def _metadata(config: Mapping[str, Any] | None, told: Told, stored: str) -> list[str]:
    lines = _kept(stored) if config is None else modelcard.own_metadata(config)
    task = modelcard.task_of(config) if config is not None else "other"
    if told.license and not any(line.startswith("license:") for line in lines):
        lines.append(f"license: {json.dumps(told.license)}")
    if HUB_NAME.match(told.data):
        lines += ["datasets:", f"- {json.dumps(told.data)}"]
    tags = ["ramify", told.specialization, *([str(config["architecture"])] if config is not None else [])]
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags))]
    measured = {name: told.kpis[name] for name in ("accuracy", "loss") if name in told.kpis}
    if "accuracy" in measured:
        lines += ["metrics:", "- accuracy"]
    dataset = plain(f"{told.data or told.text or told.specialization}, holdout")
    return lines + modelcard.model_index(told.specialization, task, dataset, "holdout", measured)


def _kept(stored: str) -> list[str]:
    """Pairs of one line each in the card before (licence, language, base_model …); lists are written anew."""
    found = re.match(r"---\r?\n(.*?)\r?\n---\s", stored, re.DOTALL)
    lines = found[1].splitlines() if found else []
    pairs = [line for line in lines if re.match(r"[A-Za-z_-]+: *[^\s|>&*!{\[]", line)]
    return [line for line in pairs if not line.startswith(("datasets:", "metrics:", "tags:", "model-index:"))]


def _body(stored: str) -> str:
    return re.sub(r"\A---\r?\n.*?\r?\n---\s", "", stored, count=1, flags=re.DOTALL).strip()


# -- text -------------------------------------------------------------------------------------------------------------


def _measured(told: Told) -> list[str]:
    rows = [(words, f"{told.kpis[name]:.6g}", unit) for name, words, unit in MEASURES if name in told.kpis]
    if not rows:
        return ["The mesh no longer knows what was measured."]
    count = f"{told.holdout_examples:,} examples" if told.holdout_examples else "examples"
    met = f"{told.holdout_uses} challengers met on it so far" if told.holdout_uses > 1 else "The lines met on it"
    said = (
        f"On the holdout, {count} that no training task was given (split {code(told.holdout[:12])}). "
        f"{met}; of several, the one that wins is flattered a little."
    )
    return [said, table(("measure", "value", "unit"), rows), told.evidence]


def _origin(told: Told) -> list[str]:
    topic = f"Topic {code(told.topic)}" + (f": {plain(told.text)}." if told.text else ".")
    parts = [topic + (f" Data: {code(told.data)}." if told.data else "")]
    if told.changed:
        parts.append(f"This version: {plain(told.changed)}.")
    if told.base:
        licensed = f", licence {plain(told.license)}" if told.license else ""
        parts.append(f"Base model: {plain(told.base)}{licensed}.")
    rows = [
        (f"{one.version_number}", code(one.model[:12]), one.line, plain(one.changed))
        for one in told.lineage[:LINEAGE_SHOWN_MAX]
    ]
    if rows:
        parts += ["Before it:", table(("version", "model", "line", "what was changed"), rows)]
    return parts


def _loader() -> str:
    """The loader's source, folded; '' where this program runs without its documentation."""
    if not LOADER.is_file():
        return ""
    source = LOADER.read_text("utf-8").rstrip()
    return f"<details><summary>load_model.py</summary>\n\n```python\n{source}\n```\n\n</details>"
