"""The front pages tell the truth: every room and every page is named, every link and every path resolves."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from tests.tidy.source_tree import ROOT, repository

README_LINES_MAX = 200
"""A front door, not a manual."""

FRONT = ("README.md", "ARCHITECTURE.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.+?)\s*$", re.MULTILINE)
QUOTED_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
GENERATED = (".venv/", ".ramify/")
"""Folders that appear in use; pages may name them."""


def tracked() -> set[str]:
    """Paths of all files."""
    return set(repository().files)


def folders() -> set[str]:
    """Paths of all folders, with a slash at the end."""
    return {f"{parent}/" for path in tracked() for parent in PurePosixPath(path).parents if str(parent) != "."}


def pages() -> list[str]:
    """Every Markdown page that people read."""
    return sorted(path for path in tracked() if path.endswith(".md") and not path.startswith("tests/"))


def text(path: str) -> str:
    return repository().files[path]


def anchor(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")


def broken_links(path: str, content: str) -> list[str]:
    """Links of a page that lead to no file, folder or heading of ours. Addresses outside are not looked up."""
    complaints = []
    for link in LINK.findall(content):
        if "://" in link:
            continue
        place, _, heading = link.partition("#")
        target = (ROOT / path).parent / place if place else ROOT / path
        name = target.resolve().relative_to(ROOT).as_posix()
        if name not in tracked() and f"{name}/" not in folders():
            complaints.append(f"{path} links to {link}, which is not there")
        elif heading and heading not in [anchor(found) for found in HEADING.findall(text(name))]:
            complaints.append(f"{path} links to {link}, and that page has no such heading")
    return complaints


def unknown_paths(path: str, content: str) -> list[str]:
    """Paths in backquotes whose first folder is ours and which are not there."""
    tops = {name.split("/")[0] for name in tracked() if "/" in name}
    complaints = []
    for name in QUOTED_PATH.findall(content):
        ours = name.split("/")[0] in tops and not name.startswith(GENERATED)
        if ours and name not in tracked() and f"{name.rstrip('/')}/" not in folders():
            complaints.append(f"{path} names `{name}`, which is not there")
    return complaints


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) < README_LINES_MAX


@pytest.mark.parametrize("path", pages())
def test_links_resolve(path):
    assert broken_links(path, text(path)) == []


@pytest.mark.parametrize("path", FRONT)
def test_named_paths_exist(path):
    assert unknown_paths(path, text(path)) == []


def test_every_room_stands_in_the_architecture():
    rooms = {f"{path.split('/')[0]}/" for path in tracked() if "/" in path}
    assert sorted(room for room in rooms if f"`{room}`" not in text("ARCHITECTURE.md")) == []


def test_every_package_stands_in_the_tour():
    packages = {path.split("/")[0] for path in tracked() if re.fullmatch(r"\w+/__init__\.py", path)} - {"tests"}
    assert packages
    assert sorted(name for name in packages if f"{name}/" not in text("README.md")) == []


def test_every_page_is_linked_from_the_front():
    linked = {
        ((ROOT / front).parent / link.partition("#")[0]).resolve().relative_to(ROOT).as_posix()
        for front in FRONT
        for link in LINK.findall(text(front))
        if "://" not in link
    }
    docs = {path for path in tracked() if path.startswith("docs/") and path.count("/") == 1}
    top = {path for path in pages() if "/" not in path} - {"README.md"}
    assert sorted((docs | top) - linked) == []


def test_decisions_are_numbered_and_argued():
    """One number each, without gaps; what was decided, why, and what it costs or what was not taken."""
    decisions = [path for path in pages() if path.startswith("docs/decisions/")]
    assert decisions
    for number, path in enumerate(decisions, 1):
        assert re.fullmatch(rf"docs/decisions/{number:04d}-[a-z0-9-]+\.md", path), path
        assert text(path).startswith(f"# {number:04d}: "), path
        assert len(re.findall(r"^\*\*[A-Z]", text(path), re.MULTILINE)) >= 3, f"{path} argues in fewer than three parts"


def test_the_architecture_names_rules_that_exist():
    """A marked invariant without its test is only a wish."""
    tidy = "".join(content for path, content in repository().files.items() if path.startswith("tests/tidy/"))
    for rule in re.findall(r"`(?:arrows|manners)\.(\w+)`", text("ARCHITECTURE.md")):
        assert f"def {rule}(" in tidy, rule


def test_the_checks_of_this_file_bite():
    assert broken_links("README.md", "see [there](docs/nowhere.md) and [here](README.md#no-such-heading)") != []
    assert len(broken_links("README.md", "[a](nowhere.md) [b](docs/settings.md) [c](https://example.org/x)")) == 1
    assert unknown_paths("README.md", "`mesh/nowhere.py` `mesh/errors.py` `other/thing.py` `docs/`") == [
        "README.md names `mesh/nowhere.py`, which is not there"
    ]
