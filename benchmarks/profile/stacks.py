"""Samples of a process's stacks, and what they say it was busy with."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

RATE = 50
"""Samples of each process in a second."""
ELSEWHERE = "libraries alone"
_OURS = re.compile(r"(?P<function>[^;]+) \((?:[^;()]*/)?advdmd_ray/(?P<file>[^;():]+)")
# An actor of Ray without work; it counts as running, as it waits in compiled code.
_WAITING = re.compile(r"Worker\.main_loop \([^;]*\)$")


@dataclass(frozen=True, slots=True)
class Busy:
    """What a process was busy with.

    Attributes:
        process: Its role.
        shares: By function of ours, most first: the share of one core that it and the libraries below it took.
    """

    process: str
    shares: dict[str, float]

    @property
    def total(self) -> float:
        """Cores that were busy."""
        return sum(self.shares.values())


def busy(process: str, lines: Iterable[str], seconds: float) -> Busy:
    """The shares of a process, from collapsed stacks of the threads that ran.

    Args:
        process: Its role.
        lines: Each `frame;frame;... count`, outermost first; a frame is `function (file:line)`.
        seconds: How long the process was sampled, at `RATE`.

    Raises:
        ValueError: for a line that is no collapsed stack.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        stack, space, count = line.rpartition(" ")  # a stack that could not be read is empty
        if not space or not count.isdigit():
            raise ValueError(f"a collapsed stack `frame;frame;... count` is required, got {line!r}")
        if not _WAITING.search(stack):
            counts[innermost(stack)] += int(count)
    return Busy(process, {name: count / (RATE * seconds) for name, count in counts.most_common()})


def innermost(stack: str) -> str:
    """The last function of ours in a stack, as `file: function`; `ELSEWHERE` if there is none."""
    *_, last = (None, *_OURS.finditer(stack))
    return ELSEWHERE if last is None else f"{last['file']}: {last['function'].rpartition(';')[2]}"


def table(processes: Iterable[Busy], rows: int = 6) -> str:
    """The shares as text, the first `rows` of each process."""
    lines = []
    for each in processes:
        lines.append(f"{each.process}: {each.total:.2f} cores")
        lines += [f"  {share:6.1%}  {name}" for name, share in [*each.shares.items()][:rows]]
    return "\n".join(lines) + "\n"
