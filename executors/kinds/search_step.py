"""Search-step: one trial of a study of settings: draws them, trains another kind with them, tells the study.

In:    whatever the kind that it trains reads
Out:   that kind's outputs, and `trial`: what was drawn and what came of it, with the study's best so far
How:   the study is a log in the mesh (executors/journal.py); trials run side by side on many workers. A trial that does
       worse than others did at the same step is ended early ('pruned') and has no model; so has one whose numbers
       became infinite ('fail')
Keeps: the checkpoints of the kind that it trains; the next attempt of the task goes on with the same trial
Not:   submits no trials (`bin/agent search` does); trains in one process
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from executors import kinds, port, spaces
from executors.port import Context, Job, Made, Runtime
from executors.searches import SearchStepSettings, inner_settings, trained
from mesh.errors import TaskRefused
from mesh.messages.tasks import Needs

MIB = 1024 * 1024

OPTUNA_BYTES = 48 * MIB
"""Optuna imported, and a study of some thousand trials."""


class SearchStep:
    """The kind `search-step`."""

    name: ClassVar[str] = "search-step"
    version: ClassVar[int] = 1
    runtime: ClassVar[Runtime] = Runtime.TORCH
    inputs: ClassVar[port.Inputs | None] = None
    Settings: ClassVar[type[port.Settings]] = SearchStepSettings

    def needs(self, settings: Any, facts: Mapping[str, Any]) -> Needs:
        """What the trained kind takes with the settings of the space that take most memory."""
        kind = trained(settings.kind)

        def asked(drawn: Mapping[str, Any]) -> Needs:
            return kind.needs(inner_settings(kind, settings, drawn), facts)

        most = asked(spaces.worst(settings.space, lambda drawn: asked(drawn).memory_bytes))
        disk = max(asked(corner).disk_bytes for corner in spaces.corners(settings.space))
        return msgspec.structs.replace(most, memory_bytes=most.memory_bytes + OPTUNA_BYTES, disk_bytes=disk)

    def run(self, job: Job, context: Context) -> Made:
        """Take up the task's trial or begin one, train, tell."""
        from executors import searching
        from executors.journal import Consults, Journal

        if not isinstance(context, Consults):
            raise TaskRefused("a trial needs a worker that reaches the study in the mesh")
        kind = kinds.load(job.settings.kind)
        kinds.check_inputs(kind, job.inputs)
        return searching.searched(job, context, kind, Journal(job.settings.study, job.task, context, context))
