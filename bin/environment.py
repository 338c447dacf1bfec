"""Is the virtual environment ready, and which Python runs it: the part of `bin/agent` that every call goes through.

Aim:     no noticeable time once the environment stands. A warm call reads the lock files and one stamp, and replaces
         itself by the environment's Python.
How:     a group of packages ("runtime", "kinds", "dev") is ready when its stamp, written last by `bootstrap`, names the
         digest of its lock files and the interpreter behind the environment. Anything else goes to `bootstrap.install`.
Promise: a complaint is one sentence on stderr with exit code 3; current folder and arguments pass through as they are.
Not:     no package is checked on the warm path; whoever deletes files from the environment deletes its stamps too.

This file has to parse on Python 3.6, so that an old interpreter can say what is wrong or find a newer one on PATH.
"""

import hashlib
import os
import sys

SUPPORTED = ((3, 11), (3, 12), (3, 13))
EXIT_ENVIRONMENT = 3
EXIT_INTERRUPTED = 130
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOCKS = {"runtime": ("build.txt", "runtime.txt", "torch.txt"), "kinds": ("kinds.txt",), "dev": ("dev.txt",)}
ASKED_FOR = ("kinds",)  # the groups that `bin/agent install` adds; a newer lock is followed once they are there


class EnvironmentTrouble(Exception):
    """The machine can not give the project its environment; the message is the sentence for the user."""


def venv_folder() -> str:
    """The environment's folder: `.venv` beside `bin/`, or the one that RAMIFY_VENV names."""
    return os.path.realpath(os.environ.get("RAMIFY_VENV") or os.path.join(ROOT, ".venv"))


def venv_python(venv: str) -> str:
    """The environment's interpreter, whether or not it is there yet."""
    return os.path.join(venv, "Scripts", "python.exe") if os.name == "nt" else os.path.join(venv, "bin", "python")


def stamp_path(venv: str, group: str) -> str:
    """The file whose content says that a group of packages is completely installed."""
    return os.path.join(venv, ".ramify-" + group)


def wanted_stamp(venv: str, group: str, root: str = ROOT) -> str:
    """What the stamp has to say: the digest of the group's lock files, and the interpreter behind the environment.

    The interpreter is named by its real path, so that an operating system's upgrade from one Python to the next
    (which leaves the environment without packages) shows without starting it.
    """
    digest = hashlib.sha256()
    for name in LOCKS[group]:
        with open(os.path.join(root, "requirements", name), "rb") as lock:
            digest.update(lock.read().replace(b"\r\n", b"\n"))
    return "lock sha256:%s\npython %s\n" % (digest.hexdigest(), os.path.realpath(venv_python(venv)))


def is_ready(venv: str, group: str, root: str = ROOT) -> bool:
    """True when the group's stamp is there, says what it should, and the interpreter exists."""
    try:
        with open(stamp_path(venv, group), encoding="utf-8") as stamp:
            found = stamp.read()
    except (OSError, ValueError):
        return False
    return found.startswith(wanted_stamp(venv, group, root)) and os.path.exists(venv_python(venv))


def groups_for(arguments: "list[str]") -> "tuple[str, ...]":
    """The groups that a call of `bin/agent` needs: `install GROUP` adds one, every other command runs without it."""
    asked = arguments[1:2] if arguments[:1] == ["install"] else []
    return ("runtime",) + tuple(group for group in asked if group in ASKED_FOR)


def ready_python(groups: "tuple[str, ...]") -> str:
    """The interpreter of an environment in which all groups are installed; installs what is missing first."""
    try:
        venv = venv_folder()
        once_asked = [group for group in ASKED_FOR if os.path.exists(stamp_path(venv, group))]
        wanted = [group for group in LOCKS if group in groups or group in once_asked]
        if not all(is_ready(venv, group) for group in wanted):
            use_supported_interpreter(sys.version_info[:2], os.environ.get("PATH", ""))
            import bootstrap  # needs a supported Python, and some 30 ms that a warm call does not spend

            bootstrap.install(venv, wanted)
        return venv_python(venv)
    except EnvironmentTrouble as trouble:
        complain(str(trouble))
        sys.exit(EXIT_ENVIRONMENT)
    except KeyboardInterrupt:
        complain("stopped before the environment was complete; the same command goes on with it.")
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        complain("the environment can not be read: %s; check that the checkout is complete and readable." % error)
        sys.exit(EXIT_ENVIRONMENT)


def complain(sentence: str) -> None:
    """One line on stderr, under the project's name."""
    sys.stderr.write("ramify: " + sentence + "\n")


def use_supported_interpreter(version: "tuple[int, ...]", path: str) -> None:
    """Returns when this Python will do, replaces this process by a supported one on PATH, or raises.

    The replacement runs the same script with the same arguments, so it can not come here twice.
    """
    if version in SUPPORTED:
        return
    for wanted in SUPPORTED:
        found = find_program("python%d.%d" % wanted, path)
        if found and answers_as(found, wanted):
            run_instead([found] + sys.argv)
    raise EnvironmentTrouble(unsupported_sentence(version))


def unsupported_sentence(version: "tuple[int, ...]") -> str:
    """What a Python that is too old or too new says when no supported one is on PATH."""
    return (
        "Python 3.11, 3.12 or 3.13 is needed, this one is %d.%d (%s) and PATH has no python3.11, python3.12 or "
        "python3.13; install one of them and run the same command again." % (version[0], version[1], sys.executable)
    )


def find_program(name: str, path: str) -> "str | None":
    """The first executable file of that name on a search path, or None."""
    suffix = ".exe" if os.name == "nt" else ""
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder, name + suffix)
        if folder and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def answers_as(program: str, version: "tuple[int, int]") -> bool:
    """Asks an interpreter for its version: a version manager's shim exists even when its Python does not."""
    import subprocess

    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.check_output([program, "-I", "-c", question], stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.decode("ascii", "replace").strip() == "%d.%d" % version


def hand_over(python: str, arguments: "list[str]") -> None:
    """Runs the environment's Python in place of this process, with the repository importable from any folder."""
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = ROOT + os.pathsep + inherited if inherited else ROOT
    run_instead([python] + arguments)


def run_instead(command: "list[str]") -> None:
    """Replaces this process where the system can; elsewhere waits for the child and takes over its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "posix":
        try:
            os.execv(command[0], command)
        except OSError as error:
            complain("%s does not start: %s; remove %s to have it made again." % (command[0], error, venv_folder()))
            sys.exit(EXIT_ENVIRONMENT)
    sys.exit(run_as_child(command))


def run_as_child(command: "list[str]") -> int:
    """Windows: the console sends Ctrl-C and Ctrl-Break to both processes, so this one only has to outlive the child."""
    import signal
    import subprocess

    child = subprocess.Popen(command)
    for name in ("SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if os.name == "posix":
        signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    return child.wait()
