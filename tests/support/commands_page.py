"""docs/commands.md as the program itself would write it: every command with its sentence, examples and options.

python -m tests.support.commands_page     writes the page anew, between its two marks
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agents import cli
from agents.commands import flags

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
BEGIN, END = "<!-- commands: begin -->\n", "<!-- commands: end -->\n"


def rendered() -> str:
    """All commands by group, then the options that every command takes."""
    parts = []
    for title, group in cli.GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [_command(name, sentence) for name, sentence in group.items()]
    parts.append("## Options of every command\n\n" + _table(_global_actions()))
    return "\n".join(parts)


def written(page: str) -> str:
    """The page with the rendered part in its place."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{rendered()}\n{END}{tail}"


def _command(name: str, sentence: str) -> str:
    module = cli.load(name)
    parser = cli.parser_of(name, module)
    examples = "\n".join(f"    {line}" for line in module.EXAMPLE.splitlines())
    common = {option for names, *_ in flags.GLOBAL for option in names} | set(flags.SWITCHES) | {"-h"}
    own = [action for action in parser._actions if not common & set(action.option_strings)]
    table = "\n" + _table(own) if own else ""
    return f"### `bin/agent {name}`\n\n{sentence}\n\n{examples}\n{table}"


def _global_actions() -> list[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    flags.add_global(parser)
    return parser._actions


def _table(actions: list[argparse.Action]) -> str:
    rows = [f"| {_names(action)} | {_help(action)} |" for action in actions]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"


def _names(action: argparse.Action) -> str:
    value = str(action.metavar or "")
    if action.choices is not None and not value:
        value = ", ".join(map(str, action.choices))
    if not action.option_strings:
        return f"`{value or action.dest}`"
    return f"`{', '.join(action.option_strings)}{' ' + value if value else ''}`"


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
