"""Streams on a real server: write with compare-and-set, read directly, manage from declarations.

Reads are direct gets: no consumer, any replica may answer. A message that a bucket keeps as the sign of an erased key
(`KV-Operation`, `Nats-Marker-Reason`) reads as None in `last`; `read` and the readers return it like any other.
"""

from __future__ import annotations

import asyncio
import bisect
import collections
import json
from collections.abc import AsyncIterator
from typing import Any

from mesh import limits, streams, wire
from mesh.broker_api import NAME_TAKEN, JetStream, error_of, read
from mesh.broker_link import Link, unheard
from mesh.bus import Message, Stored, StreamSpec, StreamState
from mesh.errors import BusUnavailable, NotFound, RamifyError

_SCHEMA = "ramify.schema"
_NANO = 1_000_000_000


SUBJECTS_OVERLAP = 1_000
"""Subjects of a page that are asked for once more with the next: more than a collector removes in a second."""

SUBJECTS_STEP_BACK = 50_000
"""How far back to look when more were removed between two pages."""

SUBJECTS_TIMEOUT_S = 60.0
"""Patience with one page: the server goes through everything that it holds for it, 3 s for 200,000 subjects on a busy
machine."""

SUBJECTS_STEPS_MAX = 1_000
"""Steps back of one listing."""


class NatsLog:
    """The half of `mesh.bus.Log` that asks and is answered; `mesh/broker_readers.py` has the half that waits."""

    def __init__(self, link: Link, api: JetStream) -> None:
        self._link, self._api = link, api

    # -- writing ------------------------------------------------------------------------------------------------------

    async def append(
        self, subject: str, data: bytes, *, stream_seq: int | None = None, subject_seq: int | None = None,
        headers: dict[str, str] | None = None, timeout_s: float = 5.0,
    ) -> int:  # fmt: skip
        """Store a message; its sequence when it is on the server's disk."""
        wire.check_subject(subject)
        sent = dict(wire.outgoing(data, headers, payload_max=self._link.payload_max) or {})
        if stream_seq is not None:
            sent["Nats-Expected-Last-Sequence"] = str(stream_seq)
        if subject_seq is not None:
            sent["Nats-Expected-Last-Subject-Sequence"] = str(subject_seq)
        answer = await self._link.ask(self._api.storing(subject), data, timeout_s=timeout_s, headers=sent)
        if unheard(answer):
            raise await self._api.unheard_store(subject)
        receipt = read(answer)
        error = error_of(receipt, subject)
        if error is not None:
            raise error
        return int(receipt["seq"])

    async def purge(self, stream: str, *, subject: str = "", below_seq: int = 0) -> int:
        """Remove messages; how many."""
        body: dict[str, Any] = {"filter": subject} if subject else {}
        if below_seq:
            body["seq"] = below_seq
        return int((await self._api.call(f"STREAM.PURGE.{stream}", body))["purged"])

    # -- reading ------------------------------------------------------------------------------------------------------

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message of a subject, or None."""
        wire.check_subject(subject)
        asked = self._api.subject(f"DIRECT.GET.{stream}.{subject}")
        message = await self._link.ask(asked, b"", timeout_s=limits.CALL_TIMEOUT_S)
        if unheard(message):
            raise await self._api.unheard_read(stream)
        if message.headers.get("Status") == "404" or wire.erased(message.headers):
            return None
        return _stored(message)

    async def read(self, stream: str, subject: str, *, from_seq: int = 1, messages_max: int = 1_000) -> list[Stored]:
        """Messages of a subject in order, from a sequence on."""
        wire.check_subject(subject, pattern=True)
        found: list[Stored] = []
        while len(found) < messages_max:
            batch_max = min(messages_max - len(found), limits.PULL_MESSAGES_MAX)
            batch, more = await self._batch(stream, subject, max(1, from_seq), batch_max)
            found += batch
            if not batch or not more:
                break
            from_seq = batch[-1].seq + 1
        return found

    async def _batch(self, stream: str, subject: str, from_seq: int, batch_max: int) -> tuple[list[Stored], bool]:
        """One answer of at most so many messages, and whether there are more."""
        body = {
            "seq": from_seq,
            "next_by_subj": subject,
            "batch": batch_max,
            "max_bytes": max(limits.PULL_BYTES_MAX, self._link.payload_max),
        }
        collector = _Collector()
        route = self._link.route(self._api.subject(f"DIRECT.GET.{stream}"), collector.take, collector.fail)
        try:
            await self._link.send(route.asked, json.dumps(body).encode(), route.reply)
            found: list[Stored] = []
            while True:
                message = await collector.next()
                status = message.headers.get("Status", "")
                if unheard(message):
                    raise await self._api.unheard_read(stream)
                if status == "404":
                    return found, False
                if status:  # 204: the end of this batch
                    return found, int(message.headers.get("Nats-Num-Pending", "0")) > 0
                found.append(_stored(message))
        finally:
            self._link.unroute(route)

    async def subjects(self, stream: str, subject: str) -> AsyncIterator[list[str]]:
        """Subjects under which the stream holds something now, in pages.

        The server sorts them all for each answer, and tells at most 100,000 from an offset on. What is removed between
        two answers moves the rest forward, so pages overlap; where one begins behind the end of the last one all the
        same, more than the overlap was removed, and we step back.
        """
        wire.check_subject(subject, pattern=True)
        offset, last, backward = 0, "", 0
        while backward < SUBJECTS_STEPS_MAX:
            asked = {"subjects_filter": subject, "offset": offset}
            answer = await self._api.call(f"STREAM.INFO.{stream}", asked, timeout_s=SUBJECTS_TIMEOUT_S)
            told = sorted(answer["state"].get("subjects") or {})
            if offset and (not told or told[0] > last):
                offset, backward = max(0, offset - SUBJECTS_STEP_BACK), backward + 1
                continue
            page = told[bisect.bisect_right(told, last) :]
            if page:
                last = page[-1]
                yield page
            offset += len(told)
            if not told or offset >= int(answer.get("total", 0)):
                return
            offset -= min(SUBJECTS_OVERLAP, len(told) // 2)
        raise BusUnavailable(f"{stream} loses subjects faster than they are listed: try again later")

    async def state(self, stream: str) -> StreamState:
        """What the stream holds now."""
        return state_of(await self._api.stream(stream))

    # -- managing -----------------------------------------------------------------------------------------------------

    async def ensure(self, spec: StreamSpec) -> list[str]:
        """Make the stream as declared; the differences that were found."""
        found = await self._config(spec.name)
        complaints = _complaints(spec, found)
        if found is None:
            try:
                await self._api.call(f"STREAM.CREATE.{spec.name}", config_of(spec))
            except RamifyError as error:
                if error.facts.get("err_code") != NAME_TAKEN:
                    raise
                return await self._update(spec, await self._config(spec.name) or {})
        elif complaints:
            await self._update(spec, found)
        return complaints

    async def _update(self, spec: StreamSpec, found: dict[str, Any]) -> list[str]:
        """Write back what was found with what is declared on top: settings that we do not know stay."""
        complaints = _complaints(spec, found)
        wanted = found | config_of(spec)
        wanted["metadata"] = found.get("metadata", {}) | wanted["metadata"]
        await self._api.call(f"STREAM.UPDATE.{spec.name}", wanted)
        return complaints

    async def differences(self, spec: StreamSpec) -> list[str]:
        """What `ensure` would change."""
        return _complaints(spec, await self._config(spec.name))

    async def _config(self, name: str) -> dict[str, Any] | None:
        try:
            return dict((await self._api.stream(name))["config"])
        except NotFound:
            return None


class _Collector:
    """Answers to one request that has several, with a deadline between them."""

    def __init__(self) -> None:
        self._arrived: collections.deque[Message] = collections.deque()
        self._error: RamifyError | None = None
        self._bell = asyncio.Event()

    def take(self, message: Message) -> None:
        self._arrived.append(message)
        self._bell.set()

    def fail(self, error: RamifyError) -> None:
        self._error = error
        self._bell.set()

    async def next(self) -> Message:
        """The next answer. BusUnavailable when it does not come in time."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._bell.clear()
            try:
                async with asyncio.timeout(limits.CALL_TIMEOUT_S):
                    await self._bell.wait()
            except TimeoutError:
                raise BusUnavailable("the broker stopped in the middle of an answer: try again later") from None
        return self._arrived.popleft()


def _stored(message: Message) -> Stored:
    headers = message.headers
    return Stored(headers["Nats-Subject"], message.data, int(headers["Nats-Sequence"]), wire.own_headers(headers))


def state_of(info: dict[str, Any]) -> StreamState:
    """The state in an answer to STREAM.INFO."""
    state = info["state"]
    count, last = int(state["messages"]), int(state["last_seq"])
    return StreamState(
        first_seq=int(state["first_seq"]) if count else last + 1,
        last_seq=last,
        messages=count,
        size_bytes=int(state["bytes"]),
        created=str(info["created"]),
        limit_bytes=int(info["config"].get("max_bytes", -1)),
    )


def check_same(name: str, created: str, seen: int, info: dict[str, Any]) -> None:
    """Conflict unless this is the stream that a reader has read up to `seen` (0: nothing yet)."""
    state = state_of(info)
    if state.created != created or state.last_seq < seen:
        raise streams.other_history(name, seen, state.last_seq)


def config_of(spec: StreamSpec) -> dict[str, Any]:
    """The server's configuration of a declared stream. The number of copies is left out where none is declared."""
    return {
        "name": spec.name,
        "description": spec.why,
        "subjects": list(spec.subjects),
        "retention": "limits",
        "storage": "file",
        "discard": "new" if spec.discard_new else "old",
        "max_age": round(spec.max_age_s * _NANO),
        "max_bytes": spec.max_bytes,
        "max_msgs": -1,
        "max_msgs_per_subject": spec.max_per_subject,
        "max_msg_size": spec.max_message_bytes,
        "max_consumers": spec.max_consumers,
        **({"num_replicas": spec.replicas} if spec.replicas else {}),
        "allow_direct": True,
        "allow_rollup_hdrs": streams.is_bucket(spec),  # the broker's own key-value tools purge a key with it
        "metadata": {_SCHEMA: str(spec.schema)},
    }


def spec_of(config: dict[str, Any]) -> StreamSpec:
    """The declaration that a server's configuration amounts to."""
    schema = str((config.get("metadata") or {}).get(_SCHEMA, "0"))
    return StreamSpec(
        name=config["name"],
        subjects=tuple(config.get("subjects") or ()),
        why=config.get("description", ""),
        max_age_s=config.get("max_age", 0) / _NANO,
        max_bytes=config.get("max_bytes", -1),
        max_per_subject=config.get("max_msgs_per_subject", -1),
        max_message_bytes=config.get("max_msg_size", -1),
        discard_new=config.get("discard") == "new",
        max_consumers=config.get("max_consumers", -1),
        replicas=config.get("num_replicas", 1),
        schema=int(schema) if schema.isdigit() else 0,
    )


_BEYOND_SPEC = ("retention", "storage", "max_msgs", "allow_direct", "allow_rollup_hdrs")


def _complaints(spec: StreamSpec, found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return streams.compare(spec, None)
    wanted = config_of(spec)
    return streams.compare(spec, spec_of(found)) + [
        f"{spec.name}: {key} is {found.get(key)}, declared {wanted[key]}"
        for key in _BEYOND_SPEC
        if found.get(key, False) != wanted[key]
    ]
