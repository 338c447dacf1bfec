"""Many readers of the event stream in a process of their own: `python -m benchmarks.gateway_watchers PORT TOKEN COUNT`.

Each is one connection that takes gzip, as browsers do, and whose bytes are dropped: in the kernel, where it offers that
(MSG_TRUNC of Linux), because people who watch sit at other machines, and what reading costs there is not the mesh's. A
line says when all are connected; the process lasts until its input is closed.
"""

from __future__ import annotations

import selectors
import socket
import sys

from benchmarks.parts import HOST

AT = "/api/v1/events"
DROP = getattr(socket, "MSG_TRUNC", 0)
READ_BYTES = 1 << 20
PAUSE_S = 0.05
"""Between two looks at all sockets: their buffers hold what comes meanwhile."""


def opened(port: int, token: str) -> socket.socket:
    """One watcher that has begun. SystemExit when it was refused."""
    watcher = socket.create_connection((HOST, port))
    head = f"GET {AT} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\nAccept-Encoding: gzip\r\n\r\n"
    watcher.sendall(head.encode())
    answer = watcher.recv(READ_BYTES)
    if b" 200 " not in answer.split(b"\r\n")[0]:
        raise SystemExit(f"a watcher was refused: {answer[:80]!r}")
    watcher.setblocking(False)
    return watcher


def drop(watcher: socket.socket, room: bytearray) -> None:
    """Take what has come. SystemExit when the stream has ended."""
    try:
        while True:
            took = watcher.recv_into(room, READ_BYTES, DROP)
            if not took:
                raise SystemExit("a watcher's stream ended")
            if took < READ_BYTES:
                return
    except BlockingIOError:
        return


def main(port: int, token: str, count: int) -> None:
    """All of them."""
    room, ready = bytearray(READ_BYTES), selectors.DefaultSelector()
    watchers = [opened(port, token) for _ in range(count)]
    print('{"open": true}', flush=True)
    ready.register(sys.stdin, selectors.EVENT_READ)
    while not ready.select(PAUSE_S):
        for watcher in watchers:
            drop(watcher, room)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
