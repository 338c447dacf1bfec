"""Which GPUs a worker's next run uses, why not, and what it remembers of batches that fitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.worker_devices import FITTED_MAX, FITTED_S, ON_CPU_AFTER, Devices, Fitted, shape_of
from executors.breaker import BreakerPolicy
from mesh.messages.tasks import Needs, TaskSpec


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def devices(clock: Clock) -> Devices:
    return Devices(BreakerPolicy(errors_max=3, timeout_s=30.0, pause_s=300.0), clock)


def test_tasks_go_to_the_cpu_after_three_failures_and_come_back(devices: Devices, clock: Clock) -> None:
    for _ in range(3):
        use = devices.use((1,))
        assert use.gpus == (1,)
        use.placed("")
        use.failed("an illegal memory access was encountered")
    use = devices.use((1,))
    assert use.gpus == ()
    assert use.aside.startswith("GPU 1 failed 3 times in a row (an illegal memory access was encountered)")
    assert devices.use((0,)).gpus == (0,), "the other GPU is not meant"
    clock.now = 300.0
    probe, other = devices.use((1,)), devices.use((1,))
    assert (probe.gpus, other.gpus) == ((1,), ())
    assert "just tried again" in other.aside
    probe.placed("")
    assert devices.use((1,)).gpus == (1,)


def test_a_gpu_that_proves_nothing_counts_as_failed(devices: Devices) -> None:
    for _ in range(3):
        devices.use((0,)).placed("torch sees no GPU here")
    assert "torch sees no GPU here" in devices.use((0,)).aside


def test_all_gpus_of_a_lease_or_none(devices: Devices, clock: Clock) -> None:
    for _ in range(3):
        devices.use((2,)).failed("lost")
    assert devices.use((0, 1, 2)).gpus == ()
    clock.now = 1_000.0  # nothing of the refused use was left behind to time out
    assert devices.use((0, 1)).gpus == (0, 1)


def test_what_says_nothing_about_the_devices_changes_nothing(devices: Devices) -> None:
    for _ in range(2):
        devices.use((0,)).failed("x")
    for _ in range(50):
        devices.use((0,)).withdrawn()
    devices.use((0,)).failed("x")
    assert devices.use((0,)).gpus == ()


def test_a_good_end_begins_the_count_anew(devices: Devices) -> None:
    for _ in range(5):
        devices.use((0,)).failed("x")
        use = devices.use((0,))
        use.placed("")
        use.ended()
    assert devices.use((0,)).gpus == (0,)


def test_after_memory_ran_out_on_the_gpu_so_often_the_cpu_is_tried(devices: Devices) -> None:
    assert devices.use((0,), ON_CPU_AFTER - 1).gpus == (0,)
    use = devices.use((0,), ON_CPU_AFTER)
    assert (use.gpus, use.aside) == ((), "memory ran out 3 times on a GPU")
    assert devices.use((), ON_CPU_AFTER).aside == ""


# -------------------------------------------------------------------------------------------------- what fitted before


def test_what_fitted_is_remembered_over_lives_for_a_week(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 1e9
    Fitted(tmp_path / "fitted.json", clock).note("shape", 2)
    later = Fitted(tmp_path / "fitted.json", clock)
    assert (later.halvings("shape"), later.halvings("other")) == (2, 0)
    later.note("shape", 1)
    assert later.halvings("shape") == 2, "what is known to be too much stays so"
    clock.now += FITTED_S
    assert later.halvings("shape") == 0
    later.note("shape", 1)
    assert Fitted(tmp_path / "fitted.json", clock).halvings("shape") == 1


def test_the_memory_of_shapes_is_bounded(tmp_path: Path) -> None:
    fitted = Fitted(tmp_path / "fitted.json", lambda: 1e9)
    for number in range(FITTED_MAX + 50):
        fitted.note(f"s{number}", 1)
    assert len(json.loads((tmp_path / "fitted.json").read_text())) == FITTED_MAX
    assert (fitted.halvings("s0"), fitted.halvings(f"s{FITTED_MAX + 49}")) == (0, 1)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 3}', '{"a": ["x", 0]}', '{"a": [-5, 1e9]}', '{"a": [1e9, 1e9]}']
)
def test_a_damaged_file_is_no_trouble(tmp_path: Path, text: str) -> None:
    (tmp_path / "fitted.json").write_text(text)
    fitted = Fitted(tmp_path / "fitted.json", lambda: 1e9)
    assert 0 <= fitted.halvings("a") <= 30
    fitted.note("b", 1)
    assert Fitted(tmp_path / "fitted.json", lambda: 1e9).halvings("b") == 1


def test_a_shape_is_what_decides_how_much_fits() -> None:
    spec = TaskSpec(id="a", topic="t", executor="classify", settings={"batch": 64}, needs=Needs(memory_bytes=1 << 30))
    twin = TaskSpec(id="b", topic="u", executor="classify", settings={"batch": 64}, needs=Needs(memory_bytes=1 << 30))
    other = TaskSpec(id="a", topic="t", executor="classify", settings={"batch": 32}, needs=Needs(memory_bytes=1 << 30))
    assert shape_of(spec, False) == shape_of(twin, False)
    assert len({shape_of(spec, False), shape_of(spec, True), shape_of(other, False)}) == 3
