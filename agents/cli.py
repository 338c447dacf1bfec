"""The command line: finds the command, runs it, and turns every ending into an exit code and at most one sentence.

    bin/agent [global options] COMMAND [options] …      global options may stand before or after the command

A command is one file in `agents/commands/`; only the one that is called is imported, so `--help` and a mistyped name
answer at once. Errors that we foresee are one sentence on stderr and the code of their class (docs/commands.md).
Anything else is a defect: its traceback goes to a file below the home folder, the sentence names that file; `--debug`
shows it.

Rows and documents go to stdout, complaints to stderr. A reader that closes the pipe early is no error.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from agents.commands import flags
from mesh.errors import DiskFull, Interrupted, InvariantBroken, RamifyError, SettingsInvalid

EXIT_DEFECT = InvariantBroken.exit_code
EXIT_INTERRUPTED = Interrupted.exit_code
EXIT_PIPE = 141
"""128 + SIGPIPE, as a program that is ended by the closed pipe itself would have."""

GROUPS: dict[str, dict[str, str]] = {
    "The main job": {
        "run": "Do the main job here: start what is missing, publish a topic, follow it to the verdict.",
        "up": "Run a broker and one of each agent here, and say how other machines join.",
        "task": "Do one task of any kind here: start what is missing, follow it, take its outputs.",
        "search": "Look for good settings of a training kind: trials side by side, bad ones ended early.",
        "ask": "Ask the champion of a topic about a text, or have it go on with one.",
        "publish": "Publish a topic to a running mesh.",
        "republish": "Publish again what was lost because the broker came back with an older store.",
        "watch": "Show what happens to a topic, or to all, as it happens.",
    },
    "Looking around": {
        "status": "Say how the mesh is: its leader, its agents, its tasks by state.",
        "workers": "List the workers and what they hold.",
        "tasks": "List the tasks and where they stand.",
        "graph": "Show the specializations as a tree with their champions; expand, merge, retire, export, import them.",
        "models": "List champions and pushed models, pull one into a folder, push a folder, or remove one.",
        "think": "Say what the two lines of a topic would try, with how much, and why.",
        "top": "Show the mesh live in the terminal: workers, tasks, queue, rates, leader, store.",
        "verdicts": "List what the gate decided, and why.",
        "doctor": "Check this machine, the broker and the streams, and say what is wrong.",
        "install": "Install the packages that more kinds need, and list which kinds run here.",
        "config": "Print the settings in effect and where each comes from.",
    },
    "Stepping in": {
        "cancel": "Withdraw a task, or all open tasks of a topic.",
        "dead-letters": "List the tasks that were set aside for good, and why.",
        "resubmit": "Start parked tasks again, from their newest checkpoint.",
        "drain": "Take a worker out of service, or back into it.",
        "checkpoint": "Have a running task take a checkpoint now, and wait until it is on record.",
        "refused": "List the late results that a worker here was refused, hand one in, or take it out.",
    },
    "Letting others in": {
        "invite": "Print one line with which another machine, or a person, joins the mesh of this home.",
        "join": "Make this home a member of the mesh that an invitation is from.",
        "leave": "Forget the mesh that this home has joined.",
        "members": "List who has joined the mesh of this home, and which invitations are open.",
        "revoke": "Turn a member out, or make an invitation void.",
        "provision": "Make a mesh's streams on somebody else's broker, or write its roles' users for its operator.",
        "token": "Issue, list or revoke tokens, with which people and machines come in over HTTP.",
    },
    "Agents, one process each": {
        "worker": "Run a worker here, restarted when it dies.",
        "planner": "Run a planner: topics become tasks.",
        "scheduler": "Run a scheduler: it keeps the ledger and gives tasks to workers.",
        "consensus": "Run a consensus agent: it has results checked and compares the lines.",
        "gate": "Run a gate: it accepts or rejects what consensus recommends.",
        "feeder": "Run a feeder: it keeps the queue filled where more training is expected to help.",
        "gateway": "Run a gateway: a way into the mesh over HTTP, for people and machines without NATS.",
        "keeper": "Run the embedded broker; commands start this by themselves.",
    },
    "Measuring": {
        "bench": "Run a benchmark and print its document.",
        "gradcheck": "Compare a training kind's gradients with numerical ones, in float64.",
        "simulate": "Live through seeded faults in virtual time, and see whether every promise is kept.",
    },
}
"""Every command and its sentence. A test compares this table with the files of agents/commands/ and with the docs."""

COMMANDS: dict[str, str] = {name: text for group in GROUPS.values() for name, text in group.items()}

INTRODUCTION = """usage: bin/agent [options] COMMAND …

Ramify trains a growing tree of specialist models on whatever machines you can get.

    bin/agent run "handwritten digits" --data builtin:digits
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    name = ""
    try:
        name, rest = split(arguments)
        code = _run(name, rest) if name else _without_command(rest)
        sys.stdout.flush()
        return code
    except RamifyError as error:
        complain(name, str(error))
        if "--debug" in arguments:
            raise
        return error.exit_code
    except BrokenPipeError:
        _close_stdout()
        return EXIT_PIPE
    except KeyboardInterrupt:
        complain(name, "stopped.")
        return EXIT_INTERRUPTED
    except Exception as error:
        if "--debug" in arguments:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _close_stdout()
            complain(name, "there is no room left on the disk, or where the output goes: free some space.")
            return DiskFull.exit_code
        complain(name, _defect(name, arguments, error))
        return EXIT_DEFECT


def split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """(command, everything else in order); the command is the first argument that belongs to no option."""
    takes_value = False
    for position, argument in enumerate(arguments):
        if takes_value:
            takes_value = False
        elif argument.startswith("-") and len(argument) > 1:
            takes_value = argument in flags.WITH_VALUE
        else:
            return argument, [*arguments[:position], *arguments[position + 1 :]]
    return "", list(arguments)


def _without_command(arguments: list[str]) -> int:
    if "--version" in arguments:
        from mesh.version import PROGRAM_VERSION

        print(f"ramify {PROGRAM_VERSION}")
        return 0
    if not arguments or {"-h", "--help"} & set(arguments):
        print(overview())
        return 0
    raise SettingsInvalid(f"expected a command after {arguments[-1]!r}; `bin/agent --help` lists them.")


def overview() -> str:
    """All commands by group, and the options that every command takes."""
    width = max(len(name) for name in COMMANDS)
    lines = [INTRODUCTION]
    for title, group in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in group.items()), ""]
    lines.append("`bin/agent COMMAND --help` shows a command's options and an example.")
    return "\n".join(lines)


def _run(name: str, rest: list[str]) -> int:
    if name not in COMMANDS:
        raise SettingsInvalid(unknown_command(name))
    module = load(name)
    given = parser_of(name, module).parse_args(rest)
    code: int = module.run(given)
    return code


def unknown_command(name: str) -> str:
    """The sentence for a command that does not exist, with the nearest one that does."""
    import difflib  # 3 ms that a known command does not spend

    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"there is no command {name[:60]!r}; {hint}`bin/agent --help` lists them all."


def load(name: str) -> ModuleType:
    """The module of a command: `add_flags(parser)`, `run(given) -> exit code`, `EXAMPLE`."""
    return importlib.import_module(f"agents.commands.{name.replace('-', '_')}")


def parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of one command, global options included."""
    parser = flags.Parser(
        prog=f"bin/agent {name}",
        description=COMMANDS[name],
        epilog="example:\n" + "\n".join(f"  {line}" for line in module.EXAMPLE.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_flags(parser)
    flags.add_global(parser)
    return parser


def complain(name: str, sentence: str) -> None:
    """One sentence on stderr, under the command's name."""
    where = f"bin/agent {name}" if name in COMMANDS else "bin/agent"
    try:
        print(f"{where}: {sentence}", file=sys.stderr, flush=True)
    except OSError:  # stderr is gone: the exit code has to say it
        return


def _close_stdout() -> None:
    """The reader is gone: point stdout at nothing, else the interpreter complains when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _defect(name: str, arguments: Sequence[str], error: Exception) -> str:
    """Write the traceback to a file below the home folder; the sentence for the person."""
    import traceback

    what = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
    try:
        path = flags.home_of(arguments) / "logs" / "defects.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"--- bin/agent {name}\n{''.join(traceback.format_exception(error))}\n")
    except OSError:
        return f"stopped by a defect ({what}); run it again with --debug to see where, and please report it."
    return f"stopped by a defect ({what}); {path} says where, please report it."
