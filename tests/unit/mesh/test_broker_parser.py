"""The parser for large messages gives what the client library's own parser gives, however the bytes arrive."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from nats.aio.client import Client
from nats.protocol.parser import Parser

from mesh.broker_parser import LARGE_BYTES, BlockParser, headers_of


class Ear:
    """A client that notes what it is given."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def _process_msg(self, *message: Any) -> None:
        self.heard.append(message)

    async def _process_ping(self) -> None:
        self.heard.append("ping")

    async def _process_pong(self) -> None:
        self.heard.append("pong")

    async def _process_err(self, text: str) -> None:
        self.heard.append(text)


def stream(rng: random.Random) -> bytes:
    """What a server could send."""
    sent = []
    for number in range(rng.randint(1, 12)):
        size = rng.choice((0, 1, 90, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 5 * LARGE_BYTES))
        body = rng.randbytes(size)
        head = b"NATS/1.0\r\nNats-Sequence: %d\r\n\r\n" % number
        sent.append(
            rng.choice(
                (
                    b"PING\r\n",
                    b"PONG\r\n",
                    b"+OK\r\n",
                    b"-ERR 'Permissions Violation'\r\n",
                    b"MSG a.b 1 %d\r\n%b\r\n" % (size, body),
                    b"MSG a.b 7 reply.to %d\r\n%b\r\n" % (size, body),
                    b"HMSG a.b 2 %d %d\r\n%b%b\r\n" % (len(head), len(head) + size, head, body),
                )
            )
        )
    return b"".join([*sent, b"PING\r\n"])


async def heard(parser: Parser, ear: Ear, pieces: list[bytes]) -> list[Any]:
    for piece in pieces:
        await parser.parse(piece)
    return [tuple(map(_plain, one)) if isinstance(one, tuple) else one for one in ear.heard]


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytearray) else value


@pytest.mark.parametrize("seed", range(60))
def test_it_hears_what_the_library_hears(seed: int) -> None:
    rng = random.Random(seed)
    sent = stream(rng)
    cuts = sorted(rng.randrange(len(sent) + 1) for _ in range(rng.randint(0, 40)))
    pieces = [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True) if begin < end]
    one, other = Ear(), Ear()
    theirs = asyncio.run(heard(Parser(one), one, [sent]))
    assert asyncio.run(heard(BlockParser(other), other, pieces)) == theirs
    assert theirs


async def test_a_new_connection_begins_anew_in_the_middle_of_a_message() -> None:
    ear = Ear()
    parser = BlockParser(ear)
    await parser.parse(b"MSG a 1 %d\r\n" % (2 * LARGE_BYTES) + b"x" * LARGE_BYTES)
    parser.reset()
    await parser.parse(b"MSG a 1 2\r\nok\r\n")
    assert [message[3] for message in ear.heard] == [b"ok"]


@pytest.mark.parametrize(
    "lines",
    [
        b"Nats-Subject: a.b\r\nNats-Sequence: 7\r\n",
        b"Name:no space\r\nTab:\tvalue \r\nEmpty:\r\n",
        "Text: für alle\r\nÄ: no name\r\n".encode(),
        b"Bad: \xff\xfe\r\n\xff: no name\r\nno colon\r\nin side: no name\r\n: nothing\r\n",
        b"",
    ],
)
def test_headers_are_read_by_the_rules_of_the_library(lines: bytes) -> None:
    raw = b"NATS/1.0\r\n" + lines + b"\r\n"
    assert headers_of(raw) == Client._parse_header_lines(lines)


def test_a_status_is_left_to_the_library() -> None:
    assert headers_of(b"NATS/1.0 404 No Messages\r\n\r\n") is None
