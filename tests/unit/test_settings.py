"""Sources and their order, what is refused and in which words, masking, contexts, and the page that lists them all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mesh import setting_values
from mesh import settings as settings_
from mesh.errors import SettingsInvalid
from mesh.setting_tree import SECTIONS, Settings, known

ROOT = Path(__file__).parents[2]


def load(
    tmp_path: Path, flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, toml: str = ""
) -> Settings:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "ramify.toml").write_text(toml)
    return settings_.load({"home": str(home)} | (flags or {}), {"HOME": str(tmp_path)} | (environ or {}), tmp_path)


def refused(tmp_path: Path, **sources: Any) -> str:
    with pytest.raises(SettingsInvalid) as error:
        load(tmp_path, **sources)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


def save_context(tmp_path: Path, name: str = "lab", **fields: object) -> None:
    folder = tmp_path / ".config" / "nats" / "context"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(fields))


# -- sources ----------------------------------------------------------------------------------------------------------


def test_defaults_stand_alone(tmp_path: Path) -> None:
    found = settings_.load({}, {}, tmp_path)
    assert found.home == ROOT / ".ramify"
    assert found.prefix == "mesh"
    assert not found.nats.named
    assert found.worker.name
    assert found.origin("prefix") == "default"


def test_later_sources_win_and_are_remembered(tmp_path: Path) -> None:
    toml = "prefix = 'from-file'\n[worker]\ncores = 2\nmemory_bytes = '2GiB'\n[scheduler]\nlost_s = '1m'\n"
    environ = {"RAMIFY_PREFIX": "from-env", "RAMIFY_WORKER_CORES": "3"}
    found = load(tmp_path, {"prefix": "from-flag", "worker.cores": None}, environ, toml)
    assert (found.prefix, found.origin("prefix")) == ("from-flag", "flag --prefix")
    assert (found.worker.cores, found.origin("worker.cores")) == (3.0, "environment RAMIFY_WORKER_CORES")
    assert found.worker.memory_bytes == 2 << 30
    assert found.scheduler.lost_s == 60.0
    assert found.origin("worker.memory_bytes").endswith("ramify.toml")


def test_a_named_file_replaces_the_one_in_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("prefix = 'other'\nhome = 'state'\n")
    for source in ({"config": "other.toml"}, {}):
        environ = {} if source else {"RAMIFY_CONFIG": "other.toml"}
        found = settings_.load(source, environ, tmp_path)
        assert found.prefix == "other"
        assert found.home == tmp_path / "state"


def test_the_variables_of_the_nats_tool_count_and_ours_are_more_exact(tmp_path: Path) -> None:
    environ = {
        "NATS_URL": "one:4222, tls://two:4222",
        "NATS_USER": "u",
        "NATS_PASSWORD": "p",
        "NATS_SERVER_BIN": "/x/y",
    }
    found = load(tmp_path, environ=environ)
    assert found.nats.servers == ("nats://one:4222", "tls://two:4222")
    assert found.nats.named
    assert (found.nats.user, found.nats.password, found.broker.binary) == ("u", "p", "/x/y")
    assert load(tmp_path, environ=environ | {"RAMIFY_NATS_URL": "nats://three"}).nats.url == "nats://three"
    assert load(tmp_path, environ={"NATS_USER": "secret-token"}).nats.token == "secret-token"


def test_paths_start_where_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "here.creds").write_text("x")
    (tmp_path / "there.creds").write_text("x")
    assert load(tmp_path, toml="nats.creds = 'here.creds'").nats.creds == str(tmp_path / "home" / "here.creds")
    assert load(tmp_path, {"nats.creds": "there.creds"}).nats.creds == str(tmp_path / "there.creds")
    assert settings_.load({"home": "a/../b"}, {}, tmp_path).home == tmp_path / "b"


def test_every_setting_can_be_given_by_its_own_variable(tmp_path: Path) -> None:
    for name, shown in zip(known(), defaults(), strict=True):
        value = {"home": "h", "worker.labels": "a,b", "broker.advertise": "a,b"}.get(name, shown)
        origin = f"environment {settings_.variable(name)}"
        assert settings_.load({}, {settings_.variable(name): value}, tmp_path).origin(name) == origin


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0.5GiB", 1 << 29),
        ("70MB", 70_000_000),
        ("67108864", 64 << 20),
        ("64 mib", 64 << 20),
        ("1t", 10**12),
        ("auto", 0),
    ],
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    assert load(tmp_path, {"worker.memory_bytes": text}).worker.memory_bytes == size


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("0h30m", 1_800), ("1500ms", 1.5), ("2", 2), ("1m 5s", 65)])
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    assert load(tmp_path, {"worker.stop_grace_s": text}).worker.stop_grace_s == seconds


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (
            {"worker.memory_bytes": "lots"},
            "worker.memory_bytes must be a size such as 512MiB, 2GiB or a number of bytes",
        ),
        ({"worker.memory_bytes": "1KiB"}, "worker.memory_bytes must be at least 64MiB or auto; got '1KiB'"),
        ({"worker.stop_grace_s": "soon"}, "worker.stop_grace_s must be a duration such as"),
        ({"worker.cores": "-1"}, "worker.cores must be 0.1 to 4096 or auto; got '-1' from flag --cores"),
        ({"worker.cores": "nan"}, "worker.cores must be 0.1 to 4096 or auto"),
        ({"worker.cores": "0"}, "worker.cores must be 0.1 to 4096 or auto; got '0' from flag --cores"),
        ({"worker.disk_bytes": "0"}, "worker.disk_bytes must be at least 64MiB or auto; got '0'"),
        ({"worker.gpus": "-1"}, "worker.gpus must be 0 to 64 or auto; got '-1'"),
        ({"worker.gpus": "1.5"}, "worker.gpus must be a whole number or auto"),
        ({"worker.name": "Big Box"}, "worker.name must be one word of a-z"),
        ({"worker.low_priority": "maybe"}, "worker.low_priority must be true or false"),
        ({"log.level": "loud"}, "log.level must be one of debug, info, warning, error; got 'loud'"),
        ({"prefix": "a.b"}, "prefix must be one word"),
        ({"broker.port": "70000"}, "broker.port must be 0 to 65535; got '70000'"),
        ({"broker.host": "0.0.0.0"}, "broker.host must be a loopback address"),
        ({"broker.host": "127.evil.example"}, "broker.host must be a loopback address"),
        ({"scheduler.lost_s": 5}, "scheduler.lost_s must be more than suspect_beats times beat_s (6 s); got '5s'"),
        ({"scheduler.leader_lost_s": 1}, "scheduler.leader_lost_s must be at least twice leader_beat_s (2 s)"),
        ({"scheduler.back_off_s_first": 61}, "scheduler.back_off_s_max must be at least scheduler.back_off_s_first"),
        ({"nats.url": "a:1,http://b:2"}, "nats.url must be HOST:PORT, or an address that begins with one of nats, tls"),
        ({"nats.password": "x"}, "nats.password must be given together with nats.user"),
        ({"nats.cert": "x"}, "nats.cert must be given together with nats.key"),
        ({"nats.creds": "/not/there"}, "nats.creds must be the path of a readable file"),
        ({"nats.token": "t", "nats.user": "u", "nats.password": "p"}, "nats.user must be left out"),
        ({"worker.corse": 1}, "'worker.corse' in the flags is not known; did you mean 'worker.cores'?"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, flags: dict[str, object], wanted: str) -> None:
    assert wanted in refused(tmp_path, flags=flags)


@pytest.mark.parametrize(
    ("toml", "wanted"),
    [
        ("[workers]\ncores = 1", "The section 'workers' in"),
        ("[workers]\ncores = 1", "did you mean 'worker'?"),
        ("[worker]\ncoers = 1", "did you mean 'worker.cores'?"),
        ("worker = 3", "worker must be a table"),
        ("[worker]\ncores = 'two'", "worker.cores must be a number or auto; got 'two' from"),
        ("[worker]\ncores = true", "worker.cores must be a number or auto; got 'True'"),
        ("[worker]\nlabels = 'a,B c'", "worker.labels must be up to 64 times one word"),
        ("[worker]\nlabels = 7", "worker.labels must be a list of texts"),
        ('prefix = "a\\nb"', "prefix must be one line of text"),
        ("prefix = ", "must be a readable TOML file"),
        ("home = '/elsewhere'", "home can not be set in"),
    ],
)
def test_what_is_wrong_in_the_file(tmp_path: Path, toml: str, wanted: str) -> None:
    assert wanted in refused(tmp_path, toml=toml)


def test_unknown_variables_and_missing_files_are_refused(tmp_path: Path) -> None:
    assert "did you mean 'RAMIFY_WORKER_CORES'?" in refused(tmp_path, environ={"RAMIFY_WORKER_CORSE": "1"})
    assert "must exist" in refused(tmp_path, flags={"config": "nowhere.toml"})
    load(tmp_path, environ={"RAMIFY_VENV": "/x"})  # belongs to the bootstrap


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    environ = {"NATS_URL": "nats://joe:hunter2@host:4222", "NATS_USER": "joe", "NATS_PASSWORD": "hunter3"}
    found = load(tmp_path, environ=environ)
    shown = repr(found) + str(found) + repr(found.nats) + "".join(map(str, found.printable()))
    assert "hunter" not in shown
    assert "host:4222" in shown
    assert ("nats.password", "********", "environment NATS_PASSWORD") in found.printable()
    assert ("nats.token", "", "default") in found.printable()
    message = refused(tmp_path, environ=environ | {"NATS_PASSWORD": "hunter\n3"})
    assert "hunter" not in message
    assert "hunter" not in refused(tmp_path, environ={"NATS_URL": "nats://joe:hunter2@host\x01"})
    keys = {"artifacts.s3_access_key_id": "joe", "artifacts.s3_secret_access_key": "hunter4"}
    chosen = load(tmp_path, {**keys, "artifacts.s3_session_token": "hunter5"})
    assert "hunter" not in repr(chosen) + "".join(map(str, chosen.printable()))


def test_a_table_in_a_table_is_a_section(tmp_path: Path) -> None:
    path = tmp_path / "ramify.toml"
    path.write_text(
        '[planner.llm]\nurl = "http://localhost:8000/v1"\nmodel = "m"\napi_key = "hunter6"\ntimeout_s = "3s"\n'
    )
    found = load(tmp_path, {"config": str(path)})
    assert found.planner_llm.enabled
    assert (found.planner_llm.model, found.planner_llm.timeout_s) == ("m", 3.0)
    assert found.value("planner.llm.api_key") == "hunter6"
    assert "hunter6" not in repr(found) + "".join(map(str, found.printable()))
    assert not load(tmp_path).planner_llm.enabled
    for toml, named in (
        ("[planner]\nurl = 1", "planner.url"), ("[planner.lm]\nurl = 'x'", "planner.lm"), ("planner = 1", "planner"),
        ("[planner]\nllm = 1", "planner.llm"), ("[planner.llm]\nurl = 'localhost'", "planner.llm.url"),
        ("[planner.llm]\nurl = 'http://x'", "planner.llm.model"), ("[worker.more]\nx = 1", "worker.more"),
    ):  # fmt: skip
        path.write_text(toml)
        assert named in refused(tmp_path, flags={"config": str(path)})


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"artifacts.backend": "folder"}, "artifacts.folder"),
        ({"artifacts.backend": "s3"}, "artifacts.s3_bucket"),
        ({"artifacts.backend": "tape"}, "artifacts.backend"),
        ({"artifacts.s3_endpoint": "minio:9000"}, "artifacts.s3_endpoint"),
        ({"artifacts.s3_access_key_id": "joe"}, "artifacts.s3_secret_access_key"),
    ],
)
def test_a_home_of_artifacts_has_what_it_needs(tmp_path: Path, flags: dict[str, object], named: str) -> None:
    assert named in refused(tmp_path, flags=flags)


def test_what_is_printed_can_be_read_back(tmp_path: Path) -> None:
    found = load(tmp_path, {"worker.memory_bytes": "1536MiB", "scheduler.receipt_keep_s": 90, "worker.labels": "a,b"})
    flags: dict[str, object] = {name: value for name, value, _ in found.printable()}
    again = settings_.load(flags, {}, tmp_path)
    assert again == found


# -- contexts ---------------------------------------------------------------------------------------------------------


def test_a_named_context_counts_below_the_environment(tmp_path: Path) -> None:
    save_context(tmp_path, url="nats://lab:4222", user="u", password="p", jetstream_domain="leaf", description="x")
    found = load(tmp_path, {"nats.context": "lab"}, {"RAMIFY_NATS_JS_DOMAIN": "other"}, "nats.url = 'nats://file'")
    assert found.nats.servers == ("nats://lab:4222",)
    assert (found.nats.user, found.nats.js_domain) == ("u", "other")
    assert found.origin("nats.url") == "context lab"
    assert load(tmp_path, environ={"NATS_CONTEXT": "lab", "NATS_URL": "nats://env"}).nats.url == "nats://env"


def test_a_merely_selected_context_counts_only_where_asked_for(tmp_path: Path) -> None:
    save_context(tmp_path, url="nats://lab:4222", token="env://LAB_TOKEN")
    (tmp_path / ".config" / "nats" / "context.txt").write_text("lab\n")
    environ = {"HOME": str(tmp_path), "LAB_TOKEN": "t"}
    assert not settings_.load({"home": "h"}, environ, tmp_path).nats.named
    found = settings_.with_selected_context({"home": "h"}, environ, tmp_path)
    assert (found.nats.url, found.nats.token) == ("nats://lab:4222", "t")
    named = settings_.with_selected_context({"home": "h", "nats.url": "nats://x"}, environ, tmp_path)
    assert (named.nats.url, named.nats.token) == ("nats://x", "")


def test_contexts_that_can_not_be_used_are_refused(tmp_path: Path) -> None:
    flags: dict[str, object] = {"nats.context": "lab"}
    assert "'lab' is not there" in refused(tmp_path, flags=flags)
    save_context(tmp_path, url="x", socks_proxy="y", user_jwt="z")
    assert "also sets socks_proxy, user_jwt" in refused(tmp_path, flags=flags)
    save_context(tmp_path, url="x", creds="op://vault/x")
    assert "creds must be a plain value" in refused(tmp_path, flags=flags)
    (tmp_path / ".config" / "nats" / "context" / "lab.json").write_text("[")
    assert "must be a readable JSON file" in refused(tmp_path, flags=flags)
    assert "there are lab" in refused(tmp_path, flags={"nats.context": "lba"})


def test_a_context_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text("t\n")
    (tmp_path / "lab.json").write_text(json.dumps({"url": "nats://x", "token": f"file://{tmp_path}/token.txt"}))
    found = load(tmp_path, {"nats.context": "lab.json"})
    assert (found.nats.url, found.nats.token) == ("nats://x", "t")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.0.0.0", ("0.0.0.0", 4222)), ("10.0.0.7:4333", ("10.0.0.7", 4333)), ("::", ("::", 4222)),
        ("[fe80::1]:4333", ("fe80::1", 4333)), ("mesh.example.org:0", ("mesh.example.org", 0)),
        *((text, None) for text in ("", " ", "a b", "1.2.3", "1.2.3.400", "host:", "host:65536", "[::1", "a/b")),
    ],
)  # fmt: skip
def test_a_place_is_a_host_with_or_without_a_port(text: str, found: tuple[str, int] | None) -> None:
    assert setting_values.place(text, 4222) == found


def test_elsewhere_than_on_loopback_a_broker_listens_only_with_keys(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="bin/agent up --listen ADDRESS"):
        load(tmp_path, {"broker.host": "0.0.0.0"})
    found = load(tmp_path, {"broker.listen": "0.0.0.0", "broker.advertise": "mesh.lab,10.0.0.7:4333"})
    assert (found.broker.listen, found.broker.advertise) == ("0.0.0.0", ("mesh.lab", "10.0.0.7:4333"))
    for name in ("broker.listen", "broker.advertise"):
        with pytest.raises(SettingsInvalid, match=name):
            load(tmp_path, {name: "no where"})


def test_a_worker_has_the_name_of_its_credentials(tmp_path: Path) -> None:
    assert load(tmp_path, {"nats.name": "w7"}).worker.name == "w7"
    assert load(tmp_path, {"nats.name": "w7", "worker.name": "other"}).worker.name == "other"


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_lists_every_setting() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| `[a-z0-9_.]+` \|", line)]
    assert rows == [row(name, shown) for name, shown in zip(known(), defaults(), strict=True)]
    for section, type_ in SECTIONS.items():
        assert f"## {section}\n\n{(type_.__doc__ or '').strip()}\n" in page


def row(name: str, shown: str) -> str:
    """A setting as its line in the page."""
    flag = settings_.FLAGS.get(name, "")
    cells = (f"`{name}`", f"`{shown}`" if shown else "", f"`{flag}`" if flag else "", known()[name][1].help)
    return f"| {' | '.join(cells)} |"


def defaults() -> list[str]:
    shown = {name: value for name, value, _ in Settings().printable()}
    return [shown[name] if name != "home" else "" for name in known()]
