"""What is done to a run, and when: drawn from a seed, so that a storm can be had again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

DRIVER, NODE, LEARNER = "driver", "node", "learner rank"
KILL, STOP, TERM, LOSS = "SIGKILL", "SIGSTOP", "SIGTERM", "loss"
KINDS = (
    *((target, way) for target in ("rollout actor", "reward worker", "hub", LEARNER) for way in (KILL, STOP)),
    (NODE, LOSS),
    (DRIVER, KILL),
    (DRIVER, TERM),
)
"""All targets, each with what is done to it. A process that got SIGSTOP is never told to go on."""
ANY, SAVING, PUBLISHED, COMMITTED = "any", "saving", "published", "committed"
INSTANTS = (ANY, SAVING, PUBLISHED, COMMITTED)
"""any: whenever it is. saving: a checkpoint is being written. published: weights are, and nobody has loaded them.
committed: a group is, and its cycle has not begun."""
MOST_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        target: A role, `DRIVER` or `NODE`.
        way: What is done to it.
        instant: One of `INSTANTS`.
        wait_s: Before it, so that it meets a cycle anywhere.
        choice: In [0, 1): which of several processes or nodes is hit.
    """

    target: str
    way: str
    instant: str
    wait_s: float
    choice: float

    @property
    def kind(self) -> str:
        """Target and way."""
        return f"{self.target} {self.way}"


def drawn(seed: int, without: tuple[str, ...] = ()) -> Iterator[Fault]:
    """Faults without end, all kinds once before any comes again.

    Args:
        seed: Of the draws.
        without: Targets that are spared.

    Raises:
        ValueError: if all are.
    """
    draws = random.Random(seed)  # noqa: S311 - no secret
    kinds = [(target, way) for target, way in KINDS if target not in without]
    if not kinds:
        raise ValueError("a storm needs a target")
    while True:
        draws.shuffle(kinds)
        for target, way in kinds:
            instant = draws.choice(INSTANTS)
            yield Fault(target, way, instant, draws.uniform(0.0, MOST_WAIT_S), draws.random())
