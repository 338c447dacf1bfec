"""Uploads wait for a broker that takes no part now, and end with an error that time does not heal."""

from __future__ import annotations

import pytest

from agents.patience import patiently
from mesh import virtual_time
from mesh.errors import BusUnavailable, DataRefused, DiskFull, NotFound, RamifyError


def called(*errors: RamifyError, although_full: bool = True) -> tuple[str, list[str]]:
    """What comes of a call that raises these errors one after the other; and what is said meanwhile."""
    said, left = list[str](), list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    async def case() -> str:
        return await patiently(call, "an upload", said.append, although_full=although_full)

    return virtual_time.run(case()), said


@pytest.mark.parametrize(
    "error", [BusUnavailable("it is away"), DiskFull("it is full"), NotFound("no stream stores it")]
)
def test_an_upload_waits_while_the_broker_can_not_store_it(error: RamifyError) -> None:
    found, said = called(error, error)
    assert found == "done"
    assert said == [f"an upload waits: {error}"] * 2


@pytest.mark.parametrize(("error", "although_full"), [(DataRefused("too long"), True), (DiskFull("here"), False)])
def test_what_waiting_does_not_heal_is_told(error: RamifyError, although_full: bool) -> None:
    with pytest.raises(type(error)):
        called(error, although_full=although_full)
