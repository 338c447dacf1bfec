"""What the doctor says of the artifact store."""

from __future__ import annotations

from agents.commands.store_use import said
from mesh.messages.collecting import CorruptRow, StoreUse

USE = StoreUse(
    where="the stream MESH_ARTIFACTS", size_bytes=3 << 30, limit_bytes=16 << 30, looked_age_s=180.0, objects=900,
    manifests=100, garbage=40, garbage_bytes=1 << 20, removed=7, state="waits for the next round",
)  # fmt: skip


HOME = "the broker"


def test_a_command_that_has_its_artifacts_elsewhere_is_told() -> None:
    lines = list(said(USE.evolve(home="a shared folder"), HOME))
    assert [(line.what, line.state) for line in lines] == [("artifacts", "wrong"), ("store", "ok")]
    assert "lie in a shared folder, this command has them in the broker: " in lines[0].sentence
    assert len(list(said(USE.evolve(home=HOME), HOME))) == 1


def test_a_healthy_store_is_one_line() -> None:
    lines = list(said(USE, HOME))
    assert [line.state for line in lines] == ["ok"]
    assert lines[0].sentence == (
        "3.0 GiB of 16 GiB in the stream MESH_ARTIFACTS; 40 of 1000 objects, about 1.0 MiB, were garbage 3 min ago, "
        "7 were removed so far; the collector waits for the next round"
    )


def test_before_the_first_look_nothing_is_promised() -> None:
    line = next(said(USE.evolve(looked_age_s=-1.0), HOME))
    assert line.sentence.endswith("what collecting would free is not known yet")


def test_a_store_that_does_not_say_how_full_it_is() -> None:
    line = next(said(USE.evolve(where="the folder /mnt", size_bytes=-1, limit_bytes=-1), HOME))
    assert line.state == "ok"
    assert "does not say how full" in line.sentence


def test_a_nearly_full_store_a_missing_model_and_a_corrupt_object_are_named() -> None:
    rows = (
        CorruptRow(name="c." + "ab" * 32, age_s=300.0, back=True),
        CorruptRow(name="m." + "0" * 64, age_s=5.0, back=False),
    )
    lines = list(said(USE.evolve(size_bytes=15 << 30, missing=2, corrupt=rows), HOME))
    assert [line.state for line in lines] == ["note", "wrong", "note", "wrong"]
    assert "raise broker.store_bytes_max" in lines[0].sentence
    assert "2 artifacts of champions" in lines[1].sentence
    assert lines[2].sentence == "c.abababababababab… was corrupt and was removed 5 min ago; it was stored again since"
    assert lines[3].sentence.endswith("nobody has stored it again yet")
