"""Tokens: what the file keeps, who is known by them, and the commands that issue, list and revoke them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from agents import cli
from agents.gateway_limits import Buckets, Places, address_of
from agents.gateway_problems import Refused
from agents.gateway_tokens import LIFE_S_MAX, Identity, TokenRole, Tokens
from mesh import members, nkeypairs
from mesh.errors import Conflict, EnvironmentUnfit, NotFound, SettingsInvalid


def test_the_file_keeps_no_secret_and_is_its_owners_alone(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    secret, _ = tokens.issue(TokenRole.WORKER, "w1", 60.0)
    assert secret not in tokens.path.read_text()
    assert len(secret) > 40
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tokens.path.parent.stat().st_mode) == 0o700


def test_a_token_is_known_until_it_ends_or_is_revoked(tmp_path: Path) -> None:
    now = [1_000_000]
    tokens, commands = Tokens(tmp_path, lambda: now[0]), Tokens(tmp_path, lambda: now[0])
    assert isinstance(tokens.identify("rmf_guess"), str)
    secret, _ = commands.issue(TokenRole.PUBLISHER, "anna", 60.0)
    assert tokens.identify(secret) == Identity(name="anna", role=TokenRole.PUBLISHER)
    assert isinstance(tokens.identify(secret + "x"), str)
    assert isinstance(tokens.identify("é" * 10), str)
    assert isinstance(tokens.identify("a" * 10_000), str)
    now[0] += 60_000
    assert tokens.identify(secret) == "the token of 'anna' has expired"
    other, _ = commands.issue(TokenRole.OBSERVER, "anna", 60.0)  # the name is free again
    assert tokens.identify(other) == Identity(name="anna", role=TokenRole.OBSERVER)
    commands.revoke("anna")
    assert isinstance(tokens.identify(other), str)


def test_what_can_not_be_issued_is_refused(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    tokens.issue(TokenRole.WORKER, "w1", 60.0)
    with pytest.raises(Conflict):
        tokens.issue(TokenRole.OPERATOR, "w1", 60.0)
    for name, life_s in (("W 1", 60.0), ("", 60.0), ("w2", 0.0), ("w2", LIFE_S_MAX + 1)):
        with pytest.raises(SettingsInvalid):
            tokens.issue(TokenRole.WORKER, name, life_s)
    with pytest.raises(NotFound):
        tokens.revoke("w2")
    assert [one.name for one in tokens.listed()] == ["w1"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": [{"name": "a"}]}', '{"tokens": 5}'])
def test_a_file_that_is_none_of_ours_lets_nobody_in(tmp_path: Path, text: str) -> None:
    tokens = Tokens(tmp_path)
    secret, _ = tokens.issue(TokenRole.WORKER, "w1", 60.0)
    tokens.path.write_text(text)
    with pytest.raises(EnvironmentUnfit):
        tokens.identify(secret)
    with pytest.raises(EnvironmentUnfit):
        tokens.identify(secret)


def test_the_commands_issue_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path)]
    assert cli.main(["token", "issue", "--role", "observer", "--name", "board", "--expires", "7d", *home]) == 0
    secret = capsys.readouterr().out.strip()
    assert Tokens(tmp_path).identify(secret) == Identity(name="board", role=TokenRole.OBSERVER)
    assert cli.main(["token", "issue", "--role", "worker", "--json", "-", *home]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Tokens(tmp_path).identify(made["token"]) == Identity(name=made["name"], role=TokenRole.WORKER)
    assert cli.main(["token", "list", *home]) == 0
    table = capsys.readouterr().out
    assert "board" in table
    assert secret not in table
    assert cli.main(["token", "revoke", "board", *home]) == 0
    assert isinstance(Tokens(tmp_path).identify(secret), str)
    assert cli.main(["token", "revoke", "board", *home]) == NotFound.exit_code


@pytest.mark.parametrize(
    "words",
    [["issue"], ["issue", "anna", "--role", "observer"], ["revoke"], ["list", "x"], ["list", "--role", "worker"],
     ["issue", "--role", "king"], ["issue", "--role", "worker", "--name", "W 1"]],
)  # fmt: skip
def test_options_that_do_not_belong_are_refused(tmp_path: Path, words: list[str]) -> None:
    assert cli.main(["token", *words, "--home", str(tmp_path)]) == SettingsInvalid.exit_code
    assert Tokens(tmp_path).listed() == ()


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_bucket_fills_up_again_and_one_callers_is_not_anothers() -> None:
    now = [0.0]
    buckets = Buckets(2.0, 4.0, lambda: now[0])
    assert [buckets.take("a") for _ in range(5)] == [0.0] * 4 + [0.5]
    assert buckets.take("b") == 0.0
    now[0] = 0.5
    assert buckets.take("a") == 0.0
    assert buckets.take("a") > 0.0
    now[0] = 1_000.0
    assert [buckets.take("a") for _ in range(5)] == [0.0] * 4 + [0.5]


def test_the_table_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.gateway_limits.BUCKETS_MAX", 3)
    buckets = Buckets(1.0, 1.0, lambda: 0.0)
    for caller in "abcd":
        buckets.take(caller)
    assert len(buckets._left) == 3
    assert buckets.take("d") > 0.0


def test_places_are_bounded_for_one_and_for_all() -> None:
    places = Places(3, 2, "streams")
    with places.one("a"), places.one("a"):
        with pytest.raises(Refused) as own, places.one("a"):
            pass
        assert own.value.status == 429
        with places.one("b"):
            with pytest.raises(Refused) as all_, places.one("c"):
                pass
            assert all_.value.status == 503
    assert places.taken == 0
    with places.one("a"):
        assert places.taken == 1


@pytest.mark.parametrize(
    ("remote", "forwarded", "address"),
    [
        ("10.0.0.7", "", "10.0.0.7"),
        ("127.0.0.1", "1.1.1.1, 10.0.0.7", "10.0.0.7"),
        ("2001:db8::1:2:3", "", "2001:db8::/64"),
        ("::ffff:10.0.0.7", "", "::ffff:a00:7"),
        (None, "", "unknown"),
        ("127.0.0.1", "nonsense", "unknown"),
    ],
)
def test_who_is_counted_together(remote: str | None, forwarded: str, address: str) -> None:
    found = address_of(remote, forwarded)
    assert found in (address, "::ffff:10.0.0.7") if remote and remote.startswith("::ffff") else found == address


def test_a_worker_over_http_gets_no_name_of_a_machine_that_has_joined(tmp_path: Path) -> None:
    key = nkeypairs.make(tmp_path / "seed")
    machine = members.Member(name="gpu1", role="worker", key=key, since_ms=1)
    (tmp_path / "broker").mkdir()
    members.store(tmp_path / "broker", members.Members(members=(machine,)))
    issue = ["token", "issue", "--home", str(tmp_path), "--role", "worker", "--name"]
    assert cli.main([*issue, "gpu1"]) == Conflict.exit_code
    assert Tokens(tmp_path).listed() == ()
    assert cli.main([*issue, "gpu2"]) == 0
    assert [one.name for one in Tokens(tmp_path).listed()] == ["gpu2"]
