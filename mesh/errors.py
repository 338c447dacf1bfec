"""Every error of Ramify, drawn as one family.

The class tells the consequence, so that a handler reads the class and never the text:

    RamifyError
      Retry                 try again later; the message or the task goes back with a delay
        BusUnavailable        the broker can not be reached, or did not answer in time
        ChildBroke            a child process died, fell silent or broke its protocol
        DeviceBroke           a GPU failed or proved nothing in time; the task is not to blame
        OutOfMemory           the task did not fit; it has a budget of attempts of its own
        DiskFull              no room to write; what was half-written is removed
      Reject                will never succeed; recorded with its reason and set aside
        Malformed             bytes or fields that are no valid record
        StaleWrite            the write names an epoch that is over, or another holder's
        Conflict              compare-and-set lost: somebody else wrote first
        DataRefused           a dataset that can not be used; .row says where
        ModelRefused          a model folder that can not be taken in; no code and no pickle travels
        TaskRefused           settings, kind or inputs that no worker could run
        ArtifactMissing       a chunk or manifest is not in the store
        ArtifactCorrupt       bytes do not match their digest
        NotFound              no such topic, task, model, node or command
        NonFinite             loss or gradient became NaN or infinite
      Stop                  this process must not go on
        SettingsInvalid       a setting, flag or file of settings is wrong
        BrokerRefused         the broker refuses these credentials or this protocol
        EnvironmentUnfit      the machine lacks something: a program, a port, a folder, rights
        Deposed               another scheduler leads; this one steps down
        InvariantBroken       a defect in our own code
        Interrupted           a person or the system asked to stop

Each class carries `exit_code`, the status with which a command ends when the error reaches the door.
They are documented in docs/commands.md. A message is one sentence: what was expected, what was found, what to do.
"""

from __future__ import annotations


class RamifyError(Exception):
    """Something went wrong in Ramify."""

    exit_code = 1

    def __init__(self, message: str = "", **facts: object) -> None:
        """message: one sentence (default: the class's docstring); facts: become attributes for handlers and logs."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.facts = facts

    def __getattr__(self, name: str) -> object:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__} carries no fact named {name!r}")


class Retry(RamifyError):
    """Not now; try again later."""


class Reject(RamifyError):
    """This will never succeed as it is."""


class Stop(RamifyError):
    """This process can not go on."""


class BusUnavailable(Retry):
    """The broker could not be reached in time; check that it runs and that the address is right."""

    exit_code = 4


class ChildBroke(Retry):
    """A child process ended without an answer; its task will be tried again."""


class DeviceBroke(Retry):
    """A device of this machine failed; the task goes on elsewhere, or on the processor."""


class OutOfMemory(Retry):
    """The task did not fit into memory; it will be tried again with a smaller batch or on a bigger worker."""


class DiskFull(Retry):
    """There is no room left on the disk; free some space and try again."""

    exit_code = 3


class Malformed(Reject):
    """These bytes are no valid record."""


class StaleWrite(Reject):
    """The write belongs to an epoch that is over; it changes nothing."""


class Conflict(Reject):
    """Somebody else wrote first; read again and decide anew."""


class DataRefused(Reject):
    """The dataset can not be used as it is."""

    exit_code = 5


class ModelRefused(Reject):
    """The model can not be used as it is."""

    exit_code = 5


class TaskRefused(Reject):
    """The task can not be run as it is described."""


class ArtifactMissing(Reject):
    """A part of an artifact is not in the store."""

    exit_code = 6


class ArtifactCorrupt(Reject):
    """Stored bytes do not match their digest."""


class NotFound(Reject):
    """There is nothing of that name."""

    exit_code = 6


class NonFinite(Reject):
    """Loss or gradient became NaN or infinite; the last good checkpoint is kept."""


class SettingsInvalid(Stop):
    """A setting is not valid."""

    exit_code = 2


class BrokerRefused(Stop):
    """The broker refuses this client; check the credentials and the versions."""

    exit_code = 9


class EnvironmentUnfit(Stop):
    """This machine lacks something that is needed."""

    exit_code = 3


class Deposed(Stop):
    """Another scheduler leads this mesh now."""

    exit_code = 8


class InvariantBroken(Stop):
    """A rule that always holds was broken: this is a defect, please report it."""

    exit_code = 70


class Interrupted(Stop):
    """Stopped as asked."""

    exit_code = 130
