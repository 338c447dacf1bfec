"""Who may use the broker: what an invitation gives, to whom, how often and how long; and the file that keeps it."""

from __future__ import annotations

import base64
import binascii
import json
import stat
from pathlib import Path

import pytest

from mesh import members
from mesh.errors import Conflict, EnvironmentUnfit, NotFound
from mesh.members import SPENT_KEPT_S, Invitation, Member, Members

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def key(number: int) -> str:
    raw = bytes([20 << 3]) + bytes([number]) * 32
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode()


def invitation(**changes: object) -> Invitation:
    given = {
        "id": "i1",
        "role": "worker",
        "key": key(31),
        "uses_left": 1,
        "made_ms": NOW_MS,
        "expires_ms": NOW_MS + DAY_MS,
    }
    return Invitation(**{**given, **changes})  # type: ignore[arg-type]


def invited(**changes: object) -> Members:
    return Members().inviting(invitation(**changes))


def admitted(found: Members, number: int, now_ms: int = NOW_MS, **changes: str) -> tuple[Members, Member]:
    given = {"name": "lab", "role": "worker", "key": key(number), "host": "lab.example"}
    return found.admitting("i1", now_ms=now_ms, **{**given, **changes})  # type: ignore[arg-type]


def test_an_invitation_makes_a_member_once() -> None:
    found, member = admitted(invited(), 0)

    assert (member.name, member.role, member.since_ms, member.invitation) == ("lab", "worker", NOW_MS, "i1")
    with pytest.raises(NotFound, match="used up"):
        admitted(found, 1)


def test_the_same_key_is_the_same_member_also_after_the_last_use() -> None:
    found, member = admitted(invited(), 0)

    assert admitted(found, 0, name="another") == (found, member)


def test_a_spent_invitation_answers_for_a_while_and_is_gone_then() -> None:
    found, _ = admitted(invited(), 0)
    end_ms = NOW_MS + int(SPENT_KEPT_S * 1000)

    assert found.next_end_ms() == end_ms
    assert found.live(end_ms - 1) is found
    assert found.live(end_ms).invitations == ()
    with pytest.raises(NotFound, match="over"):
        admitted(found, 0, now_ms=end_ms)


def test_an_invitation_expires_by_the_clock_of_whoever_keeps_it() -> None:
    with pytest.raises(NotFound, match="expired"):
        admitted(invited(), 0, now_ms=NOW_MS + DAY_MS)


def test_an_invitation_gives_its_own_role_only() -> None:
    with pytest.raises(Conflict, match="for a worker, not for a operator"):
        admitted(invited(), 0, role="operator")


def test_a_member_does_not_become_another_by_a_second_invitation() -> None:
    found, _ = admitted(invited(uses_left=2), 0)
    found = found.inviting(invitation(id="i2", role="operator", key=key(30)))

    with pytest.raises(Conflict, match="`bin/agent leave`"):
        found.admitting("i2", name="lab", role="operator", key=key(0), host="", now_ms=NOW_MS)


def test_an_invitations_own_key_is_nobodys() -> None:
    with pytest.raises(Conflict, match="key of its own"):
        admitted(invited(), 31)


def test_names_that_are_taken_are_numbered() -> None:
    found, _ = admitted(invited(uses_left=3), 0)
    found, second = admitted(found, 1)
    _, third = found.admitting(
        "i1", name="planner", role="worker", key=key(2), host="", now_ms=NOW_MS, taken=frozenset({"planner"})
    )

    assert (second.name, third.name) == ("lab-2", "planner-2")


def test_a_long_name_keeps_its_number() -> None:
    found, first = admitted(invited(uses_left=2), 0, name="x" * 96)
    _, second = admitted(found, 1, name="x" * 96)

    assert first.name == "x" * 96
    assert second.name == "x" * 94 + "-2"


def test_the_invitations_name_goes_before_the_wished_one() -> None:
    assert admitted(invited(name="rack"), 0)[1].name == "rack"


def test_a_membership_may_end_by_itself() -> None:
    found, member = admitted(invited(lasts_ms=2 * DAY_MS), 0)

    assert member.expires_ms == NOW_MS + 2 * DAY_MS
    assert found.live(NOW_MS + 2 * DAY_MS).members == ()


def test_who_is_revoked_is_gone_and_so_is_an_invitation() -> None:
    found, _ = admitted(invited(uses_left=2), 0)

    assert found.without("lab").members == ()
    assert found.without_invitation("i1").members == found.members
    with pytest.raises(NotFound, match="no member 'nobody'"):
        found.without("nobody")
    with pytest.raises(NotFound, match="no open invitation"):
        found.without_invitation("i9")


def test_the_file_keeps_everything_and_is_private(tmp_path: Path) -> None:
    found, _ = admitted(invited(uses_left=2, artifacts={"backend": "folder", "folder": "/disk"}), 0)

    members.store(tmp_path, found)

    assert members.load(tmp_path) == found
    assert stat.S_IMODE(members.path_in(tmp_path).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["members.json"]


def test_no_file_is_nobody(tmp_path: Path) -> None:
    assert members.load(tmp_path) == Members()


TWICE = {"name": "a", "role": "worker", "key": key(0), "since_ms": 1}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"members": 1}', json.dumps({"members": [TWICE | {"key": "SUAA"}]}),
        json.dumps({"members": [TWICE | {"key": "U" + "A" * 55}]}),
        json.dumps({"members": [TWICE, TWICE | {"key": key(1)}]}),
        json.dumps({"members": [TWICE, TWICE | {"name": "b"}]}),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence_and_stays(tmp_path: Path, text: str) -> None:
    members.path_in(tmp_path).write_text(text)

    with pytest.raises(
        EnvironmentUnfit, match=r"list of members .*members\.json must be readable, but it is not \(.+\): put"
    ):
        members.load(tmp_path)

    assert members.path_in(tmp_path).read_text() == text


def test_a_file_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    members.path_in(tmp_path).write_text('{"version": 2}')

    with pytest.raises(EnvironmentUnfit, match="newer program"):
        members.load(tmp_path)
