"""The updates of one objective in one cycle: their paths, their steps and what came of them."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.learner.batch import Path
from advdmd_ray.learner.engine import Engine
from advdmd_ray.learner.engine_state import always
from advdmd_ray.learner.gang import Gang
from advdmd_ray.learner.laps import Laps
from advdmd_ray.learner.outcome import UpdateReport
from advdmd_ray.learner.parts import LossPart


class Updates:
    """So many updates. Iterating gives the path of each, which names its draws; each path wants one `step`.

    Args:
        engine: Whose network learns.
        objective: One of the engine's.
        count: How many updates.
        version: The learner's.
        rate: Factor of the objective's learning rate.

    Attributes:
        objective: As given.
    """

    def __init__(self, engine: Engine, objective: str, count: int, *, version: int, rate: float) -> None:
        self._engine, self._count, self._version, self._rate = engine, count, version, rate
        self.objective = objective
        self._losses: list[Tensor] = []
        self._norm, self._skipped, self._idle = 0.0, 0, 0

    def __iter__(self) -> Iterator[Path]:
        return ((self.objective, self._version, update) for update in range(self._count))

    @property
    def made(self) -> int:
        """Steps so far, skipped and idle ones included."""
        return len(self._losses)

    @property
    def idle(self) -> bool:
        """Whether nobody wanted any of the steps so far."""
        return self._idle == len(self._losses)

    def step(self, parts: Sequence[LossPart], wanted: Callable[[], bool] = always) -> None:
        """One update that lowers a loss, given in parts, unless it is not wanted (`Engine.step`). Collective."""
        values: list[Tensor] = []

        def noted(part: LossPart) -> Tensor:
            loss = part()
            values.append(loss.detach())
            return loss

        noting = [functools.partial(noted, part) for part in parts]
        step = self._engine.step(noting, self.objective, self._rate, wanted)
        self._losses.append(torch.stack(values).sum())
        self._norm = max(self._norm, 0.0 if step.idle else step.grad_norm)
        self._skipped, self._idle = self._skipped + step.skipped, self._idle + step.idle

    def all(self, parts: Callable[[Path], Sequence[LossPart]], laps: Laps) -> None:
        """Every update, with the loss of its path; a clock is told when they are over. Collective."""
        for path in self:
            self.step(parts(path))
        laps.ended(self.objective)

    def report(self, gang: Gang) -> UpdateReport:
        """What the steps did, averaged over the ranks. Collective, unless there were none."""
        mean = float(gang.mean(torch.stack(self._losses).mean())) if self._losses else math.nan
        made = len(self._losses) - self._skipped - self._idle
        return UpdateReport(made, self._skipped, loss=mean, gradient_norm=self._norm, rate=self._rate)


def rate_factor(version: int, cycles: int, final: float, began: int = 0) -> float:
    """Factor of a learning rate in the cycle after `version`: 1 at first, on a straight line to `final` in the last.

    `1 - (1 - final) clamp((version - began) / (cycles - 1 - began), 0, 1)`

    Args:
        version: Cycles made.
        cycles: Of the whole run.
        final: In (0, 1].
        began: Version at which the objective's first update was made, which has the factor 1 even in the last cycle.
    """
    return 1 - (1 - final) * min(1.0, max(version - began, 0) / max(cycles - 1 - began, 1))


def rate_of(objective: str, config: Config, version: int, rl_began: int | None) -> float:
    """Factor of an objective's learning rate: RL's falls from its own first turn on, the others' as the learner says.

    Args:
        objective: One of the learner's; `rl` is RL.
        config: Of the run.
        version: Cycles made.
        rl_began: Version at which RL's first turn was made; None before it.
    """
    cycles = config.run.cycles
    if objective == "rl":
        return rate_factor(
            version, cycles, config.policy_gradient.final_rate, version if rl_began is None else rl_began
        )
    if config.learner.rates_fall_until == "rl" and config.policy_gradient.enabled:
        cycles = min(cycles, config.cadence.warm_cycles + 1)
    return rate_factor(version, cycles, config.learner.final_rate)
