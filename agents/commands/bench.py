"""`bin/agent bench NAME`: hands over to a benchmark; `benchmarks/` holds them and their one contract."""

from __future__ import annotations

import argparse
import importlib

from agents.commands import flags, output
from mesh.errors import EnvironmentUnfit

EXAMPLE = """bin/agent bench main-job --quick
bin/agent bench report"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which, how thorough, and where the document goes."""
    parser.add_argument("benchmark", metavar="NAME", nargs="?", default="", help="which benchmark; without it: a list")
    parser.add_argument("--quick", action="store_true", help="only see that it works: a minute at most")
    flags.add_json(parser, "the benchmark's document")


def run(given: argparse.Namespace) -> int:
    """The benchmark's own exit code."""
    output.check_target(given.json)
    try:
        frame = importlib.import_module("benchmarks.frame")
    except ModuleNotFoundError as error:
        raise EnvironmentUnfit(
            f"the benchmarks are not installed here ({error.name} is missing): run this in a checkout."
        ) from None
    code: int = frame.run(given.benchmark, quick=given.quick, json_target=given.json)
    return code
