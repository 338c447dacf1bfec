"""What a machine remembers of its mesh: private, complete or not there, and used where no other broker is meant."""

from __future__ import annotations

import hashlib
import ssl
import stat
from pathlib import Path

import pytest

from mesh import settings as mesh_settings
from mesh.errors import EnvironmentUnfit, SettingsInvalid
from mesh.membership import Membership, Place, with_membership
from mesh.messages.membership import Joined
from mesh.setting_tree import Settings
from tests.support.authorities import Authority

AUTHORITY = Authority()
JOINED = Joined(
    name="lab-2", role="worker", prefix="mesh", servers=("tls://192.0.2.7:4222", "tls://mesh.example:4222"),
    artifacts={"backend": "folder", "folder": "/disk", "s3_secret_access_key": "no", "bytes_max": "1"},
)  # fmt: skip


def settings(home: Path, **flags: object) -> Settings:
    return mesh_settings.load({"home": str(home), **flags}, {}, home)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.make()
    place.write(place.seed, b"SUSEED")
    place.write(place.authority, AUTHORITY.pem.encode())
    place.store(Membership.of(JOINED, AUTHORITY.fingerprint, 1_700_000_000_000))
    return place


def test_nothing_is_remembered_before_the_last_file(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.make()
    place.write(place.seed, b"SUSEED")
    place.write(place.authority, AUTHORITY.pem.encode())

    assert place.load() is None
    assert with_membership(settings(tmp_path)) is None


def test_everything_is_private(place: Place) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [place.folder, *place.folder.iterdir()]}

    assert modes == {"membership": 0o700, "seed.nk": 0o600, "ca.pem": 0o600, "membership.json": 0o600}


def test_the_mesh_is_reached_as_who_has_joined(place: Place) -> None:
    found = with_membership(settings(place.home))

    assert found is not None
    assert found.nats.servers == JOINED.servers
    assert (found.nats.nkey, found.nats.ca, found.nats.name) == (str(place.seed), str(place.authority), "lab-2")
    assert found.worker.name == "lab-2"
    assert (found.artifacts.backend, found.artifacts.folder) == ("folder", "/disk")


def test_secrets_and_what_is_unknown_do_not_come_along(place: Place) -> None:
    found = place.load()

    assert found is not None
    assert found.artifacts == {"backend": "folder", "folder": "/disk"}


def test_a_place_of_artifacts_that_is_said_here_stays(place: Place) -> None:
    found = with_membership(settings(place.home, **{"artifacts.folder": "/mnt/disk"}))

    assert found is not None
    assert (found.artifacts.backend, found.artifacts.folder) == ("folder", "/mnt/disk")


def test_another_mesh_is_another_membership(place: Place) -> None:
    with pytest.raises(SettingsInvalid, match=r"prefix must be 'mesh' here, got 'other'.*bin/agent leave"):
        with_membership(settings(place.home, prefix="other"))


def test_leaving_forgets_the_key_too(place: Place) -> None:
    assert place.forget()
    assert not place.forget()
    assert list(place.folder.iterdir()) == []
    assert place.load() is None


def _another_authority(place: Place) -> None:
    place.write(place.authority, Authority("other").pem.encode())


def _no_seed(place: Place) -> None:
    place.seed.unlink()


def _no_authority(place: Place) -> None:
    place.authority.unlink()


def _torn(place: Place) -> None:
    place.note.write_text(place.note.read_text()[:40])


def _newer(place: Place) -> None:
    found = place.load()
    assert found is not None
    place.store(Membership(**{name: getattr(found, name) for name in found.__struct_fields__} | {"version": 9}))


@pytest.mark.parametrize("damage", [_another_authority, _no_seed, _no_authority, _torn, _newer])
def test_what_is_damaged_is_one_sentence(place: Place, damage: object) -> None:
    damage(place)  # type: ignore[operator]

    with pytest.raises(EnvironmentUnfit, match=r"can not be used \(.+\): `bin/agent leave` forgets it"):
        place.load()


def test_the_fingerprint_says_which_mesh_it_is() -> None:
    der = ssl.PEM_cert_to_DER_cert(AUTHORITY.pem)

    assert Membership.of(JOINED, AUTHORITY.fingerprint, 0).authority == hashlib.sha256(der).hexdigest()
