"""A sentence encoder from a local folder: texts to vectors of length one.

    texts ── word pieces, at most `tokens_max` ── transformer ── pooling (mean | cls) ── length 1 ── float32 [n, width]

Aim: what transformers and sentence-transformers would answer for the same folder, in bounded memory, and the same for
the same texts, whoever asks.

How: texts are taken in windows; within one they are sorted by their number of tokens, so that a batch pads little, and
a batch holds at most TOKENS_PER_BATCH places. Which texts share a batch is a function of the texts alone. Pooling is
read from `1_Pooling/config.json` where the folder has one (mean, else cls); without one it is the mean.

Promises: nothing is fetched and no code of the folder runs; weights are safetensors (executors/modelfolder.py looks at
them first), none missing and none of another shape; the tokenizer's numbers fit into the model's table.
A text's vector depends on its batch in the last bits only (padding changes the order of sums).

Not covered: further layers behind the pooling (a folder that asks for one is refused), prompts before the text.
(Reimers, Gurevych 2019, Sentence-BERT.)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from executors import modelfolder
from executors.models import encoderfolder
from mesh.errors import ModelRefused, TaskRefused
from mesh.messages.models import ModelFormat

TOKENS_PER_BATCH = 4_096
"""Places in a batch, padding included: some 100 MB of activations in a network of MiniLM's size; more is no faster on a
CPU, fewer leave matrices too small."""

ROWS_PER_BATCH = 256
"""Texts in a batch, however short."""

WINDOW = 2_048
"""Texts whose tokens are in memory at once, sorted together."""

CHARACTERS_PER_TOKEN = 32
"""A text is cut after so many characters per token before it is taken apart: what follows would be cut anyway."""

TOKENS_MAX = 256
"""Places that a text may take where the folder does not say; the folder's own bound holds besides."""

POOLINGS = ("mean", "cls")

Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Tokens:
    """Some texts as numbers: ids [n, t], padded at the end, and where they are real."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Tokens:
        """The same on `device`."""
        return Tokens(self.ids.to(device), self.mask.to(device))

    def __len__(self) -> int:
        return len(self.ids)


def whole(vectors: Tensor) -> Tensor:
    """Half precision as float32; anything else as it is."""
    return vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors


class Pooled(nn.Module):
    """The transformer and its pooling: what is trained when an encoder is tuned."""

    def __init__(self, transformer: nn.Module, pooling: str) -> None:
        super().__init__()
        self.transformer, self.pooling = transformer, pooling

    def forward(self, tokens: Tokens) -> Tensor:
        """Vectors [n, width] of length one."""
        states = self.transformer(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state
        if self.pooling == "cls":
            vectors = states[:, 0]
        else:
            real = tokens.mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * real).sum(dim=1) / real.sum(dim=1).clamp_min(1.0)
        return nn.functional.normalize(whole(vectors), dim=-1)


def _nothing() -> None:
    """A tick that nobody waits for."""


@dataclasses.dataclass(slots=True)
class Encoder:
    """A loaded encoder."""

    folder: Path
    """Where it came from: its tokenizer and configs are copied from there when it is saved."""
    network: Pooled
    tokenizer: Any
    tokens_max: int
    width: int
    digest: str
    """Of the files that decide its answers (`digest_of`)."""
    precision: str = "fp32"
    """'bf16': the transformer computes in it, the vectors are float32 all the same."""

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Word pieces of each text, cut; never empty."""
        cut = [text[: CHARACTERS_PER_TOKEN * self.tokens_max] for text in texts]
        found: list[list[int]] = self.tokenizer(
            cut, truncation=True, max_length=self.tokens_max, padding=False, return_attention_mask=False
        )["input_ids"]
        nothing = [self._pad]
        return [ids or nothing for ids in found]

    def padded(self, rows: Sequence[Sequence[int]]) -> Tokens:
        """Rows of word pieces as one rectangle."""
        longest = max(len(row) for row in rows)
        ids = np.full((len(rows), longest), self._pad, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return Tokens(torch.from_numpy(ids), torch.from_numpy(mask))

    def encode(self, texts: Sequence[str], tick: Callable[[], None] = _nothing) -> Floats:
        """[n, width] of length one. `tick` is called once per batch and may raise to stop."""
        self.network.eval()
        device = next(self.network.parameters()).device
        vectors = np.empty((len(texts), self.width), np.float32)
        with torch.inference_mode(), self._autocast(device):
            for start in range(0, len(texts), WINDOW):
                pieces = self.tokens(texts[start : start + WINDOW])
                for rows in batched([len(piece) for piece in pieces]):
                    batch = self.padded([pieces[row] for row in rows]).to(device)
                    vectors[[start + row for row in rows]] = self.network(batch).cpu().numpy()
                    tick()
        return vectors

    def save(self, folder: Path) -> Path:
        """The folder of an encoder with these weights, for `load` and for transformers. The other files are copied."""
        encoderfolder.copied(self.folder, folder, weights=False)
        self.network.transformer.save_pretrained(folder)  # type: ignore[operator]
        return folder

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "bf16":
            return torch.autocast(device.type, torch.bfloat16)
        return contextlib.nullcontext()


def batched(lengths: Sequence[int], places: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Rows of each batch, the longest texts first: what needs most memory is tried first. places: of a batch, padding
    included; a single longer text is a batch of its own."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batch: list[int] = []
    for row in order:
        longest = lengths[batch[0]] if batch else lengths[row]
        if batch and ((len(batch) + 1) * longest > places or len(batch) >= ROWS_PER_BATCH):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


# -- loading ----------------------------------------------------------------------------------------------------------


def load(folder: Path, *, tokens_max: int | None = None, precision: str = "fp32") -> Encoder:
    """The encoder in `folder`, on the CPU. ModelRefused when it is none; TaskRefused without the packages."""
    found = modelfolder.look(folder)
    if found.format is not ModelFormat.TRANSFORMERS:
        raise ModelRefused(
            f"a sentence encoder is a transformers folder, and {folder.name!r} holds a {found.format.value}"
        )
    pooling, own_max = encoderfolder.pooling_of(folder), encoderfolder.sentence_length(folder)
    with _offline():
        transformer, tokenizer = _transformer(folder), _tokenizer(folder)
    config = transformer.config
    pieces, table = len(tokenizer), int(config.vocab_size)
    if pieces > table:
        raise ModelRefused(
            f"the tokenizer of the encoder in {folder.name!r} knows {pieces} word pieces and its model has vectors for "
            f"{table}: they do not belong together, copy both from one folder"
        )
    places = _places(config)
    chosen = min(length for length in (tokens_max or own_max or TOKENS_MAX, own_max, places) if length)
    return Encoder(
        folder=folder,
        network=Pooled(transformer, pooling).float(),
        tokenizer=tokenizer,
        tokens_max=chosen,
        width=int(config.hidden_size),
        digest=encoderfolder.digest_of(folder),
        precision=precision,
    )


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Around transformers: quiet, and whatever it says becomes one sentence."""
    try:
        from transformers.utils import logging
    except ImportError:
        raise TaskRefused("a sentence encoder needs the package transformers: install the kinds' packages") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelRefused(f"transformers can not load the encoder: {type(error).__name__} {said}") from None


def _transformer(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused(f"{folder.name!r} is an encoder with a decoder ({config.model_type}): give an encoder alone")
    model, told = AutoModel.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
        dtype=torch.float32, output_loading_info=True,
    )  # fmt: skip
    missing = [name for name in told["missing_keys"] if "pooler" not in name]
    if missing or told["mismatched_keys"]:
        raise ModelRefused(
            f"the weights in {folder.name!r} are not those of a {config.model_type} as its config.json describes it: "
            f"{(missing or [str(told['mismatched_keys'])])[0][:100]} is missing or of another shape"
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelRefused(f"the encoder's tensor {name} holds values that are not finite")
    return model.eval()


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json")):
        raise ModelRefused(f"the encoder in {folder.name!r} has no tokenizer: copy tokenizer.json beside its weights")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _places(config: Any) -> int:
    """How many places the model has; 0: no bound. Models of RoBERTa's kind count from behind the padding's number."""
    places = int(getattr(config, "max_position_embeddings", 0) or 0)
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return places - int(config.pad_token_id or 0) - 1 if shifted and places else places
