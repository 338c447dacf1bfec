"""docs/commands.md and docs/result.md say what the program does: every command, option, exit code and field."""

from __future__ import annotations

import inspect
import re

from agents import cli
from agents.commands import report, result_document
from mesh import errors
from mesh.keeper import EXIT_BUSY
from tests.support import commands_page
from tests.tidy.source_tree import ROOT


def test_the_page_is_what_the_parsers_say() -> None:
    page = commands_page.PAGE.read_text("utf-8")
    assert page == commands_page.written(page), "run: python -m tests.support.commands_page"


def test_every_command_stands_in_the_page_with_an_example() -> None:
    page = commands_page.PAGE.read_text("utf-8")
    for name, sentence in cli.COMMANDS.items():
        assert f"### `bin/agent {name}`\n\n{sentence}\n\n    bin/agent {name}" in page


def test_every_exit_code_is_explained_and_none_is_invented() -> None:
    page = commands_page.PAGE.read_text("utf-8")
    explained = {int(code) for code in re.findall(r"^\| (\d+) \| \S", page, re.MULTILINE)}
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.RamifyError)]
    used = {0, cli.EXIT_PIPE, report.EXIT_NO_VERDICT, EXIT_BUSY} | {one.exit_code for one in classes}
    assert explained == used


def test_every_field_of_the_result_document_is_explained() -> None:
    page = (ROOT / "docs" / "result.md").read_text("utf-8")
    explained = set(re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE))
    source = inspect.getsource(result_document)
    written = set(re.findall(r'^\s+(?:return \{|checks.*\{)?"(\w+)":', source, re.MULTILINE))
    written |= set(result_document.TREE_FIELDS) | {"accepted", "passed", "bound", "model", "version", "promoted"}
    assert {name.split(".")[-1].removesuffix("[]") for name in explained} >= written
