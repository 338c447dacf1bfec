"""A model in few bits on disk, and back: docs/executors/quantize.md describes the layout for other programs.

    fold      original folder ── each matrix packed (compact.py) ── model.safetensors, quantization.json, config.json,
                                                                    and every other file as it is
    unfold    the same as a plain folder again: the original's form with rounded numbers, which any program loads
    load      unfold into a temporary folder ── the original's own loader ── dense layers replaced by the fastest way
              to compute them here (kernels.py)

Tables (embeddings, the head, the n-grams of a text classifier) are int8 row by row in every scheme and expanded when
they are loaded: looking a row up costs the same, and the file is small.

Promises: `load` refuses what does not fit its description; the temporary folder is gone when it returns. Not covered:
loading takes the memory and the disk of the expanded model for a moment.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from executors import modelfolder
from executors.modelfolder import CONFIG, CONFIG_BYTES_MAX, FORMAT, INDEX, WEIGHTS
from executors.models import compact, kernels, stored, subjects
from executors.models.compact import Form, Packed
from executors.models.loading import SCRATCH, Respondent, nothing
from executors.models.stored import Stored
from executors.models.subjects import KIND, Subject, tensor_of
from mesh.errors import ArtifactCorrupt, ModelRefused, TaskRefused

LAYOUT, LAYOUT_FORMAT = "quantization.json", 1

DENSE, TABLE = "dense", "table"

NUMBERS_LEAST = 4_096
"""Smaller matrices stay: they weigh nothing."""

GAIN_LEAST = 0.7
"""A matrix that would keep more than this share of its bytes stays."""

BATCHES = (1, 128)
"""Rows for which the fastest way is looked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scheme:
    """What becomes of the dense layers."""

    name: str
    form: Form
    dynamic: bool
    """Activations become int8, row by row, while it computes."""


def scheme_named(name: str, group: int = 64, symmetric: bool = False) -> Scheme:
    """dynamic-int8, int8 or int4. ValueError for another one."""
    if name == "int4":
        return Scheme(name, Form(4, group, symmetric), dynamic=False)
    if name in ("int8", "dynamic-int8"):
        return Scheme(name, compact.INT8, dynamic=name == "dynamic-int8")
    raise ValueError(f"scheme is dynamic-int8, int8 or int4, got {name!r}")


# -- folding ----------------------------------------------------------------------------------------------------------


def fold(
    source: Path, subject: Subject, scheme: Scheme, keep: Sequence[str], into: Path, tick: Callable[[], None] = nothing
) -> dict[str, Any]:
    """Write the model of `source` in few bits into a new folder; what became of each tensor. keep: parts of the names
    of tensors that stay as they are. TaskRefused when nothing could be made smaller."""
    weights = stored.open_model(source)
    dense = {tensor_of(path, weights.places) for path in subject.dense()} - {""}
    told: dict[str, dict[str, Any]] = {}
    kept: dict[str, str] = {}
    plans: dict[str, Form] = {}
    for name, place in weights.places.items():
        role = DENSE if name in dense and not _is_head(name) else TABLE
        form = scheme.form if role == DENSE else compact.INT8
        if why := _why_kept(name, place.dtype, place.shape, form, keep):
            kept[name] = why
        else:
            plans[name] = form
            told[name] = {"role": role}
    if not plans:
        raise TaskRefused(
            f"there is nothing to make smaller: no matrix of the model has {NUMBERS_LEAST} numbers or more beside "
            f"those to be kept ({', '.join(keep) or 'none'}); keep the original"
        )
    packed = {}
    for name, form in plans.items():
        packed[name] = compact.pack(weights.read(name), form)
        told[name] = compact.described(packed[name], told[name]["role"]) | {"was": str(weights.places[name].dtype)[6:]}
        tick()
    parts = {part: one for name, matrix in packed.items() for part, one in matrix.tensors(name).items()}
    _write_folder(source, into, {**parts, **{name: weights.read(name) for name in kept}})
    facts = {
        "format": LAYOUT_FORMAT, "scheme": scheme.name, "group": scheme.form.group,
        "symmetric": scheme.form.symmetric, "activations": "int8 per row" if scheme.dynamic else "as they come",
        "matrices": told, "kept": kept,
    }  # fmt: skip
    (into / LAYOUT).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return facts


def _is_head(name: str) -> bool:
    """Output layers are stored like tables: an error there is an error of the answer, and some are embeddings."""
    return any(part in ("lm_head", "embed_out", "classifier", "score") for part in name.split("."))


def _why_kept(name: str, dtype: torch.dtype, shape: Sequence[int], form: Form, keep: Sequence[str]) -> str:
    """Why a tensor stays as it is; '' when it is packed."""
    if len(shape) != 2 or not dtype.is_floating_point or name.startswith("features."):
        return "no matrix of weights"
    if any(part in name for part in keep):
        return "asked for"
    rows, columns = shape
    if rows * columns < NUMBERS_LEAST:
        return "small"
    scales = rows * (1 if not form.group else -(-columns // form.group)) * (2 if form.symmetric else 3)
    if rows * columns * form.bits / 8 + scales > GAIN_LEAST * rows * columns * dtype.itemsize:
        return "its scales would weigh as much"
    return ""


def _write_folder(source: Path, into: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    into.mkdir(parents=True, exist_ok=False)
    for name in _others(source) if (source / LAYOUT).is_file() else modelfolder.look(source).files:
        weights = name.endswith(".safetensors") and "/" not in name  # those of an encoder inside stay as they are
        if not weights and name not in (INDEX, "README.md", LAYOUT):
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, into / name)
    save_file({name: one.contiguous() for name, one in tensors.items()}, into / WEIGHTS, metadata={"format": "pt"})


def _others(folder: Path) -> list[str]:
    """Files of a quantized folder, which no other part of the program takes for a whole model."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in found if not modelfolder.danger(path)]


def write_config(source: Path, into: Path, facts: Mapping[str, Any]) -> None:
    """config.json: the original's, whose "ramify" part stands under "of" in ours."""
    config = subjects.config_of(source)
    inner = {"format": FORMAT, "kind": KIND, "of": config.get("ramify"), **facts}
    text = json.dumps({**config, "ramify": inner}, indent=1, ensure_ascii=False)
    (into / CONFIG).write_text(text + "\n", encoding="utf-8")


# -- back -------------------------------------------------------------------------------------------------------------


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Packed], Stored]:
    """(layout, matrices by name, all tensors). ArtifactCorrupt when the folder is no model of this layout."""
    path = folder / LAYOUT
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ValueError(f"it has more than {CONFIG_BYTES_MAX} bytes")
        layout = json.loads(path.read_bytes())
        if layout["format"] != LAYOUT_FORMAT:
            raise ValueError(f"format {LAYOUT_FORMAT} is read here, got {str(layout['format'])[:20]}")
        matrices = {str(name): dict(told) for name, told in layout["matrices"].items()}
        weights = Stored([folder / WEIGHTS])
        pieces = {
            name: {part: weights.read(part) for end in ("q", "scale", "zero")
                   if (part := f"{name}.{end}") in weights.places}
            for name in matrices
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ModelRefused) as error:
        raise ArtifactCorrupt(
            f"expected {LAYOUT} and {WEIGHTS} of a quantized model in {folder.name!r}: {str(error)[:160]}"
        ) from None
    return layout, {name: compact.restored(name, told, pieces[name]) for name, told in matrices.items()}, weights


def unfold(folder: Path, into: Path) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Write the model as a plain folder of the original's form, float32; (layout, matrices by name)."""
    layout, packed, weights = read(folder)
    packs = {part for name, matrix in packed.items() for part in matrix.tensors(name)}
    plain = {name: weights.read(name) for name in weights.places if name not in packs}
    _write_folder(folder, into, {**plain, **{name: matrix.expanded() for name, matrix in packed.items()}})
    config = subjects.config_of(folder)
    inner = config.pop("ramify", None)
    if isinstance(inner, dict) and isinstance(inner.get("of"), dict):
        config["ramify"] = inner["of"]
    (into / CONFIG).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    return layout, packed


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A quantized model, ready to be asked."""

    subject: Subject
    ways: dict[str, kernels.Chosen]
    """By shape 'rows x columns' of its dense layers."""
    layers: dict[str, int]
    """Dense layers per way."""


def load(
    folder: Path,
    *,
    way: str = "auto",
    batches: Sequence[int] = BATCHES,
    scratch: Path | None = None,
    tick: Callable[[], None] = nothing,
) -> Loaded:
    """The quantized model in `folder`. way: one of kernels.WAYS for all dense layers, or 'auto': the fastest here for
    batches of so many rows. scratch: where it is unfolded for a moment."""
    below = scratch or SCRATCH.get()
    if below is not None:
        below.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="unfolded-", dir=below))
    try:
        layout, packed = unfold(folder, place / "model")
        tick()
        subject = subjects.opened(place / "model")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    dynamic = layout["scheme"] == "dynamic-int8"
    names = {path: tensor_of(path, packed) for path in subject.dense()}
    ways: dict[str, kernels.Chosen] = {}
    layers: Counter[str] = Counter()
    for path, module in subject.dense().items():
        matrix = packed.get(names[path])
        if matrix is None or layout["matrices"][names[path]]["role"] != DENSE:
            continue
        shape = f"{matrix.rows} x {matrix.columns}"
        if shape not in ways:
            ways[shape] = _chosen(matrix, dynamic, way, [subject.rows * batch for batch in batches], tick)
        layers[ways[shape].way] += 1
        if ways[shape].way != kernels.EXPANDED:
            bias = getattr(module, "bias", None)
            subject.replace(path, kernels.PackedLinear(matrix, bias, ways[shape].way).eval())
    return Loaded(subject, ways, dict(layers))


def _chosen(
    matrix: Packed, dynamic: bool, way: str, batches: Sequence[int], tick: Callable[[], None]
) -> kernels.Chosen:
    if way == "auto":
        return kernels.fastest(matrix, dynamic, batches, tick)
    if way not in kernels.ways_for(matrix, dynamic):
        raise TaskRefused(
            f"a matrix of {matrix.form.bits} bits is computed by {', '.join(kernels.ways_for(matrix, dynamic))}, "
            f"not by {way!r}"
        )
    return kernels.Chosen(way, "asked for", {}, {})


def respondent(folder: Path, base: Path | None) -> Respondent:
    """The quantized model in `folder`, ready to be asked."""
    return load(folder).subject.respondent
