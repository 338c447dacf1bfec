"""To be introduced by a fingerprint: the right server is known, everybody else is told apart, and nothing is sent."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from mesh.errors import BrokerRefused, BusUnavailable, EnvironmentUnfit
from mesh.introductions import introduce, unverified_chain
from tests.support.authorities import Authority, greeting

LOCAL = ["127.0.0.1", "localhost"]
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def mesh() -> Authority:
    return Authority()


def test_the_authority_of_the_fingerprint_is_kept(mesh: Authority, tmp_path: Path) -> None:
    with greeting(mesh.server(tmp_path, LOCAL)) as (address, heard):
        found = introduce([address], mesh.fingerprint, timeout_s=PATIENCE_S)

    assert found == (address, mesh.pem)
    assert heard == []


def test_another_authority_is_somebody_else(mesh: Authority, tmp_path: Path) -> None:
    stranger = Authority()
    with (
        greeting(stranger.server(tmp_path, LOCAL)) as (address, heard),
        pytest.raises(BrokerRefused, match=f"fingerprint {mesh.fingerprint.hex()[:16]}…, got .*stand between"),
    ):
        introduce([address], mesh.fingerprint, timeout_s=PATIENCE_S)

    assert heard == []


def test_who_only_shows_the_authoritys_certificate_is_not_believed(mesh: Authority, tmp_path: Path) -> None:
    """The certificate is public: a man in the middle sends it behind one of his own making."""
    stranger = Authority()
    stranger.certificate = mesh.certificate
    with (
        greeting(stranger.server(tmp_path, LOCAL)) as (address, heard),
        pytest.raises(BrokerRefused, match="can not prove it"),
    ):
        introduce([address], mesh.fingerprint, timeout_s=PATIENCE_S)

    assert heard == []


@pytest.mark.parametrize(
    ("from_days", "to_days", "words"), [(1, 90, "is not valid yet"), (-90, -1, "has expired")], ids=["early", "late"]
)
def test_a_clock_that_can_not_be_right_is_named(
    mesh: Authority, tmp_path: Path, from_days: int, to_days: int, words: str
) -> None:
    context = mesh.server(tmp_path, LOCAL, from_days=from_days, to_days=to_days)
    with greeting(context) as (address, _), pytest.raises(EnvironmentUnfit, match=f"{words}.*Set the clock"):
        introduce([address], mesh.fingerprint, timeout_s=PATIENCE_S)


def test_an_address_that_the_certificate_does_not_name(mesh: Authority, tmp_path: Path) -> None:
    with (
        greeting(mesh.server(tmp_path, ["mesh.example"])) as (address, _),
        pytest.raises(BrokerRefused, match=r"--advertise 127\.0\.0\.1"),
    ):
        introduce([address], mesh.fingerprint, timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no broker"),
        (b"INFO {}\r\n", "offers no TLS"),
        (b"INFO x\r\n", "no broker"),
        (b"", "no broker"),
        (b"I" * 100_000, "no broker"),
    ],
)
def test_what_is_no_broker_of_a_mesh(mesh: Authority, first: bytes, words: str) -> None:
    with greeting(None, first) as (address, _), pytest.raises(BrokerRefused, match=words):
        introduce([address], mesh.fingerprint, timeout_s=PATIENCE_S)


def test_who_breaks_off_in_the_handshake(mesh: Authority) -> None:
    with greeting(None) as (address, _), pytest.raises((BusUnavailable, BrokerRefused), match=address):
        introduce([address], mesh.fingerprint, timeout_s=PATIENCE_S)


def test_nobody_there(mesh: Authority) -> None:
    with pytest.raises(BusUnavailable, match=r"can not be reached at .*firewall"):
        introduce([_closed()], mesh.fingerprint, timeout_s=PATIENCE_S)


def test_the_second_address_does_as_well(mesh: Authority, tmp_path: Path) -> None:
    with greeting(mesh.server(tmp_path, LOCAL)) as (address, _):
        assert introduce([_closed(), address], mesh.fingerprint, timeout_s=PATIENCE_S)[0] == address


def test_somebody_else_tells_more_than_nobody(mesh: Authority, tmp_path: Path) -> None:
    with (
        greeting(Authority().server(tmp_path, LOCAL)) as (address, _),
        pytest.raises(BrokerRefused, match="stand between"),
    ):
        introduce([_closed(), address, _closed()], mesh.fingerprint, timeout_s=PATIENCE_S)


def test_the_chain_is_read_as_newer_pythons_give_it() -> None:
    class Newer:
        def get_unverified_chain(self) -> list[bytes]:
            return [b"leaf", b"authority"]

    newer: ssl.SSLSocket = Newer()  # type: ignore[assignment]

    assert unverified_chain(newer) == [b"leaf", b"authority"]


def _closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"
