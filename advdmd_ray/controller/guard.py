"""The guard against divergence: losses, gradient norms and reward spreads that leave the range of the run's own past.

Pure: it is fed with each cycle's report, and says what is out, and whether the run is to stop.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from advdmd_ray.config.faults import GuardSection
from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.metrics.series import Sample

FEW = 3
"""Below so many past values a median says little."""
NORMAL_MAD = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One value of a series that is watched.

    Attributes:
        series: Its key, as metrics.jsonl has it.
        value: The value.
        scale: Magnitude below which no value is out, however small the ones before were: a loss of a student that still
            equals its teacher is almost 0, and grows a thousandfold in health.
        learned: Whether it went into the weights. The update of a gradient that is not finite is skipped, so its norm
            is out, but not yet the end.
    """

    series: str
    value: float
    scale: float
    learned: bool = True


def watched(report: CycleReport, max_grad_norm: float) -> tuple[Watched, ...]:
    """What is watched of a cycle: loss and gradient norm of each objective that had updates, each level's spread.

    Losses and logits are of order 1 by their definition; a gradient norm below the clip changes nothing.
    """
    values: list[Watched] = []
    for objective, update in report.updates.items():
        if update.updates or update.skipped:
            loss = Sample.of("advdmd_learner_loss", update.loss, objective=objective)
            norm = Sample.of("advdmd_learner_gradient_norm", update.gradient_norm, objective=objective)
            values.append(Watched(loss.key, loss.value, 1.0))
            values.append(Watched(norm.key, norm.value, max_grad_norm, learned=False))
    for level, spread in enumerate(report.reward_spread, start=1):
        values.append(Watched(Sample.of("advdmd_reward_spread", spread, level=level).key, spread, 1.0))
    return tuple(values)


def upper_limit(past: Sequence[float], scale: float, *, factor: float, deviations: float) -> float:
    """The largest magnitude that is within the range of a series' past.

    `exp(m + max(log factor, deviations * s))`, where m is the median of `l = log max(|x|, scale)` over the past. Its
    noise s is `1.4826 / sqrt(2)` times the median absolute deviation of the differences of neighbours in l: so a series
    that only grows has none, and its growth is out once it makes more than `factor` in half of the window. Before there
    are 3 values: `scale * factor^2`.

    Args:
        past: The last values that were within the range.
        scale: See `Watched`, > 0.
        factor: At least this far from the median, > 1.
        deviations: And so many times the noise.
    """
    if len(past) < FEW:
        return scale * factor**2
    logs = [math.log(max(abs(value), scale)) for value in past]
    steps = [after - before for before, after in itertools.pairwise(logs)]
    usual = statistics.median(steps)
    noise = NORMAL_MAD / math.sqrt(2) * statistics.median(abs(step - usual) for step in steps)
    bound = statistics.median(logs) + max(math.log(factor), deviations * noise)
    return math.exp(min(bound, 700.0))  # beyond that there is no float


@dataclass(frozen=True, slots=True)
class Departure:
    """A series that is out of the range of its past.

    Attributes:
        series: Its key.
        since: First cycle in which it was.
        values: So many in a row are out; a series may have none in a cycle.
        cycle: Of the newest.
        value: The newest.
        limit: What it should not exceed.
        low: Smallest value of its past; nan if it has none.
        high: Largest one.
        learned: As of `Watched`.
    """

    series: str
    since: int
    values: int
    cycle: int
    value: float
    limit: float
    low: float
    high: float
    learned: bool

    def text(self) -> str:
        """One sentence, of the newest value."""
        past = "it has no past" if math.isnan(self.low) else f"{self.low:.3g} to {self.high:.3g} before"
        return f"{self.series} is {self.value:.3g} in cycle {self.cycle} ({past}, at most {self.limit:.3g} is in range)"


@dataclass(frozen=True, slots=True)
class Guard:
    """Watches every series of a run against its own past; values that are out do not become past.

    Only growth counts: a loss that falls to nothing is what a loss is for, and a spread of 0 teaches nothing wrong.

    Attributes:
        settings: The configuration's.
        past: The last values within the range, by series, at most `settings.window`.
        out: The series that are out now, by key.
        entered: Those of them that were within the range in the cycle before.
        cycle: The one fed last.
    """

    settings: GuardSection
    past: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    out: Mapping[str, Departure] = field(default_factory=dict)
    entered: tuple[Departure, ...] = ()
    cycle: int = 0

    def fed(self, cycle: int, values: Sequence[Watched]) -> Self:
        """The guard after one more cycle. A series of which nothing came stays as it was."""
        if not self.settings.enabled:
            return self
        past, out = dict(self.past), dict(self.out)
        for each in values:
            before = past.get(each.series, ())
            limit = upper_limit(before, each.scale, factor=self.settings.factor, deviations=self.settings.deviations)
            if abs(each.value) <= limit:
                past[each.series] = (*before, each.value)[-self.settings.window :]
                out.pop(each.series, None)
                continue
            known = out.get(each.series)
            since, values_out = (known.since, known.values + 1) if known else (cycle, 1)
            low, high = min(before, default=math.nan), max(before, default=math.nan)
            out[each.series] = Departure(
                each.series, since, values_out, cycle, each.value, limit, low, high, each.learned
            )
        entered = tuple(departure for key, departure in out.items() if key not in self.out)
        return replace(self, past=past, out=out, entered=entered, cycle=cycle)

    @property
    def since(self) -> int | None:
        """First cycle in which one of the series that are out was; None if all are within the range."""
        return min((departure.since for departure in self.out.values()), default=None)

    @property
    def doubtful(self) -> tuple[Departure, ...]:
        """What is out by a value of the last `settings.window` cycles: a series that is silent tells nothing."""
        return tuple(each for each in self.out.values() if self.cycle - each.cycle < self.settings.window)

    @property
    def stops(self) -> Departure | None:
        """What the run is to stop for, the worst first: no number that was learned from, or too many values out."""
        lost = [each for each in self.out.values() if each.learned and not math.isfinite(each.value)]
        long = [each for each in self.out.values() if each.values >= self.settings.patience]
        return next(iter(sorted(lost or long, key=lambda each: each.since)), None)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON: the past. What is out is not kept: a resumed run has to leave it anew."""
        return {"past": {series: list(values) for series, values in self.past.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None, settings: GuardSection) -> Self:
        """The guard of a checkpoint, with the past of the run that it goes on with.

        Args:
            state: As `state` gave it; None: no past, as in a new run and of checkpoints that have none.
            settings: The configuration's.

        Raises:
            CheckpointError: if the state is malformed.
        """
        if state is None:
            return cls(settings)
        try:
            past = {str(series): tuple(map(float, values)) for series, values in state["past"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"guard: malformed past of the series: {error!r}") from error
        return cls(settings, {series: values[-settings.window :] for series, values in past.items()})
