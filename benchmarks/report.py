"""BENCHMARKS.md from the documents that were kept: each benchmark's last full run, under its conditions.

The page is generated and never edited, so that no figure stands there that no run produced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.document import SHARE, Aim, Conditions, Document, Row, quantity, read, to_json
from mesh.errors import EnvironmentUnfit, SettingsInvalid

FOLDER = Path(__file__).resolve().parent / "results"
"""One file per benchmark: its last full run."""

HEAD = """# Benchmarks

Written by `bin/agent bench report` from the documents in `benchmarks/results/`, each the last full run that was kept
with `bin/agent bench NAME --keep`. Do not edit: run them again. A value is the median of its runs, with the smallest
and the largest beside it. MB are 1,000,000 bytes. Compare figures within one run: another machine has others.
"""


def keep(document: Document, folder: Path = FOLDER) -> Path:
    """Make this document the benchmark's last full run; its path. SettingsInvalid for a quick one."""
    if document.conditions.quick:
        raise SettingsInvalid("a quick run measures nothing and is not kept: run the benchmark without --quick.")
    path = folder / f"{document.name}.json"
    temporary = path.with_name(f".{path.name}.new")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(to_json(document))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentUnfit(
            f"the result can not be kept in {folder} ({error.strerror or error}): use --json FILE instead."
        ) from None
    return path


def kept(folder: Path = FOLDER) -> list[Document]:
    """All kept documents by name. DataRefused when a file is none."""
    return sorted((read(path) for path in folder.glob("*.json")), key=lambda document: document.name)


def page(documents: Sequence[Document]) -> str:
    """The whole page."""
    if not documents:
        return HEAD + "\nNo full run was kept yet.\n"
    return HEAD + "".join(f"\n{section(document)}" for document in documents)


def section(document: Document) -> str:
    """One benchmark: why, aims, rows, conditions."""
    parts = [f"## {document.name}\n\n{_cell(document.why)}\n"]
    if document.aims:
        parts.append(_table(("aim", "wanted", "got", "met"), map(_aim, document.aims)))
    parts.append(_table(("who", "metric", "median", "low", "high", "unit", "runs"), map(_row, document.rows)))
    remarks = [f"- {_cell(row.who)}, {_cell(row.metric)}: {_cell(row.why)}" for row in document.rows if row.why]
    if remarks:
        parts.append("\n".join(remarks) + "\n")
    return "\n".join([*parts, conditions(document.conditions)])


def conditions(found: Conditions) -> str:
    """The conditions in a paragraph."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    load = "unknown" if found.load_1m_before is None else f"{found.load_1m_before:.2f}"
    return (
        f"Conditions: {found.date}, commit {found.commit or 'unknown'}; {found.cpu}, {found.cores:g} cores, "
        f"{found.memory_bytes / 1e9:.1f} GB memory, {found.os}; Python {found.python}, {versions}; "
        f"before it, load {load} and {found.busy_before:.0%} of the processors busy with other work; "
        f"{found.seconds:.0f} s in all.\n"
    )


def _aim(aim: Aim) -> tuple[str, ...]:
    got = "not measured" if aim.got is None else quantity(number(aim.got), aim.unit)
    return (aim.aim, aim.wanted, got, "yes" if aim.met else "**no**")


def _row(row: Row) -> tuple[str, ...]:
    unit = "" if row.unit == SHARE else row.unit
    if row.skipped:
        return (row.who, row.metric, "skipped", "", "", unit, "")
    return (row.who, row.metric, number(row.value), number(row.low), number(row.high), unit, str(row.runs))


def number(value: float | None) -> str:
    """Three significant digits, thousands grouped: more would claim a precision that no run has."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """One line that no table or markup takes for its own."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
