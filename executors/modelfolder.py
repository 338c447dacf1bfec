"""What a folder with a model holds, told without loading it: which files may travel, and what the model is.

    config.json with "ramify"         a classifier of this program        + model.safetensors
    config.json                       a transformers model                + model.safetensors, or shards and their index
    adapter_config.json               a peft adapter                      + adapter_model.safetensors
    config.json with a tree's part    several models under a router       + router/, members/…, flat/, each one whole

Nothing is unpickled and nothing is run. Weights travel as safetensors only, and each file's header is checked against
its length; configs, tokenizers, cards and licences travel as the text that they are. Pickles are left out, and refused
when the weights stand in them alone; code is left out always: no code travels. What is left out is said, with a reason.
Links are followed inside the folder, and to the blobs beside it as the cache of a model hub lays them.

Not covered: whether the numbers are finite and of the right shapes; whoever loads the model sees that.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from executors import tensorfile
from executors.tensorfile import Tensor
from mesh import limits
from mesh.errors import ModelRefused
from mesh.messages.models import LABEL_NAMES_MAX, ModelFormat

FORMAT = 2
"""Form of a Ramify model's config.json; rises when an older program would misread a newer model."""

FORM_WHOLE = "transformers"
"""What the "ramify" part of a config says as its `form` when transformers loads the folder as it is."""

CONFIG_BYTES_MAX = 8 * 1024 * 1024
"""Labels and column names make a config large; 8 MiB are some 40,000 of them."""

TEXT_BYTES_MAX = 256 * 1024 * 1024
"""Largest file that is no weights: a tokenizer of a million entries has some 40 MB."""

LABEL_NAMES_CHARS_MAX = 16_000
"""Letters of the label names that travel with a topic."""

DEPTH_MAX = 12
"""Folders inside each other: sentence encoders keep the config of each step in one of its own, a tree's models may be
trees."""

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WEIGHTS, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"

TEXTS = frozenset({".json", ".txt", ".md", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".vocab"})
NAMES = ("license", "licence", "notice", "copying", "use_policy")
"""Beginnings of the names of files that say what may be done with the model."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".p"})
CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".bat", ".ps1", ".js", ".ipynb", ".exe"})
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY", b"\x7fELF")
"""How a pickle, a zip file (torch's form of one), an array file and a program begin, whatever they are called."""

CONTINUED_BY = {"classify": "classify", "baseline": "classify"}
"""Kind that made a Ramify model to the kind that goes on training it."""

CONVERT = (
    "convert it where you trust it, for loading a pickle runs its code: transformers' "
    "from_pretrained(DIR).save_pretrained(NEW), and the tokenizer's likewise, write safetensors"
)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFolder:
    """What was found."""

    format: ModelFormat
    files: tuple[str, ...]
    """Paths below the folder that travel, sorted, with '/'."""
    left_out: tuple[tuple[str, str], ...]
    """(path, why) of the others; what is hidden is not listed."""
    size_bytes: int
    parameters: int
    architecture: str
    adapts: str = ""
    """Of an adapter: the model that it names as its base."""
    task: str = ""
    modality: str = ""
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    license: str = ""
    notes: tuple[str, ...] = ()
    """Sentences for who pushes it."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The first labels, as many as travel with a topic."""
        kept: list[str] = []
        room = LABEL_NAMES_CHARS_MAX
        for label in self.labels[:LABEL_NAMES_MAX]:
            room -= len(label)
            if room < 0:
                break
            kept.append(label)
        return tuple(kept)


def look(folder: Path) -> ModelFolder:
    """What stands in `folder`. ModelRefused with a sentence when it holds no model that may travel."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelRefused(f"a model is a folder, and {str(folder)!r} {what}: name the folder that holds config.json.")
    try:
        kept, left_out = _sorted_out(folder)
    except OSError as error:
        raise ModelRefused(f"{str(folder)!r} can not be read ({error.strerror}): check its permissions.") from None
    if ADAPTER_CONFIG in kept and not {WEIGHTS, INDEX} & kept.keys():
        return _adapter(folder, kept, left_out)
    if CONFIG not in kept:
        raise ModelRefused(
            f"{str(folder)!r} holds no {CONFIG} and no {ADAPTER_CONFIG}: name a folder as transformers or peft "
            "save it, or one that `bin/agent models pull` wrote."
        )
    config = _json(folder / CONFIG, CONFIG_BYTES_MAX)
    if "ramify" in config and not (isinstance(config["ramify"], dict) and config["ramify"].get("form") == FORM_WHOLE):
        return _ramify(folder, kept, left_out, config)
    return _transformers(folder, kept, left_out, config)


# -- the files --------------------------------------------------------------------------------------------------------


def _sorted_out(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """(path inside the folder to file) of what may travel, and (path to why not) of the rest."""
    kept: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for name, file in sorted(_walk(folder)):
        if why := _why_not(folder, name, file):
            left_out[name] = why
        else:
            kept[name] = file
        if len(kept) + len(left_out) > limits.ARTIFACT_FILES_MAX:
            raise ModelRefused(f"{str(folder)!r} holds more than {limits.ARTIFACT_FILES_MAX} files: it is no model.")
    return kept, left_out


def _walk(folder: Path, above: str = "") -> Iterator[tuple[str, Path]]:
    """Files below a folder; hidden ones and training checkpoints beside the model are passed over."""
    for entry in os.scandir(folder):
        name = f"{above}{entry.name}"
        if entry.name.startswith((".", "__pycache__", "checkpoint-")):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield name, Path(entry.path)
        elif name.count("/") < DEPTH_MAX:
            yield from _walk(Path(entry.path), name + "/")


def _why_not(folder: Path, name: str, file: Path) -> str:
    """Why a file does not travel; '' when it does."""
    suffix, plain = file.suffix.lower(), file.name.lower()
    if file.is_symlink() and not _inside(folder, file):
        return "a link to a file elsewhere"
    if not file.is_file():
        return "no regular file"
    if why := danger(file):
        return why
    if suffix == ".safetensors":
        return ""
    if suffix not in TEXTS and not plain.startswith(NAMES):
        return "no file that loading a model needs"
    if file.stat().st_size > TEXT_BYTES_MAX:
        return f"larger than {TEXT_BYTES_MAX // 2**20} MiB, and no weights"
    return ""


def danger(file: Path) -> str:
    """Why a file of a model travels neither in nor out, for it could run somewhere; '' when it is only data."""
    suffix = file.suffix.lower()
    if suffix in PICKLES:
        return "a pickle or the like: loading it could run code"
    if suffix in CODE:
        return "code: no code travels"
    with file.open("rb") as opened:
        start = opened.read(6)
    if suffix != ".safetensors" and start.startswith(PICKLE_STARTS):
        return f"a pickle, an archive or a program, whatever {suffix or 'its name'} says"
    return ""


def _inside(folder: Path, file: Path) -> bool:
    """Does a link lead to a file of this folder, or to the blobs beside it (…/snapshots/<revision>/, …/blobs/)?"""
    target, root = file.resolve(), folder.resolve()
    return target.is_relative_to(root) or target.is_relative_to(root.parent.parent / "blobs")


def _json(path: Path, bytes_max: int) -> dict[str, Any]:
    """A file that is one JSON map."""
    if path.stat().st_size > bytes_max:
        raise ModelRefused(
            f"{path.name} may have {bytes_max} bytes and has {path.stat().st_size}: it is none of a model."
        )
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{path.name} is no JSON ({str(error)[:100]}): was it saved whole?") from None
    if not isinstance(found, dict):
        raise ModelRefused(f"{path.name} holds a JSON {type(found).__name__} where a map was expected.")
    return found


def _check_texts(kept: dict[str, Path]) -> None:
    """Every JSON file is JSON: a torn tokenizer is found here and not by whoever pulls it."""
    for path in kept.values():
        if path.suffix.lower() == ".json":
            try:
                msgspec.json.decode(path.read_bytes(), type=msgspec.Raw)
            except (msgspec.DecodeError, RecursionError) as error:
                raise ModelRefused(f"{path.name} is no JSON ({str(error)[:100]}): was it saved whole?") from None


# -- the three forms --------------------------------------------------------------------------------------------------


def _transformers(folder: Path, kept: dict[str, Path], left_out: dict[str, str], config: dict[str, Any]) -> ModelFolder:
    found = _weights(folder, kept, left_out)
    notes = []
    if "auto_map" in config:
        notes.append(
            "its config.json names code of its own (auto_map), which stays behind: "
            f"only a program that knows {str(config.get('model_type'))[:60]!r} by itself loads it"
        )
    names = config.get("architectures")
    architecture = str(names[0] if isinstance(names, list) and names else config.get("model_type", ""))
    return _described(folder, kept, left_out, found, ModelFormat.TRANSFORMERS, architecture, tuple(notes))


def _weights(folder: Path, kept: dict[str, Path], left_out: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of model.safetensors or of all shards; other weights at the top are left out."""
    if WEIGHTS in kept:
        named = {WEIGHTS}
        found = tensorfile.tensors(kept[WEIGHTS])
        if kept.pop(INDEX, None):
            left_out[INDEX] = f"an index beside {WEIGHTS}, which needs none"
    elif INDEX in kept:
        named, found = _shards(kept)
    else:
        pickles = [name for name in left_out if Path(name).suffix.lower() in PICKLES]
        shards = [name for name in kept if name.endswith(".safetensors")]
        if pickles:
            raise ModelRefused(f"the weights in {str(folder)!r} stand in {pickles[0]!r}, a pickle: {CONVERT}.")
        if shards:
            raise ModelRefused(f"{shards[0]!r} is there, and neither {WEIGHTS} nor {INDEX}: copy the folder whole.")
        raise ModelRefused(f"{str(folder)!r} holds no weights: {WEIGHTS}, or {INDEX} and its shards, were expected.")
    for name in [name for name in kept if name.endswith(".safetensors") and "/" not in name and name not in named]:
        del kept[name]
        left_out[name] = f"weights beside {WEIGHTS if WEIGHTS in named else INDEX}, which nothing names"
    return found


def _shards(kept: dict[str, Path]) -> tuple[set[str], dict[str, Tensor]]:
    """(files that the index names, all of their tensors). Every shard is there and holds what the index says."""
    places = _json(kept[INDEX], TEXT_BYTES_MAX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ModelRefused(f"{INDEX} has no weight_map from tensors to files.")
    found: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if shard not in kept or not shard.endswith(".safetensors"):
            raise ModelRefused(f"{INDEX} names {shard[:80]!r}, which is not in the folder: copy it whole.")
        held = tensorfile.tensors(kept[shard])
        missing = [tensor for tensor, file in places.items() if file == shard and tensor not in held]
        if missing:
            raise ModelRefused(f"{shard} lacks the tensor {missing[0][:80]!r} that {INDEX} places there.")
        found.update(held)
    return set(places.values()), found


def _adapter(folder: Path, kept: dict[str, Path], left_out: dict[str, str]) -> ModelFolder:
    config = _json(kept[ADAPTER_CONFIG], CONFIG_BYTES_MAX)
    if ADAPTER_WEIGHTS not in kept:
        pickled = "adapter_model.bin" in left_out
        why = f"its weights stand in a pickle: {CONVERT}" if pickled else f"it lacks {ADAPTER_WEIGHTS}"
        raise ModelRefused(f"{str(folder)!r} is a peft adapter, and {why}.")
    found = tensorfile.tensors(kept[ADAPTER_WEIGHTS])
    adapts = str(config.get("base_model_name_or_path") or "")[:500]
    notes = []
    if adapts.startswith(("/", "~", "\\", ".")) or re.match(r"[A-Za-z]:[\\/]", adapts):
        notes.append(
            f"{ADAPTER_CONFIG} names its base model by a path of this machine ({adapts[:120]}), which travels with it, "
            f"as in peft's README.md: write the model's public name in its place before you push"
        )
    for name in [
        name for name in kept if name.endswith(".safetensors") and "/" not in name and name != ADAPTER_WEIGHTS
    ]:
        del kept[name]
        left_out[name] = f"weights beside {ADAPTER_WEIGHTS}, which nothing names"
    architecture = str(config.get("peft_type", ""))
    described = _described(folder, kept, left_out, found, ModelFormat.ADAPTER, architecture, tuple(notes))
    return dataclasses.replace(described, adapts=adapts)


def _ramify(folder: Path, kept: dict[str, Path], left_out: dict[str, str], config: dict[str, Any]) -> ModelFolder:
    inner = config["ramify"]
    if not isinstance(inner, dict) or inner.get("format") != FORMAT:
        form = inner.get("format") if isinstance(inner, dict) else type(inner).__name__
        raise ModelRefused(f"this program reads Ramify models of format {FORMAT}, got {form}: update the older side.")
    if inner.get("kind") == "tree":
        return _tree(folder, kept, left_out, inner)
    if "labels" not in inner and inner.get("kind") not in CONTINUED_BY:  # no classifier: it names no labels
        found, architecture = _weights(folder, kept, left_out), str(config.get("model_type", ""))
        described = _described(folder, kept, left_out, found, ModelFormat.RAMIFY, architecture, ())
        return dataclasses.replace(described, modality="text")
    labels, features = inner.get("labels"), inner.get("features")
    if not isinstance(labels, list) or len(labels) < 2 or len(set(map(str, labels))) != len(labels):
        raise ModelRefused("a Ramify model's config.json names two different labels or more, and this one does not.")
    found = _weights(folder, kept, left_out)
    if not any(name.startswith("network.") for name in found):
        raise ModelRefused(f"{WEIGHTS} holds no tensor of a network, where a Ramify model has some.")
    columns = features.get("columns", []) if isinstance(features, dict) else []
    architecture = str(inner.get("architecture", ""))
    described = _described(folder, kept, left_out, found, ModelFormat.RAMIFY, architecture, ())
    return dataclasses.replace(
        described,
        task=CONTINUED_BY.get(str(inner.get("kind")), ""),
        modality=str(inner.get("modality", "")),
        columns=tuple(map(str, columns)),
        labels=tuple(map(str, labels)),
        settings=_settings(str(inner.get("kind")), inner.get("settings")),
    )


def _tree(folder: Path, kept: dict[str, Path], left_out: dict[str, str], inner: dict[str, Any]) -> ModelFolder:
    """A router and whole models: each is there with its own config and weights."""
    members, labels = inner.get("members"), inner.get("labels")
    if (
        not isinstance(members, list)
        or not all(isinstance(one, int) for one in members)
        or not isinstance(labels, list)
    ):
        raise ModelRefused("a tree's config.json names its members and its labels, and this one does not.")
    parts = [*(f"members/{one}" for one in members), *(["flat"] if inner.get("flat") else [])]
    for part in parts:
        if f"{part}/{CONFIG}" not in kept and f"{part}/{ADAPTER_CONFIG}" not in kept:
            raise ModelRefused(f"the tree's config.json names {part!r}, whose {CONFIG} is not there: copy it whole.")
    if "router/router.json" not in kept:
        raise ModelRefused("the tree has no router/router.json: copy the folder whole.")
    described = _described(folder, kept, left_out, {}, ModelFormat.RAMIFY, "tree", ())
    modality = str(inner.get("modality", ""))
    return dataclasses.replace(described, modality=modality, labels=tuple(map(str, labels)))


def _described(
    folder: Path,
    kept: dict[str, Path],
    left_out: dict[str, str],
    found: dict[str, Tensor],
    form: ModelFormat,
    architecture: str,
    notes: tuple[str, ...],
) -> ModelFolder:
    _check_texts(kept)
    for name, path in kept.items():
        if "/" in name and name.endswith(".safetensors"):
            found = {**found, **{f"{name}/{tensor}": value for tensor, value in tensorfile.tensors(path).items()}}
    return ModelFolder(
        format=form,
        files=tuple(sorted(kept)),
        left_out=tuple(sorted(left_out.items())),
        size_bytes=sum(path.stat().st_size for path in kept.values()),
        parameters=sum(tensor.numbers for tensor in found.values()),
        architecture=architecture[:120],
        license=_license(kept.get("README.md")),
        notes=notes,
    )


def _settings(kind: str, given: Any) -> dict[str, Any]:
    """The settings that differ from the kind's defaults; none when this program's kind does not take them."""
    from executors import kinds

    info = kinds.kind_infos().get(kind)
    if info is None or kind != CONTINUED_BY.get(kind) or not isinstance(given, dict):
        return {}
    declared = kinds.declared(info).Settings
    try:
        settings = _plain(msgspec.convert(given, declared))
    except (msgspec.ValidationError, ValueError, TypeError):
        return {}
    usual = _plain(declared())
    return {name: value for name, value in settings.items() if value != usual[name]}


def _plain(settings: msgspec.Struct) -> dict[str, Any]:
    """As JSON has it: no tuples."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return found


def _license(card: Path | None) -> str:
    """What a card's metadata block says of the licence."""
    if card is None:
        return ""
    with card.open("rb") as file:
        text = file.read(64 * 1024).decode("utf-8", "replace")
    block = re.match(r"---\r?\n(.*?)\r?\n---\s", text, re.DOTALL)
    named = re.search(r"^license:\s*[\"']?([A-Za-z0-9._+-]{1,60})", block[1], re.MULTILINE) if block else None
    return named[1] if named else ""
