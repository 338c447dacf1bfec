"""What a benchmark gets: rows and aims to fill, programs to run, a time limit, homes that clean up after it.

    def run(frame):
        with frame.home() as home:
            walls = [ran.wall_s for ran in frame.repeat(10, home, "status") if not ran.trouble]
            frame.row("status", "wall time", walls, "s")
            frame.at_most("status answers at once", 0.5, "s", walls)

A measurement that fails is a row that says why, and leaves its aim unmet; the rest of the benchmark goes on.

Not covered: a benchmark that is killed (not interrupted) leaves its temporary home behind; its programs end with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import conditions, processes, programs
from benchmarks.document import Aim, Document, Row, measured, quantity

CHECKOUT = Path(__file__).resolve().parents[1]

QUICK_S = 55.0
"""Wall time of a quick run: it ends within a minute, its clean-up included."""

FULL_S = 3_600.0
"""Wall time of a full run after which no program is waited for any longer."""

TIMEOUT_S_MIN = 1.0
"""What a program gets when the time is up: it is started, fails to end, and its row says so."""


class Frame:
    """One run of one benchmark."""

    def __init__(
        self,
        *,
        quick: bool,
        data: Path | None = None,
        runs: int | None = None,
        tasks: int | None = None,
        seed: int | None = None,
        peers_python: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """runs: how often to measure, in place of the benchmark's own number. data: a dataset of the user's.

        tasks: how many tasks, in place of the benchmark's own number. seed: of what is random; None: the benchmark's
        own. peers_python: the interpreter that has the peers installed; None: this one.
        """
        self.quick, self.data, self.say = quick, data, say
        self.tasks, self.seed, self.peers_python = tasks, seed, peers_python
        self.rows: list[Row] = []
        self.aims: list[Aim] = []
        self.failures: list[str] = []
        """Measurements that failed, a sentence each. A skipped peer is no failure."""
        self._runs, self._clock, self._begun = runs, clock, clock()

    # -- rows and aims ------------------------------------------------------------------------------------------------

    def row(self, who: str, metric: str, values: Sequence[float] | float, unit: str, remark: str = "") -> None:
        """A measured row; without a value, a failed one."""
        values = [values] if isinstance(values, int | float) else list(values)
        if not values:
            self.fail(who, metric, unit, remark or "no run came to an end")
            return
        row = measured(who, metric, values, unit, remark)
        self.rows.append(row)
        self.say(f"{who}, {metric}: {quantity(f'{row.value:.4g}', unit)}")

    def skip(self, who: str, metric: str, unit: str, why: str) -> None:
        """What is not there can not be measured: a row that says so."""
        self.rows.append(Row(who=who, metric=metric, unit=unit, skipped=True, why=why))
        self.say(f"{who}, {metric}: skipped, {why}")

    def fail(self, who: str, metric: str, unit: str, why: str) -> None:
        """What should have been measured and was not: a row that says so, and a failure of the benchmark."""
        self.skip(who, metric, unit, why)
        self.failures.append(f"{who}, {metric}: {why}")

    def at_most(self, aim: str, bound: float, unit: str, values: Sequence[float]) -> None:
        """An aim for the median of `values`; without a value it is not met."""
        got = statistics.median(values) if values else None
        met = got is not None and got <= bound
        self.aims.append(Aim(aim=aim, wanted=f"at most {quantity(f'{bound:g}', unit)}", got=got, unit=unit, met=met))

    def at_least(self, aim: str, bound: float, unit: str, values: Sequence[float]) -> None:
        """The same, from below."""
        got = statistics.median(values) if values else None
        met = got is not None and got >= bound
        self.aims.append(Aim(aim=aim, wanted=f"at least {quantity(f'{bound:g}', unit)}", got=got, unit=unit, met=met))

    # -- time ---------------------------------------------------------------------------------------------------------

    def runs(self, full: int, quick: int = 1) -> int:
        """How often to measure: as the user said, else `full` or `quick` times."""
        return self._runs or (quick if self.quick else full)

    def remaining_s(self) -> float:
        """Seconds until the benchmark's time is up; never negative."""
        return max(0.0, (QUICK_S if self.quick else FULL_S) - (self._clock() - self._begun))

    def timeout_s(self, wanted_s: float) -> float:
        """How long one program may take now."""
        return max(TIMEOUT_S_MIN, min(wanted_s, self.remaining_s()))

    # -- programs -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def home(self) -> Iterator[Path]:
        """A fresh home folder. At the end, whatever still belongs to it is ended, and it is removed."""
        path = Path(tempfile.mkdtemp(prefix="ramify-bench-")).resolve()
        try:
            yield path
        finally:
            processes.end(str(path))
            shutil.rmtree(path, ignore_errors=True)

    def agent(self, home: Path, *arguments: str) -> list[str]:
        """The command line of `bin/agent ARGUMENTS` on this home."""
        return [sys.executable, str(CHECKOUT / "bin" / "agent"), *arguments, "--home", str(home)]

    def timed(self, home: Path, *arguments: str, timeout_s: float = 30.0) -> programs.Ran:
        """`bin/agent ARGUMENTS`, run to its end."""
        return programs.timed(
            self.agent(home, *arguments), timeout_s=self.timeout_s(timeout_s), env=environment(home), cwd=home
        )

    def repeat(self, runs: int, home: Path, *arguments: str, timeout_s: float = 30.0) -> list[programs.Ran]:
        """The same command `runs` times; fewer when one fails: the next ones would too."""
        done = []
        for _ in range(runs):
            done.append(self.timed(home, *arguments, timeout_s=timeout_s))
            if done[-1].trouble:
                break
        return done

    def started(self, home: Path, *arguments: str) -> contextlib.AbstractContextManager[programs.Program]:
        """`bin/agent ARGUMENTS`, running inside the `with`."""
        return programs.started(self.agent(home, *arguments), mark=str(home), env=environment(home), cwd=home)


def environment(home: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of Ramify or NATS: figures do not depend on who measures.

    RAMIFY_VENV stays: it says where the programs are. RAMIFY_HOME marks everything that descends from a benchmark.
    """
    source = os.environ if environ is None else environ
    kept = {name: value for name, value in source.items() if not name.startswith(("RAMIFY_", "NATS_"))}
    if "RAMIFY_VENV" in source:
        kept["RAMIFY_VENV"] = source["RAMIFY_VENV"]
    return {**kept, "RAMIFY_HOME": str(home)}


def perform(name: str, why: str, run: Callable[[Frame], None], frame: Frame) -> Document:
    """Run a benchmark in its frame; its document. What the benchmark raises is raised."""
    seen = conditions.before()
    begun = time.monotonic()
    run(frame)
    seconds = time.monotonic() - begun
    return Document(
        name=name,
        why=why,
        conditions=conditions.conditions(CHECKOUT, seen, quick=frame.quick, seconds=seconds),
        rows=tuple(frame.rows),
        aims=tuple(frame.aims),
    )
