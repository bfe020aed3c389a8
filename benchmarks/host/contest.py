"""A contest: contestants do the same work in turns, A B C A B C, and their medians are compared.

Turns share whatever else the machine does at the time, so ratios of medians say more than seconds.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

OURS = "ours"
QUARTERS = 4

Turn = Callable[[], float]
"""One turn: does the work once and says how many seconds it took; what must be prepared is not counted."""


def always(seconds: float) -> Turn:
    """A bound as a contestant: whatever the machine, it takes so many seconds."""
    return lambda: seconds


@dataclass(frozen=True, slots=True)
class Field:
    """Who takes part.

    Attributes:
        turns: By name; `OURS` is one of them. A limit, such as the copies that nobody can do without, is one too.
        absent: Rivals that are not here, and why.
        facts: What turns saw beside their seconds, by name with its unit; each adds its own figure.
    """

    turns: Mapping[str, Turn]
    absent: Mapping[str, str] = field(default_factory=dict)
    facts: MutableMapping[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        name: Short, for the command line and the document.
        work: What a turn does, in words.
        opened: Brings the contestants up and takes them down again.
        goals: By rival, the least ratio of its median to ours.
        rounds: Most that are counted, where a turn takes minutes; none warms up then. None: as many as are asked for.
    """

    name: str
    work: str
    opened: Callable[[], AbstractContextManager[Field]]
    goals: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = None

    def held(self, field_: Field, *, warm_up: int, repeats: int) -> dict[str, "Figures"]:
        """The contest of this row: see `hold`."""
        if self.rounds is None:
            return hold(field_, warm_up=warm_up, repeats=repeats)
        return hold(field_, warm_up=0, repeats=min(self.rounds, repeats))


@dataclass(frozen=True, slots=True)
class Figures:
    """The turns of one contestant.

    Attributes:
        seconds: Of each counted turn.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds of the middle turn."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these seconds lies the middle half of the turns."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=QUARTERS, method="inclusive")
        return low, high


def hold(field_: Field, *, warm_up: int, repeats: int) -> dict[str, Figures]:
    """Lets every contestant do its work, one after the other in each round.

    Args:
        field_: The contestants.
        warm_up: Rounds that are not counted, nor what they saw.
        repeats: Rounds that are, at least 1.

    Raises:
        ValueError: if we do not take part, or a number is out of range.
    """
    if OURS not in field_.turns or warm_up < 0 or repeats < 1:
        raise ValueError(f"got contestants {list(field_.turns)}, warm_up={warm_up}, repeats={repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in field_.turns}
    for counted in [False] * warm_up + [True] * repeats:
        for name, turn in field_.turns.items():
            took = turn()
            if counted:
                seconds[name].append(took)
        if not counted:
            field_.facts.clear()
    return {name: Figures(tuple(each)) for name, each in seconds.items()}
