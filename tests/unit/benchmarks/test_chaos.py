"""The storm: a seed is a script; links are cut and mended; outboxes and streams are weighed against each other."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks import chaos_judge
from benchmarks.chaos import Blow, Strike, script
from benchmarks.chaos_books import Books, Line
from benchmarks.chaos_judge import Outboxes
from benchmarks.chaos_link import Link
from mesh.messages.base import Epoch, Key
from mesh.messages.leases import Receipt
from mesh.outbox import Outbox


def first(count: int, seed: int) -> list[Strike]:
    return list(itertools.islice(script(seed, 2.0), count))


def test_a_seed_is_a_script():
    assert first(50, 7) == first(50, 7)
    assert first(50, 7) != first(50, 8)


def test_every_blow_comes_and_its_pauses_are_bounded():
    strikes = first(2_000, 1)
    assert {strike.blow for strike in strikes} == set(Blow)
    assert max(strike.after_s for strike in strikes) <= 8.0
    assert 1.5 < sum(strike.after_s for strike in strikes) / len(strikes) < 2.2
    assert all(0 <= strike.victim < 1 for strike in strikes)


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    threading.Thread(target=answer, args=(peer,), daemon=True).start()

        def answer(peer: socket.socket) -> None:
            with peer, contextlib.suppress(OSError):
                while data := peer.recv(1024):
                    peer.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def test_a_closed_link_ends_connections_and_refuses_new_ones_until_it_is_mended(echo):
    with Link("w1", echo) as link:
        with socket.create_connection(("127.0.0.1", link.port), timeout=5) as worker:
            worker.sendall(b"one")
            assert worker.recv(10) == b"one"
            link.cut(silent=False)
            with contextlib.suppress(ConnectionError):
                assert worker.recv(10) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", link.port), timeout=5)
        link.mend()
        with socket.create_connection(("127.0.0.1", link.port), timeout=5) as worker:
            worker.sendall(b"two")
            assert worker.recv(10) == b"two"


def test_a_silent_link_keeps_what_was_on_its_way(echo):
    with Link("w1", echo) as link, socket.create_connection(("127.0.0.1", link.port), timeout=5) as worker:
        worker.sendall(b"one")
        assert worker.recv(10) == b"one"
        link.cut(silent=True)
        worker.sendall(b"two")
        worker.settimeout(0.2)
        with pytest.raises(TimeoutError):
            worker.recv(10)
        link.mend()
        worker.settimeout(5)
        assert worker.recv(10) == b"two"


# -- the judge --------------------------------------------------------------------------------------------------------


def test_a_look_into_an_outbox_finds_results_rows_owed_and_rows_refused(tmp_path):
    folder = tmp_path / "w1"
    folder.mkdir()
    box = Outbox(folder)
    for task, kind in (("a", "result"), ("b", "result"), ("c", "checkpoint"), ("d", "result")):
        box.record(Key(task, Epoch(1, 1), kind, 1), "subject", b"row")
    box.settle(Receipt(key=Key("a", Epoch(1, 1), "result", 1), recorded=True))
    box.settle(Receipt(key=Key("d", Epoch(1, 1), "result", 1), recorded=False, reason="stale"))
    try:  # not closed: a killed worker leaves its write-ahead log behind
        found = Outboxes()
        assert found.look(folder) == 2
    finally:
        box.close()
    assert found.promised == {"a", "b"}
    assert len(found.refused) == 1
    assert found.look(tmp_path / "never-started") == 0


def books(**successes: int) -> Books:
    found = Books()
    for task, count in successes.items():
        found.lines[task] = Line(successes=count, ended="succeeded" if count else "")
    return found


def weigh(of: Books, promised: set[str], told: dict[str, int], wanted: int | None = None) -> chaos_judge.Verdict:
    return chaos_judge.weigh(of, Counter(told), [], wanted or len(of.lines), Outboxes(promised=promised))


def test_what_is_recorded_once_and_told_once_is_sound():
    assert weigh(books(a=1, b=1), {"a"}, {"a": 1, "b": 1}).sentences() == []


@pytest.mark.parametrize(
    ("of", "promised", "told", "complaint"),
    [
        (books(a=0), {"a"}, {}, "lost: a (0 on the ledger, 0 on RESULTS)"),
        (books(), {"a"}, {}, "lost: a (unknown, no on the ledger, 0 on RESULTS)"),
        (books(a=1), {"a"}, {}, "lost: a (1 on the ledger, 0 on RESULTS)"),
        (books(a=1), set(), {}, "ledger: a succeeded, and RESULTS does not say so"),
        (books(a=0), set(), {"a": 1}, "ledger: a succeeded only on RESULTS"),
        (books(a=2), set(), {"a": 1}, "recorded twice: a"),
        (books(a=1), set(), {"a": 2}, "recorded twice: a"),
        (books(a=0), set(), {}, "never ended: a"),
    ],
)
def test_whatever_is_wrong_is_said(of, promised, told, complaint):
    assert complaint in weigh(of, promised, told).sentences()


def test_submitted_tasks_that_the_ledger_does_not_know_never_ended():
    verdict = weigh(books(a=1), set(), {"a": 1}, wanted=3)
    assert verdict.open == ["2 submitted tasks are not on the ledger"]
