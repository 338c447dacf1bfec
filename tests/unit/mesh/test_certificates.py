"""The home's own authority and what it vouches for: verified by Python's TLS, renewed in time, never for others."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import certificates
from mesh.certificates import AUTHORITY_S, CERTIFICATE_S, DAY_S, authority, combined, fingerprint, prepare, renew_in_s
from mesh.errors import EnvironmentUnfit

NAMES = ("localhost", "127.0.0.1", "::1", "mesh.lab")


def shaken(folder: Path, name: str, trusted: Path | None = None) -> str:
    """What a client that trusts this authority says to the server as `name`; '' when it is content."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(combined(folder))
    client = ssl.create_default_context(cafile=trusted or authority(folder))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of Python 3.13
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                return str(error)
    return "" if ours.getpeercert() else "no certificate was shown"


def test_what_is_made_serves_for_its_names_and_no_others(tmp_path: Path) -> None:
    assert prepare(tmp_path / "tls", NAMES)
    assert [shaken(tmp_path / "tls", name) for name in NAMES] == ["", "", "", ""]
    assert "doesn't match" in shaken(tmp_path / "tls", "evil.lab") or "mismatch" in shaken(tmp_path / "tls", "evil.lab")
    prepare(tmp_path / "other", NAMES)
    assert "verify failed" in shaken(tmp_path / "tls", "localhost", authority(tmp_path / "other"))


def test_keys_are_private_and_the_chain_holds_the_authority(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES)
    assert [(tmp_path / name).stat().st_mode & 0o077 for name in ("ca.key", "server.pem")] == [0, 0]
    assert combined(tmp_path).read_text().endswith(authority(tmp_path).read_text())
    der = ssl.PEM_cert_to_DER_cert(authority(tmp_path).read_text())
    assert fingerprint(authority(tmp_path)) == hashlib.sha256(der).hexdigest()
    assert "PRIVATE" not in authority(tmp_path).read_text()


def test_a_certificate_is_made_anew_in_time_by_the_same_authority(tmp_path: Path) -> None:
    now_s = 1_800_000_000.0
    prepare(tmp_path, NAMES, now_s=now_s)
    vouches, first = fingerprint(authority(tmp_path)), combined(tmp_path).read_bytes()
    assert renew_in_s(tmp_path, NAMES, now_s=now_s) == pytest.approx(60 * DAY_S)
    assert not prepare(tmp_path, NAMES, now_s=now_s + 59 * DAY_S)
    assert combined(tmp_path).read_bytes() == first
    assert prepare(tmp_path, NAMES, now_s=now_s + 61 * DAY_S)
    assert combined(tmp_path).read_bytes() != first
    assert fingerprint(authority(tmp_path)) == vouches
    assert AUTHORITY_S > 30 * CERTIFICATE_S


def test_a_new_name_asks_for_a_new_certificate(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES)
    assert renew_in_s(tmp_path, ("localhost",)) > 0
    assert renew_in_s(tmp_path, ("new.lab",)) == 0
    assert prepare(tmp_path, ("new.lab",))
    assert certificates.names_in(tmp_path) == ["new.lab"]
    assert shaken(tmp_path, "new.lab") == ""


@pytest.mark.parametrize("lost", ["server.pem", "server.json", "ca.pem"])
def test_what_a_crash_left_out_is_made_anew(tmp_path: Path, lost: str) -> None:
    prepare(tmp_path, NAMES)
    (tmp_path / lost).unlink()
    assert prepare(tmp_path, NAMES)
    assert shaken(tmp_path, "localhost") == ""
    assert not prepare(tmp_path, NAMES)


def test_a_clock_that_was_wrong_is_noticed(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES, now_s=1_900_000_000.0)
    assert renew_in_s(tmp_path, NAMES, now_s=1_800_000_000.0) == 0


def test_an_authority_without_its_key_is_said(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES)
    other = tmp_path / "other"
    prepare(other, NAMES)
    (tmp_path / "ca.key").write_bytes((other / "ca.key").read_bytes())
    (tmp_path / "server.json").write_text(json.dumps({}))
    with pytest.raises(EnvironmentUnfit, match="the key is another one's"):
        prepare(tmp_path, NAMES)
    with pytest.raises(EnvironmentUnfit, match="must be a certificate"):
        fingerprint(tmp_path / "ca.key")


def test_looking_costs_no_library(tmp_path: Path) -> None:
    prepare(tmp_path, NAMES)
    code = (
        "import sys; from pathlib import Path; from mesh import certificates as c; "
        f"assert not c.prepare(Path({str(tmp_path)!r}), {NAMES!r}); "
        f"c.fingerprint(c.authority(Path({str(tmp_path)!r}))); "
        "print([name for name in sys.modules if name.startswith('cryptography')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
