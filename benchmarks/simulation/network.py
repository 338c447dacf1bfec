"""What happens to messages and calls between the processes and the broker of a simulated mesh."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

from benchmarks.simulation.trace import Trace
from mesh.bus import Message
from mesh.memory import Fate, Faults


@dataclasses.dataclass(frozen=True, slots=True)
class Weather:
    """How bad the network is: probabilities per message or call."""

    drop: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    lost: float = 0.0
    """A write never arrives."""
    reply_lost: float = 0.0
    """A write is stored, its answer never comes."""
    late: float = 0.0
    """A write is stored when its writer has given it up, or is dead."""
    slow: float = 0.0
    """A call takes seconds."""
    no_answer: float = 0.0
    """A call's answer never comes."""

    @classmethod
    def of(cls, chance: random.Random) -> Weather:
        """Calm, rough, or one trouble above all."""
        scale = chance.choice((0.0, 0.3, 1.0, 1.0, 3.0))
        rates = {field.name: scale * chance.choice((0.0, 1.0, 1.0, 2.0)) for field in dataclasses.fields(cls)}
        most = {
            "drop": 0.05,
            "repeat": 0.05,
            "delay": 0.08,
            "lost": 0.03,
            "reply_lost": 0.04,
            "late": 0.02,
            "slow": 0.04,
        }
        return cls(**{name: rate * most.get(name, 0.01) for name, rate in rates.items()})


CALM = Weather()

LATENCY_S = 0.001
"""A call when nothing is wrong."""


class Network(Faults):
    """Draws the fate of each message and call from the seed."""

    def __init__(self, chance: random.Random, trace: Trace) -> None:
        self.weather = CALM
        self._chance, self._trace = chance, trace

    def copies(self, sender: str, receiver: str, message: Message) -> Sequence[float]:
        """Core messages may be lost, repeated, delayed, and so overtake each other."""
        weather, roll = self.weather, self._chance.random()
        if weather is CALM:
            return (LATENCY_S,)
        if roll < weather.drop:
            self._trace.fault("dropped")
            return ()
        roll -= weather.drop
        if roll < weather.repeat:
            self._trace.fault("repeated")
            return (LATENCY_S, self._chance.uniform(0.0, 4.0))
        roll -= weather.repeat
        if roll < weather.delay:
            self._trace.fault("delayed")
            return (self._chance.choice((0.05, 0.5, 3.0)) * self._chance.random(),)
        return (LATENCY_S,)

    def append(self, writer: str, subject: str) -> Fate:
        """Writes may be lost, or executed without an answer, at once or later."""
        weather, roll = self.weather, self._chance.random()
        fate = Fate.STORED
        if weather is not CALM and roll < weather.lost:
            self._trace.fault("write lost")
            fate = Fate.LOST
        elif weather is not CALM and roll < weather.lost + weather.reply_lost:
            self._trace.fault("reply lost")
            fate = Fate.REPLY_LOST
        elif weather is not CALM and roll < weather.lost + weather.reply_lost + weather.late:
            self._trace.fault("late write")
            fate = Fate.LATE
        self._trace.note(f"{writer} writes {subject}" + ("" if fate is Fate.STORED else f" ({fate.value})"))
        return fate

    def late_s(self) -> float:
        """Sometimes within the writer's patience, sometimes long after it."""
        return self._chance.choice((0.1, 4.0, 15.0)) * self._chance.uniform(0.5, 1.5)

    def latency_s(self, caller: str, what: str) -> float:
        """Calls may be slow, or get no answer."""
        weather, roll = self.weather, self._chance.random()
        if weather is CALM:
            return LATENCY_S
        if roll < weather.no_answer:
            self._trace.fault("no answer")
            return math.inf
        if roll < weather.no_answer + weather.slow:
            self._trace.fault("slow call")
            return self._chance.uniform(0.2, 6.0)
        return LATENCY_S * self._chance.uniform(0.5, 3.0)
