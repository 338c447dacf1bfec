"""A tree as `load_model` gives it: one that labels, or a language model."""

from __future__ import annotations

from pathlib import Path

from executors.models import tree, treelabels, treelanguage
from executors.models.loading import Respondent


def respondent(folder: Path, base: Path | None) -> Respondent:
    """The tree in `folder`, ready to be asked. base: what those of its models that are adapters adapt."""
    found = tree.opened(folder, base)
    return treelabels.respondent_of(found) if found.labels else treelanguage.respondent_of(found)
