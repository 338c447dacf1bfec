"""Tokenizers: bytes, or byte pairs merged as the training corpus has them. Both lose nothing: any text comes back.

    bytes    one token per byte of UTF-8, and one more that ends a document: 257
    bpe      byte pairs merged inside words (Gage 1994; Sennrich et al. 2016; words as GPT-2 cuts them): as asked for

Either is a `tokenizer.json` of the library `tokenizers`, so that whoever loads the model loads the tokenizer with it. A
text can not contain the token that ends a document: its name, written in a text, is read as the letters that it is.
Training draws no random numbers, and the same corpus gives the same file.

A foreign model's own tokenizer is read the same way. Documents then begin with its `start` and end with its `end`,
which are one and the same token here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mesh.errors import ArtifactCorrupt, DataRefused

END = "<|endoftext|>"

BYTES_VOCABULARY = 257

FILE = "tokenizer.json"
FILE_BYTES_MAX = 64 * 1024 * 1024
"""Of a tokenizer; a million entries have some 40 MB."""

TRAIN_BYTES_MAX = 32 * 1024 * 1024
"""Of the corpus that merges are counted on, evenly spread over its documents: more changes no frequent one."""

BATCH_CHARS = 256 * 1024
"""Encoded between two signs of life."""

Tokens = NDArray[Any]
"""uint16 where the vocabulary fits into it, else uint32."""


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """n documents as tokens, one behind the other, without start and end."""

    tokens: Tokens
    offsets: NDArray[np.int64]
    """[n + 1]."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, row: int) -> Tokens:
        """The tokens of one."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer, and the tokens that begin and end a document."""

    tokenizer: Tokenizer
    start: int
    end: int
    bytewise: bool = False
    """True when a token is a byte of the text plus one."""

    @property
    def size(self) -> int:
        """Different tokens."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def digest(self) -> str:
        """Of all that decides how texts become tokens."""
        return hashlib.sha256(f"{self.start} {self.end} {self.tokenizer.to_str()}".encode()).hexdigest()

    def json(self) -> bytes:
        """The content of tokenizer.json."""
        return str(self.tokenizer.to_str(pretty=False)).encode()

    def encode(self, texts: Sequence[str], tick: Callable[[], None]) -> Encoded:
        """Texts as tokens. `tick` is called now and then and may raise to stop."""
        dtype = np.uint16 if self.size <= 1 << 16 else np.uint32
        parts: list[Tokens] = []
        lengths: list[int] = []
        for some in _batches(texts):
            found = self._some(some, dtype)
            lengths += [len(one) for one in found]
            parts.append(np.concatenate(found))
            tick()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Encoded(np.concatenate(parts) if parts else np.zeros(0, dtype), offsets)

    def _some(self, texts: Sequence[str], dtype: Any) -> list[Tokens]:
        if self.bytewise:
            return [np.frombuffer(text.encode(), np.uint8).astype(dtype) + dtype(1) for text in texts]
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype) for one in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text; what is no whole character shows as the replacement character."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = chars = 0
    for row, text in enumerate(texts):
        chars += len(text)
        if chars >= BATCH_CHARS:
            yield texts[start : row + 1]
            start, chars = row + 1, 0
    if start < len(texts):
        yield texts[start:]


def bytewise() -> Vocabulary:
    """The tokenizer whose tokens are bytes."""
    vocabulary = {END: 0, **{letter: byte + 1 for byte, letter in letters().items()}}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.add_special_tokens([END])
    return _finished(made, use_regex=False, is_bytewise=True)


def trained(texts: Sequence[str], size: int) -> Vocabulary:
    """Byte pairs merged until there are `size` tokens, or no pair is left that stands twice."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(_sample(texts), trainer)
    return _finished(made, use_regex=True, is_bytewise=False)


def _sample(texts: Sequence[str]) -> Iterator[str]:
    """The texts, or evenly spread ones of them."""
    every = -(-sum(map(len, texts)) // TRAIN_BYTES_MAX)
    return itertools.islice(iter(texts), 0, None, max(1, every))


def _finished(made: Tokenizer, *, use_regex: bool, is_bytewise: bool) -> Vocabulary:
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    made.decoder = decoders.ByteLevel()
    made.encode_special_tokens = True
    return Vocabulary(made, 0, 0, is_bytewise)


def letters() -> dict[int, str]:
    """Byte to the letter by which byte-level tokenizers write it: printable ones stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


def of_json(content: bytes, start: int = 0, end: int = 0, *, name: str = FILE) -> Vocabulary:
    """The tokenizer in a tokenizer.json. ArtifactCorrupt when it is none."""
    try:
        made = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exceptions
        raise ArtifactCorrupt(f"{name} is no tokenizer that this program reads: {str(error)[:160]}") from None
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True
    found = Vocabulary(made, start, end)
    is_bytewise = found.size == BYTES_VOCABULARY and found.json() == bytewise().json()
    return dataclasses.replace(found, bytewise=is_bytewise)


def load(path: Path, start: int = 0, end: int = 0) -> Vocabulary:
    """The tokenizer in a folder's tokenizer.json, or in that file. start, end: which tokens begin and end a document.
    ArtifactCorrupt when there is none, or when it does not know these tokens."""
    file = path / FILE if path.is_dir() else path
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise ArtifactCorrupt(f"a tokenizer has at most {FILE_BYTES_MAX} bytes, {file.name} has more")
        content = file.read_bytes()
    except OSError as error:
        raise ArtifactCorrupt(f"expected {FILE} in {path.name}: {error.strerror or error}") from None
    found = of_json(content, start, end, name=file.name)
    if not 0 <= max(start, end) < found.size or min(start, end) < 0:
        raise ArtifactCorrupt(f"{file.name} has {found.size} tokens, and documents begin with {start}, end with {end}")
    return found


def write(vocabulary: Vocabulary, folder: Path, context: int) -> None:
    """tokenizer.json, and what transformers wants to know beside it."""
    (folder / FILE).write_bytes(vocabulary.json())
    names = {name: vocabulary.tokenizer.id_to_token(token) for name, token in _ends(vocabulary)}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _ends(vocabulary: Vocabulary) -> tuple[tuple[str, int], ...]:
    return ("bos_token", vocabulary.start), ("eos_token", vocabulary.end)


def check_room(vocabulary: Vocabulary, rows: int) -> None:
    """DataRefused when the network has no row for each of the tokenizer's tokens."""
    if vocabulary.size > rows:
        raise DataRefused(
            f"the tokenizer knows {vocabulary.size} tokens and the model {rows}: they do not belong together"
        )
