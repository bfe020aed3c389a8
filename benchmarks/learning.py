"""The learner itself over random networks, each of its updates timed where it happens."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from advdmd_ray.errors import RatioError
from advdmd_ray.learner.actions import Actions
from advdmd_ray.learner.batch import Path, collate
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.learner import RATIO_TOLERANCE, Learner
from advdmd_ray.learner.policy import policy_means, ratio_deviation
from advdmd_ray.learner.updates import Updates
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.runs.parts.micro_batch import a_part, settle
from advdmd_ray.runs.parts.networks import build_networks
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import ScoredGroup, TrajectoryGroup
from advdmd_ray.stations.reward import group_info
from benchmarks.parts import Subject, random_images, randomly_scored
from benchmarks.timing import Stopwatch, Timing


class TimedLearner(Learner):
    """The learner, with a stopwatch read at the beginning of each update and at the end of an objective's last.

    An update is everything from its draws to its optimizer's step: transfers, forwards, backwards.

    Args:
        stopwatch: Of the device where the networks are.
        everything: As `Learner` takes it.
        named: The same.
    """

    def __init__(self, stopwatch: Stopwatch, *everything: Any, **named: Any) -> None:
        super().__init__(*everything, **named)
        self._stopwatch = stopwatch
        self._seconds: dict[str, list[float]] = {}
        self._peaks: dict[str, int | None] = {}

    def forget(self) -> None:
        """Drops what was timed so far."""
        self._seconds.clear()

    def timings(self) -> Mapping[str, Timing]:
        """Every update since `forget`, by objective; the memory is that of the last cycle."""
        return {name: Timing(tuple(seconds), self._peaks[name]) for name, seconds in self._seconds.items()}

    def deviation(self, groups: Sequence[ScoredGroup]) -> float | None:
        """Largest `|ratio - 1|` of fresh groups, which the learner asserts to be near 0; None if none is fresh."""
        batch = collate(groups, self.version)
        actions = Actions.of(batch)
        with torch.no_grad():
            means = policy_means(self._engines["student"].module, self._settings[self._size_of(batch)], batch, actions)
        return ratio_deviation(means, batch, actions)

    def _updates(self, network: str, objective: str, count: int) -> Updates:
        """See `Learner`; the loop over the paths is timed."""
        return _TimedUpdates(super()._updates(network, objective, count), self._stopwatch, self._timed)

    def _timed(self, objective: str, marks: Sequence[float]) -> None:
        self._seconds.setdefault(objective, []).extend(later - mark for mark, later in itertools.pairwise(marks))
        self._peaks[objective] = self._stopwatch.peak_bytes()


class _TimedUpdates(Updates):
    """The same updates; `told` gets the objective and when each of them began, and when the last one ended."""

    def __init__(self, updates: Updates, stopwatch: Stopwatch, told: Callable[[str, Sequence[float]], None]) -> None:
        vars(self).update(vars(updates))
        self._stopwatch, self._told = stopwatch, told

    def __iter__(self) -> Iterator[Path]:
        self._stopwatch.forget_peak()
        marks: list[float] = []
        for path in super().__iter__():
            marks.append(self._stopwatch.now())
            yield path
        marks.append(self._stopwatch.now())
        self._told(self.objective, marks)


@dataclass(frozen=True, slots=True)
class LearnerTimings:
    """Cycles of one learner.

    Attributes:
        updates: Of each objective.
        cycle: Whole cycles: the updates, the measurement of the AUC and the averages in host memory; its peak is that
            of the updates.
        skipped: Updates without an optimizer's step, for a gradient that was not finite.
        ratio_deviation: Largest `|ratio - 1|` between rollouts and learner at equal weights.
        ratio_tolerance: What a run allows.
        trainable: Weights that learn, by network.
    """

    updates: Mapping[str, Timing]
    cycle: Timing
    skipped: int
    ratio_deviation: float
    ratio_tolerance: float
    trainable: Mapping[str, int]


def time_learner(
    subject: Subject,
    teacher: TransformerDenoiser,
    table: PromptTable,
    groups: Sequence[TrajectoryGroup],
    stopwatch: Stopwatch,
) -> LearnerTimings:
    """Times the learner's cycles on groups of the student as it is before it learns.

    Raises:
        RatioError: if the networks' outputs are not finite.
    """
    config, settings, shapes = subject.config, subject.settings, subject.shapes
    settle(config, "learner", teacher, a_part(config, teacher, table, shapes.largest.latent_shape))
    networks = build_networks(config, teacher, subject.info.family, subject.device)
    roles = {"student": networks.student, "fake_score": networks.fake_score, "discriminator": networks.discriminator}
    learner = TimedLearner(
        stopwatch,
        config,
        SoloGang(),
        networks,
        table,
        random_images(subject),
        kernel=shapes.kernel,
        resolutions=shapes.resolutions,
    )
    scored = [randomly_scored(group, settings.seed + group.ordinal) for group in groups]
    infos = [group_info(each, 0) for each in scored]
    deviation = learner.deviation(scored)
    if deviation is None or not math.isfinite(deviation):
        raise RatioError(f"the importance ratio of a fresh group is off 1 by {deviation}: the networks give no numbers")
    # The groups are one version old from now on: how far their ratio is from 1 is a figure here and ends nothing.
    learner.version = 1
    for _ in range(settings.warm_up):
        learner.cycle(scored, infos)
    learner.forget()
    seconds, skipped = [], 0
    for _ in range(settings.repeats):
        began = stopwatch.now()
        report = learner.cycle(scored, infos)
        seconds.append(stopwatch.now() - began)
        skipped += sum(update.skipped for update in report.updates.values())
    updates = learner.timings()
    peaks = [timing.peak_bytes for timing in updates.values() if timing.peak_bytes is not None]
    return LearnerTimings(
        updates=updates,
        cycle=Timing(tuple(seconds), max(peaks, default=None)),
        skipped=skipped,
        ratio_deviation=deviation,
        ratio_tolerance=RATIO_TOLERANCE[config.model.precision],
        trainable={
            name: sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
            for name, network in roles.items()
        },
    )
