"""A tree of language models: the probabilities of each next token are mixed, so all of them cut texts alike.

    centres       before the router has read anything the flat model answers (without one: all specialists alike); after
                  `reread` tokens, and again every `reread` tokens until it has seen its first bytes (`lead_bytes`), the
                  router reads the beginning of the text, and its top specialists answer until the next time
    likelihood    every model reads along, and counts as much as it has foretold the text so far

No token is weighed by what it says itself: shares come from the tokens before it. Texts are read in blocks, each model
answers its documents of a block in one batch, so that memory is bounded by BLOCK_NUMBERS, whatever the corpus.

A document's nats are those of its tokens and its end (executors/models/reading.py); nothing is said of how many tokens
were the likeliest ones, because nobody computes the whole distribution for that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from executors import outcomes
from executors.corpus import Corpus, read_corpus
from executors.models import reading, treemixing
from executors.models.foretelling import Foreteller, Stream, foreteller_of
from executors.models.loading import Respondent
from executors.models.tokens import Encoded, Tokens, Vocabulary
from executors.models.tree import LIKELIHOOD, Members, Tree
from executors.models.treelabels import told_shares
from executors.models.treemixing import Floats
from executors.routing import Router
from mesh.errors import ModelRefused, TaskRefused
from mesh.messages.judgement import Outcomes

BLOCK_NUMBERS = 4 * 1024 * 1024
"""Log probabilities held at once, 32 MiB: tokens times models."""

LEAD_BYTES = 1_024
"""What a router reads of a text at most where it was fitted on whole ones."""

READINGS_MAX = 256
"""Of one text by the router: what is longer keeps the shares that it has."""

Ints = NDArray[np.int64]
Tick = Callable[[], None]


def member_foreteller(members: Members, name: str, vocabulary: Vocabulary | None) -> Foreteller:
    """The model of that name, token by token. ModelRefused when it cuts texts in another way than `vocabulary`."""
    found = foreteller_of(members.open(name), name)
    if vocabulary is not None and found.vocabulary.digest != vocabulary.digest:
        raise ModelRefused(
            f"the tree's model {name!r} has another tokenizer than the others: token by token, only models with the "
            "same one can be mixed; train the specialists from the flat model, or with its tokenizer"
        )
    return found


def document_blocks(documents: Encoded, models: int) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of documents whose targets of so many models are held at once; at least one."""
    lengths = np.diff(documents.offsets) + 1
    most, first, total = max(1, BLOCK_NUMBERS // max(1, models)), 0, 0
    for number, length in enumerate(lengths.tolist()):
        if number > first and total + length > most:
            yield first, number
            first, total = number, 0
        total += length
    if len(lengths):
        yield first, len(lengths)


def part(documents: Encoded, rows: Ints) -> Encoded:
    """Some documents, in this order."""
    found = [documents.document(int(row)) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in found])]).astype(np.int64)
    return Encoded(np.concatenate(found) if found else documents.tokens[:0], offsets)


def begins_of(documents: Encoded) -> Ints:
    """[n + 1], where each document's targets begin."""
    return np.concatenate([[0], np.cumsum(np.diff(documents.offsets) + 1)]).astype(np.int64)


# -- when the router reads --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Readings:
    """What the router reads of some documents, and for which tokens that holds."""

    texts: list[str]
    """One per reading."""
    documents: Ints
    """[readings], whose."""
    rows: Ints
    """[targets], 0 before anything was read, else 1 + the number of the reading that holds."""


def readings_of(documents: Encoded, vocabulary: Vocabulary, reread: int, lead_bytes: int) -> Readings:
    """Every reading of every document."""
    begins = begins_of(documents)
    rows = np.zeros(int(begins[-1]), np.int64)
    texts: list[str] = []
    owners: list[int] = []
    for document in range(len(documents)):
        tokens = documents.document(document)
        for read in range(reread, min(len(tokens), reread * READINGS_MAX) + 1, reread):
            text, is_whole = beginning(vocabulary, tokens[:read], lead_bytes)
            texts.append(text)
            owners.append(document)
            rows[begins[document] + read : begins[document + 1]] = len(texts)
            if is_whole:
                break
    return Readings(texts, np.array(owners, np.int64), rows)


def beginning(vocabulary: Vocabulary, tokens: Tokens | Sequence[int], lead_bytes: int) -> tuple[str, bool]:
    """(the first bytes of a text, whether more tokens would change nothing)."""
    if vocabulary.bytewise:  # a hundred times as fast as the tokenizer, and corpora of bytes have many readings
        found = np.asarray(tokens[:lead_bytes])
        raw = (found[found > 0] - 1).astype(np.uint8).tobytes()
        return raw.decode(errors="ignore"), len(raw) >= lead_bytes
    whole = vocabulary.decode([int(token) for token in tokens]).rstrip("\ufffd").encode()
    return whole[:lead_bytes].decode(errors="ignore"), len(whole) >= lead_bytes


def lead_bytes_of(router: Router) -> int:
    """What the router reads of a text at most."""
    return router.card.lead_bytes or LEAD_BYTES


# -- the tree as a language model -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class TreeForeteller:
    """A tree, token by token."""

    tree: Tree
    vocabulary: Vocabulary
    context: int

    def model(self, column: int) -> Foreteller:
        """The model of a column."""
        return member_foreteller(self.tree.members, self.tree.columns[column], self.vocabulary)

    def foretold(self, documents: Encoded, device: torch.device, tick: Tick) -> Floats:
        """Log probability of every target, one document behind the other."""
        found = []
        for first, last in document_blocks(documents, len(self.tree.columns)):
            block = part(documents, np.arange(first, last))
            mixed = self._by_likelihood if self.tree.mixing.routing == LIKELIHOOD else self._by_centres
            found.append(mixed(block, device, tick))
        return np.concatenate(found) if found else np.zeros(0)

    def stream(self, tokens: Sequence[int], device: torch.device) -> Stream:
        """A text that begins with these tokens."""
        return TreeStream(self, tokens, device)

    def cold(self) -> Floats:
        """[m], shares before the router has read anything."""
        return treemixing.cold_of(self.tree.prior, self.tree.branches, self.tree.flat_share)

    def prior(self) -> Floats:
        """[m], shares before anything was foretold."""
        return treemixing.shares_of(self.tree.prior[None], self.tree.branches, self.tree.flat_share)[0]

    def _by_centres(self, documents: Encoded, device: torch.device, tick: Tick) -> Floats:
        lead = lead_bytes_of(self.tree.router)
        readings = readings_of(documents, self.vocabulary, self.tree.mixing.reread, lead)
        tick()
        shares = self.cold()[None]
        if readings.texts:
            shares = np.vstack([shares, self.tree.shares(readings.texts)])
        begins = begins_of(documents)
        logs = treemixing.log_shares(shares)
        mixed = np.full(int(begins[-1]), -np.inf)
        for column in range(shares.shape[1]):
            counts = shares[readings.rows, column] > 0.0
            asked = np.flatnonzero(np.add.reduceat(counts, begins[:-1]) > 0)
            if not len(asked):
                continue
            told = self.model(column).foretold(part(documents, asked), device, tick)
            where = np.concatenate([np.arange(begins[row], begins[row + 1]) for row in asked])
            mixed[where] = np.logaddexp(mixed[where], logs[readings.rows[where], column] + told)
        return mixed

    def _by_likelihood(self, documents: Encoded, device: torch.device, tick: Tick) -> Floats:
        prior = self.prior()
        columns = np.flatnonzero(prior > 0.0)
        told = np.stack([self.model(int(column)).foretold(documents, device, tick) for column in columns])
        return treemixing.posterior_mixed(told, prior[columns], begins_of(documents))


class TreeStream:
    """A text that a tree goes on with."""

    def __init__(self, tree: TreeForeteller, tokens: Sequence[int], device: torch.device) -> None:
        self._tree, self._device = tree, device
        self._tokens = [int(token) for token in tokens]
        self._streams: dict[int, Stream] = {}
        self._log_shares = treemixing.log_shares(tree.prior())
        self._is_settled = tree.tree.mixing.routing == LIKELIHOOD
        if self._is_settled:
            self._read_along()
        else:
            self._read(len(self._tokens) // self._reread * self._reread)

    @property
    def _reread(self) -> int:
        return self._tree.tree.mixing.reread

    def following(self) -> Floats:
        """[vocabulary], log probabilities."""
        counts = np.flatnonzero(np.isfinite(self._log_shares))
        told = np.stack([self._stream(int(column)).following() for column in counts])
        return treemixing.log_sum(self._log_shares[counts, None] + told)

    def push(self, token: int) -> None:
        """This token is the next one."""
        if self._tree.tree.mixing.routing == LIKELIHOOD:
            for column in np.flatnonzero(np.isfinite(self._log_shares)):
                self._log_shares[column] += self._stream(int(column)).following()[token]
            self._log_shares -= treemixing.log_sum(self._log_shares)
        self._tokens.append(int(token))
        for stream in self._streams.values():
            stream.push(token)
        if not self._is_settled and len(self._tokens) % self._reread == 0:
            self._read(len(self._tokens))

    def through(self) -> list[tuple[str, float]]:
        """Names and shares of the models that answer now."""
        return told_shares(self._tree.tree, np.exp(self._log_shares))

    def _stream(self, column: int) -> Stream:
        if column not in self._streams:
            self._streams[column] = self._tree.model(column).stream(self._tokens, self._device)
        return self._streams[column]

    def _read(self, tokens: int) -> None:
        """The router reads the first tokens."""
        if tokens == 0:
            self._log_shares = treemixing.log_shares(self._tree.cold())
            return
        first = self._tokens[: min(tokens, self._reread * READINGS_MAX)]
        text, is_whole = beginning(self._tree.vocabulary, first, lead_bytes_of(self._tree.tree.router))
        self._log_shares = treemixing.log_shares(self._tree.tree.shares([text])[0])
        self._is_settled = is_whole or tokens >= self._reread * READINGS_MAX

    def _read_along(self) -> None:
        """What each model makes of the tokens so far."""
        tokens = np.array(self._tokens, np.int64)
        text = Encoded(tokens, np.array([0, len(tokens)], np.int64))
        for column in np.flatnonzero(np.isfinite(self._log_shares)):
            told = self._tree.model(int(column)).foretold(text, self._device, lambda: None)
            self._log_shares[column] += told[:-1].sum()  # without its end: it may go on
        self._log_shares -= treemixing.log_sum(self._log_shares)


# -- as evaluate asks it ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class TreeLanguageRespondent:
    """A tree of language models, ready to be asked."""

    tree: TreeForeteller
    _stream: Stream | None = None
    _left: int = 0
    _measured: dict[str, float] = dataclasses.field(default_factory=dict)

    def foreteller(self) -> Foreteller:
        """It, token by token."""
        return self.tree

    def read(self, folder: Any) -> Corpus:
        """The documents in `folder`."""
        return read_corpus(folder)

    def check(self, items: Corpus) -> None:
        """Any text can be read by bytes or byte pairs; a foreign tokenizer may have no token for any of it."""
        if not len(self.tree.vocabulary.encode(items.texts[:1], lambda: None).tokens):
            raise TaskRefused("the tree's tokenizer makes no token of the first document: it is for other data")

    def to(self, device: torch.device) -> None:
        """Where its models compute."""
        self.tree.tree.members.place(device)

    def outcomes(
        self, items: Corpus, device: torch.device, tick: Tick, *, model: str = "", split: str = ""
    ) -> Outcomes:
        """Nats per byte of each document."""
        encoded = self.tree.vocabulary.encode(items.texts, tick)
        told = self.tree.foretold(encoded, device, tick)
        nats = -np.add.reduceat(told, begins_of(encoded)[:-1])
        found = reading.Readings(nats, np.diff(begins_of(encoded)), np.zeros(len(nats), np.int64))
        self._measured = {
            name: value for name, value in reading.measures(found, items.size_bytes).items() if name != "right_tokens"
        }
        return reading.outcomes_of(items, found, model=model, split=split)

    def kpis(self, found: Outcomes) -> dict[str, float]:
        """`loss` is the mean over documents; the others are over all of their bytes and tokens together."""
        return {"loss": outcomes.mean_loss(found), **self._measured}

    def answer(self, items: Corpus, number: int, device: torch.device) -> None:
        """One more token behind those read so far; from half a context of document `number` when that is long ago,
        which is rare enough to move no median."""
        if self._stream is None or self._left == 0:
            tokens = self.tree.vocabulary.encode([items.texts[number % len(items)]], lambda: None).tokens
            self._left = max(32, self.tree.context // 2)
            self._stream = self.tree.stream(tokens[: max(1, self.tree.context // 2)].tolist(), device)
            self._stream.following()
        self._left -= 1
        self._stream.push(int(np.argmax(self._stream.following())))
        self._stream.following()


def respondent_of(tree: Tree) -> Respondent:
    """The tree, ready to be asked. Its first model says how texts are cut."""
    first = member_foreteller(tree.members, tree.columns[-1], None)
    return TreeLanguageRespondent(TreeForeteller(tree, first.vocabulary, first.context))
