"""The line by which another machine joins: all that it needs to know, and no secret."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from agents.commands.up import NEEDED, SHARED, check, join_line, listens
from mesh.errors import SettingsInvalid
from mesh.setting_tree import BACKENDS, ArtifactSettings, BrokerSettings, Settings
from mesh.settings import load
from mesh.stores import home_of

URL, SHOWN = "nats://127.0.0.1:41234", "nats://lab:4222"


def line(own: bool = False, prefix: str = "mesh", **artifacts: Any) -> str:
    return join_line(URL, SHOWN, Settings(prefix=prefix, artifacts=ArtifactSettings(**artifacts)), own=own)


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "RAMIFY_", "NATS_")):
            monkeypatch.delenv(name)


def test_the_usual_mesh_is_joined_by_its_address_alone() -> None:
    assert line() == "join from another machine:  bin/agent worker --server nats://lab:4222"
    assert re.search(r"ssh -N -L 4222:127.0.0.1:41234 \S+ &  bin/agent worker --server \S+4222$", line(own=True))


def test_a_mesh_of_another_name_is_joined_by_it() -> None:
    assert line(prefix="lab").endswith(" bin/agent worker --server nats://lab:4222 --prefix lab")
    assert line(own=True, prefix="lab").endswith(" --prefix lab")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "artifacts",
    [
        {"backend": "folder", "folder": "/mnt/the lab/ramify"},
        {"backend": "s3", "s3_bucket": "models"},
        {
            "backend": "s3", "s3_bucket": "models", "s3_prefix": "a/b", "s3_region": "eu-1",
            "s3_endpoint": "https://minio.lab:9000",
        },
    ],
)  # fmt: skip
def test_artifacts_elsewhere_are_named_so_that_the_joining_worker_finds_them(
    own: bool, artifacts: dict[str, str], tmp_path: Path
) -> None:
    """What the line says, read as the other machine's shell and program read it, is the same place."""
    before = re.split(r":  |&  ", line(own, **artifacts))[-1].partition("bin/agent")[0]
    environ = dict(word.split("=", 1) for word in shlex.split(before))
    joined = load({}, environ, tmp_path)
    assert joined.artifacts == ArtifactSettings(**artifacts)
    assert home_of(joined) == home_of(Settings(artifacts=ArtifactSettings(**artifacts)))


def test_no_secret_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://me:hidden@minio.lab:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    keys: Any = dict.fromkeys(("s3_access_key_id", "s3_secret_access_key", "s3_session_token"), "hidden")
    told = line(backend="s3", s3_bucket="models", **keys)
    assert "minio.lab:9000" in told, "where the environment says it is"
    assert "hidden" not in told


def test_every_backend_but_the_usual_one_is_thought_of() -> None:
    assert {*BACKENDS} - {"broker"} == SHARED.keys() == NEEDED.keys()


def test_a_guarded_broker_says_where_it_is_reached_and_how_to_join(tmp_path: Path) -> None:
    broker = BrokerSettings(listen="10.0.0.7", advertise=("mesh.example.org:4333", "fe80::1"))
    said = "\n".join(listens("tls://10.0.0.7:4222", Settings(home=tmp_path, broker=broker)))
    assert "other machines reach it at mesh.example.org:4333, [fe80::1]:4222\n" in said
    assert "bin/agent invite" in said
    assert "ssh" not in said
    on_loopback = "\n".join(listens("tls://127.0.0.1:41234", Settings(home=tmp_path)))
    assert "--listen ADDRESS lets other machines reach it" in on_loopback


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"nats.url": "nats://lab", "broker.listen": "0.0.0.0"}, "leave one of both out"),
        ({"broker.advertise": "mesh.lab"}, "give --listen ADDRESS"),
    ],
)
def test_wishes_that_exclude_each_other_are_said(chosen: dict[str, str], match: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=match):
        check(load({"home": str(tmp_path), **chosen}, {}, tmp_path))
