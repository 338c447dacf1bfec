"""A lease starts from the newest recorded checkpoint that is whole, and says which ones were not."""

from __future__ import annotations

from agents.worker_resume import PASSED_OVER, Beginning, Resume
from mesh.errors import ArtifactCorrupt, ArtifactMissing
from mesh.messages.base import Epoch
from mesh.messages.leases import Lease, OlderCheckpoint
from mesh.messages.tasks import TaskSpec


def lease(**changes: object) -> Lease:
    fields = {
        "resume": "n" * 64,
        "checkpoint_number": 9,
        "trained_s": 90.0,
        "older": (
            OlderCheckpoint(manifest="o" * 64, number=8, trained_s=80.0),
            OlderCheckpoint(manifest="b" * 64, number=3, trained_s=30.0),
        ),
        **changes,
    }
    task = TaskSpec(id="t", topic="t", executor="noop")
    return Lease(task=task, epoch=Epoch(1, 2), attempt=2, **fields)  # type: ignore[arg-type]


class Shelf:
    """A store in which only some checkpoints are whole."""

    def __init__(self, *whole: str, torn: str = "") -> None:
        self.whole, self.torn, self.asked = whole, torn, list[str]()

    async def get(self, digest: str) -> str:
        self.asked.append(digest[0])
        if digest[0] in self.torn:
            raise ArtifactCorrupt("an object does not match its digest")
        if digest[0] not in self.whole:
            raise ArtifactMissing("an object is not in the store")
        return f"/cache/{digest[0]}"


async def first_whole(resume: Resume, shelf: Shelf) -> tuple[Beginning, str]:
    for one in resume.beginnings():
        path = await resume.fetch(one, shelf.get)
        if path is not None:
            return one, path
    raise AssertionError("nothing to begin with")


async def test_the_newest_is_taken_when_it_is_whole() -> None:
    resume, shelf = Resume(lease()), Shelf("n", "o", "b")
    assert await first_whole(resume, shelf) == (Beginning("n" * 64, 9, 90.0), "/cache/n")
    assert (shelf.asked, resume.facts) == (["n"], {})


async def test_missing_and_damaged_ones_are_passed_over_in_order_and_named() -> None:
    resume, shelf = Resume(lease()), Shelf("b", torn="o")
    assert await first_whole(resume, shelf) == (Beginning("b" * 64, 3, 30.0), "/cache/b")
    assert shelf.asked == ["n", "o", "b"]
    assert resume.facts == {
        PASSED_OVER: [
            "checkpoint 9: an object is not in the store",
            "checkpoint 8: an object does not match its digest",
        ]
    }


async def test_without_a_whole_one_the_training_begins_anew() -> None:
    resume, shelf = Resume(lease()), Shelf()
    assert await first_whole(resume, shelf) == (Beginning(), "")
    assert len(resume.facts[PASSED_OVER]) == 3


async def test_a_lease_without_a_checkpoint_begins_at_the_beginning() -> None:
    resume = Resume(lease(resume="", older=(), checkpoint_number=0, trained_s=0.0))
    assert list(resume.beginnings()) == [Beginning()]
    assert resume.digests == ()
