"""The table of roles: what a worker may not, how a guest's account is shut, and that equal people make equal ones."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mesh import identity, nkeypairs
from mesh.errors import SettingsInvalid
from mesh.identity import Identity, Role
from mesh.subjects import Subjects

SUBJECTS = Subjects("mesh")
W1 = Identity(Role.WORKER, "w1", "UW1")
EVERYBODY = (Identity(Role.SCHEDULER, "scheduler", "US"), W1, Identity(Role.INVITED, "i1", "UI1"))


@pytest.mark.parametrize("role", list(Role))
def test_every_role_has_its_own_inbox_and_nobody_else_s(role: Role) -> None:
    permitted = identity.permissions(role, "ada", SUBJECTS)
    assert "mesh.in.ada.>" in permitted.subscribe
    foreign = [one for one in permitted.subscribe if one.startswith("mesh.in.") and one != "mesh.in.ada.>"]
    assert foreign == (["mesh.in.>"] if role is Role.GATEWAY else [])
    assert ">" not in (*permitted.publish, *permitted.subscribe)
    assert not any("STREAM.DELETE" in one for one in permitted.publish)


def test_a_worker_writes_under_its_own_name_and_makes_nothing() -> None:
    permitted = identity.permissions(Role.WORKER, "w1", SUBJECTS)
    own = [one for one in permitted.publish if not one.startswith(("mesh.art.", "$JS.API.DIRECT.GET."))]
    assert all("w1" in one.split(".") for one in own)
    reads = [one for one in permitted.publish if one.startswith("$")]
    assert {one.split(".")[4] for one in reads} == {"MESH_ARTIFACTS", "MESH_CONDEMNED", "MESH_STUDIES"}
    assert "$JS.API.DIRECT.GET.MESH_ARTIFACTS" not in reads, "a batch of it would list what is stored"


def test_only_one_role_writes_the_ledger_the_results_and_the_champions() -> None:
    def writers(subject: str) -> list[str]:
        return [role for role in Role if subject in identity.permissions(role, "ada", SUBJECTS).publish]

    assert writers("mesh.ledger") == ["scheduler"]
    assert writers("mesh.results.*.verdict.*") == ["gate"]
    assert writers("$KV.mesh_champions.>") == ["gate", "operator"]
    assert writers("mesh.condemned") == ["scheduler"]


def test_a_guest_s_account_holds_one_user_and_lets_through_what_its_role_may() -> None:
    found = identity.accounts(EVERYBODY, SUBJECTS)
    (guest,) = [name for name in found if name.startswith("GUEST_w1_")]
    account = found[guest]
    (user,) = account["users"]
    permitted = identity.permissions(Role.WORKER, "w1", SUBJECTS)
    assert "jetstream" not in account
    services = [one["service"]["subject"] for one in account["imports"] if "service" in one]
    assert services == list(permitted.publish)
    heard = [one["stream"]["subject"] for one in account["imports"] if "stream" in one]
    assert heard == ["mesh.in.w1.>", "mesh.wanted"]
    spoken = user["permissions"]["publish"]["allow"]
    assert not any("*" in one and not one.startswith("door.") for one in spoken)
    assert account["mappings"]["mesh.art.c.*"] == "door.10.{{split(1,*)}}"
    assert account["mappings"]["door.>"] == "nowhere.>"
    assert found["MESH"]["imports"] == [{"service": {"account": guest, "subject": "mesh.ask.worker.w1.*"}}]
    assert [one["nkey"] for one in found["MESH"]["users"]] == ["US"]


def test_what_a_guest_imports_is_exported_whoever_it_is() -> None:
    one, two = identity.accounts(EVERYBODY[:1], SUBJECTS), identity.accounts(EVERYBODY, SUBJECTS)
    assert one["MESH"]["exports"] == two["MESH"]["exports"], "a new guest changes nothing for those who are in"
    exported = {export.get("service") for export in two["MESH"]["exports"]}
    assert {"mesh.cmd.*.result.*.*.*", "mesh.cmd.*.pack.*", "mesh.join.*", "mesh.beat.*"} <= exported
    assert not any(str(subject).endswith(">") for subject in exported)
    assert two == identity.accounts(EVERYBODY, SUBJECTS)


def test_a_domain_changes_where_jetstream_is_asked() -> None:
    permitted = identity.permissions(Role.WORKER, "w1", SUBJECTS, "leaf")
    assert "$JS.leaf.API.DIRECT.GET.MESH_CONDEMNED" in permitted.publish


def test_a_pair_is_made_once_and_its_seed_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "w1.nk"
    public = nkeypairs.make(path)
    assert public.startswith("U")
    assert nkeypairs.public_key(path) == public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert nkeypairs.make(tmp_path / "w2.nk") != public


@pytest.mark.parametrize("content", [b"", b"nothing", b"SUAAA", b"UABC"])
def test_what_is_no_seed_is_told_with_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w1.nk"
    path.write_bytes(content)
    with pytest.raises(SettingsInvalid, match=r"w1\.nk must hold the seed"):
        nkeypairs.public_key(path)
