"""Made-up topics for the tests of branches: texts whose sub-domains are known, and whether telling them apart helps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from executors.branching import proxies
from executors.datasets import splits
from executors.kinds.branch import Branch, BranchSettings
from executors.port import Made
from tests.support.datasets import Watching, job, table, written

DOMAINS = (
    "soup bread butter oven pepper kitchen recipe spoon flour onion",
    "engine wheel brake gearbox tyre clutch motor exhaust piston garage",
    "الطبيب المستشفى الدواء العيادة المريض الجراحة الصيدلية التحليل العلاج الممرضة",
    "guitar violin melody rhythm chord concert singer drummer orchestra tune",
)
"""Words of sub-domains."""

SAYING = "hot cold loud quiet quick slow"
"""Words that tell the label; in the second and third domain the other way round."""


def domain_texts(count: int, domains: int = 2, *, flipped: bool, seed: int = 3) -> list[tuple[str, str, int]]:
    """(text, label, domain). The label is 'good' or 'bad' by the saying word; flipped: in odd domains it means the
    opposite, so that one linear model of all texts can not be right everywhere."""
    draw = np.random.Generator(np.random.Philox(seed))
    words, saying = [domain.split() for domain in DOMAINS], SAYING.split()
    rows = []
    for number in range(count):
        domain = int(draw.integers(domains))
        said = int(draw.integers(len(saying)))
        chosen = [words[domain][index] for index in draw.choice(10, 4, replace=False)]
        good = (said % 2 == 0) != (flipped and domain % 2 == 1)
        noise = f"n{number}"  # in no other text: it keeps the word that tells the label apart from those of the domain
        rows.append((" ".join([saying[said], noise, *chosen]), "good" if good else "bad", domain))
    return rows


def labelled_csv(folder: Path, rows: list[tuple[str, str, int]]) -> Path:
    """The texts and labels as a file."""
    return written(folder / "topic.csv", table([(text, label) for text, label, _ in rows]))


def branched(source: Path | str, folder: Path, *, router: Path | None = None, **settings: Any) -> Made:
    """Run the kind `branch`."""
    inputs = {"data": str(source)} | ({"router": str(router)} if router else {})
    scratch = folder / f"branch-{len(list(folder.iterdir()))}"
    return Branch().run(job(scratch, BranchSettings(**settings), kind="branch", inputs=inputs), Watching())


@dataclasses.dataclass
class Texts:
    """Material of texts and splits alone: a quarter of them is not for training."""

    texts: list[str]
    clusters: Any = None
    modality: str = "text"
    size_bytes: int = 0
    split: Any = None

    def __post_init__(self) -> None:
        count = np.arange(len(self.texts))
        self.split = np.where(count % 4 < 3, splits.TRAIN, 1 + count // 4 % 3)
        self.clusters = count

    def columns(self) -> dict[str, Any]:
        """No columns."""
        return {}

    def settle(self, branch: Any, distances: Any) -> Any:
        """As it is."""
        return branch

    def fault(self, branch: Any, k: int) -> str:
        """None."""
        return ""

    def proxy(self, lead_bytes: int, seed: int, tick: Any) -> proxies.Proxy:
        """Of bytes."""
        rows = [np.flatnonzero(self.split == side) for side in (splits.TRAIN, splits.VALIDATION)]
        return proxies.Documents(self.texts, rows[0], rows[1], self.clusters, 0, tick)

    def write(self, rows: Any, path: Path) -> Path:
        """Never asked for."""
        raise AssertionError(rows)
