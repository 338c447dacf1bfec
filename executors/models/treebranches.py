"""What a tree loses on each of its branches: who looks at it again later sees which of them has become worse.

An item belongs to the branch whose centre is nearest, as when the tree was made. Told of each: how many items, their
mean loss as an outcome has it (nats of an example, nats per byte of a document), its standard deviation.

Not covered: items of one cluster count as independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from executors.corpus import Corpus
from executors.models.loading import Respondent, SplitRespondent
from executors.models.tree import Tree, names_of
from executors.models.treelabels import TreeClassifier
from executors.models.treelanguage import TreeLanguageRespondent
from mesh import limits
from mesh.messages.judgement import Outcomes

NAME_CHARS_SHOWN = 80


def losses_by_branch(model: Respondent, items: Any, found: Outcomes) -> list[dict[str, Any]]:
    """A row per branch, in their order: `branch`, `name`, `items`, and where it has any `loss` and `deviation`. None of
    what is no tree, or one of more branches than a topic has. found: the model's outcomes on `items`."""
    tree = _tree_of(model)
    if tree is None or tree.router.k > limits.BRANCHES_MAX:
        return []
    texts: Sequence[str] = items.texts
    if isinstance(items, Corpus):
        texts = [tree.router.lead(text) for text in texts]
    nearest, names = tree.router.nearest(texts), names_of(tree.router)
    losses = np.frombuffer(found.loss, "<f4").astype(np.float64)
    rows = []
    for branch in range(tree.router.k):
        mine = losses[nearest == branch]
        row: dict[str, Any] = {"branch": branch, "name": names[branch][:NAME_CHARS_SHOWN], "items": len(mine)}
        if len(mine):
            deviation = float(mine.std(ddof=1)) if len(mine) > 1 else 0.0
            row |= {"loss": round(float(mine.mean()), 6), "deviation": round(deviation, 6)}
        rows.append(row)
    return rows


def _tree_of(model: Respondent) -> Tree | None:
    if isinstance(model, TreeLanguageRespondent):
        return model.tree.tree
    if isinstance(model, SplitRespondent) and isinstance(model.model, TreeClassifier):
        return model.model.tree
    return None
