"""Reading the broker's protocol: the client library's parser, with a shorter way for large messages and headers.

    small    the library: everything read so far in one buffer, cut from its front
    large    what is read is put aside piece by piece, and joined once when the message is complete

A chunk of an artifact is half a megabyte and arrives in several pieces. In the library's buffer each byte of it is
moved four times; put aside, twice. Headers are read line by line by the same rules as the library's: a name is ASCII
without spaces, a value may be any text, and what is not UTF-8 in it is replaced.
"""

from __future__ import annotations

from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, CRLF_SIZE, Parser

LARGE_BYTES = 64 * 1024
"""Messages from here on are put aside: smaller ones mostly arrive in one piece."""

_VERSION = b"NATS/1.0\r\n"


class BlockParser(Parser):
    """`nats.protocol.parser.Parser` for a client that reads large messages."""

    def reset(self) -> None:
        """Begin anew, with a new connection."""
        super().reset()
        self._pieces: list[bytes | bytearray] = []
        self._aside = 0  # bytes in them

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read, and give every message that is complete to the client."""
        if self._pieces:
            self._pieces.append(data)
            self._aside += len(data)
            if self._aside < self.needed + CRLF_SIZE:
                return
            data = await self._complete()
        await super().parse(data)
        if self.state == AWAITING_MSG_PAYLOAD and self.needed >= LARGE_BYTES:
            self._pieces, self._aside = [self.buf], len(self.buf)
            self.buf = bytearray()

    async def _complete(self) -> bytes:
        """Give the message that is put aside to the client; what was read behind it."""
        size, head, pieces = self.needed, self.header_needed, self._pieces
        over = self._aside - size  # the message's end mark, and what was read behind it
        if len(pieces[0]) < head or len(pieces[-1]) < over:
            pieces = [b"".join(pieces)]
        header = bytes(pieces[0][:head]) if head else None
        behind = bytes(pieces[-1][len(pieces[-1]) - over :])
        views = [memoryview(piece) for piece in pieces]
        views[0] = views[0][head:]
        views[-1] = views[-1][: len(views[-1]) - over]
        body = b"".join(views)
        self._pieces, self._aside = [], 0
        self.state, self.header_needed = AWAITING_CONTROL_LINE, 0
        named = self.msg_arg
        await self.nc._process_msg(named["sid"], named["subject"], named["reply"], body, header)
        return behind[CRLF_SIZE:]


def headers_of(raw: bytes) -> dict[str, str] | None:
    """The headers of a message; None for the form that carries a status, which the library reads."""
    if not raw.startswith(_VERSION):
        return None
    found = {}
    for line in raw[len(_VERSION) :].decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.strip()
        if colon and name.isascii() and len(name.split()) <= 1:
            found[name] = value.strip()
    return found
