"""BM25 over a pool of texts by bm25s itself: does it find the partners of some texts?

python -m benchmarks.peers.plain_bm25 HELD_OUT        HELD_OUT: folder with the pairs that `contrastive` put aside
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import bm25s
import numpy as np


def main(folder: str) -> None:
    """Rank, print. Among equal scores the partner comes last: a score of zero finds nothing."""
    (file,) = Path(folder).glob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    pool = list(dict.fromkeys(row["right"] for row in rows))
    place = {text: number for number, text in enumerate(pool)}
    partners: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["left"]:
            partners[row["left"]].add(place[row["right"]])
    began, cpu_s = time.perf_counter(), time.process_time()
    index = bm25s.BM25()
    index.index(bm25s.tokenize(pool, stopwords="en", return_ids=False, show_progress=False), show_progress=False)
    ranks = []
    for row in rows:
        if not row["left"]:
            continue
        words = bm25s.tokenize([row["left"]], stopwords="en", return_ids=False, show_progress=False)[0]
        scores = index.get_scores(words) if words else np.zeros(len(pool))
        mine = place[row["right"]]
        others = np.delete(scores, sorted(partners[row["left"]]))
        ranks.append(1 + int((others >= scores[mine]).sum()))
    print(
        json.dumps(
            {
                "mrr": float(np.mean([1.0 / rank for rank in ranks])),
                "recall_at_10": float(np.mean([rank <= 10 for rank in ranks])),
                "seconds": time.perf_counter() - began,
                "cpu_s": time.process_time() - cpu_s,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
