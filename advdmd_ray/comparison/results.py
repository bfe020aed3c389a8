"""What the finished jobs of a comparison say together: means and spreads over seeds."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advdmd_ray.comparison.job import RESULT, Job
from advdmd_ray.comparison.rivals import SKIPPED
from advdmd_ray.data.shapes.skills import SKILLS
from advdmd_ray.evaluation.judges.contract import Figure

FINAL, INTERMEDIATE = slice(-1, None), slice(None, -1)
"""Of the levels 1..K: the final image, and the states on the way to it."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: Their mean.
        std: Their sample standard deviation, n - 1 in the denominator; nan for one seed.
        count: Seeds.
    """

    mean: float
    std: float
    count: int


@dataclass(frozen=True, slots=True)
class RivalResult:
    """The finished seeds of one rival.

    Attributes:
        name: The rival.
        title: Its name for a reader.
        steps: Student steps K.
        runs: The result of each seed, as its job wrote it; never empty.
    """

    name: str
    title: str
    steps: int
    runs: tuple[Mapping[str, Any], ...]

    def final(self, key: str) -> Spread:
        """A judge's figure at the end of the budget, the last judgement and not the best one."""
        return spread([_number(run["points"][-1]["figures"][key]) for run in self.runs])

    def cost(self, key: str) -> float:
        """Mean over seeds of what a job has spent in all: `learner`, `actors`, `seconds` or `cpu_seconds`."""
        return statistics.fmean(run["points"][-1][key] for run in self.runs)

    def actors_share(self) -> Spread:
        """Forwards that actors made for each forward-equivalent of the learner, in what the jobs spent themselves."""
        return spread([_own(run, "actors") / _own(run, "learner") for run in self.runs])

    def curve(self, key: str) -> tuple[list[float], list[Spread]]:
        """Learner compute, and a judge's figure, at each judgement that every seed has."""
        shared = self._shared_points()
        return _spent(shared), [spread([_number(point["figures"][key]) for point in points]) for points in shared]

    def signal(self, key: str, levels: slice) -> tuple[list[float], list[Spread]]:
        """Learner compute, and what the learner noted of the rewards, at each judgement that every seed has.

        Args:
            key: Of the notes, one value per level 1..K: `reward_mean`, `reward_spread`, `auc` or `agreement`.
            levels: Those whose mean is wanted, `FINAL` or `INTERMEDIATE`.

        Returns:
            Both empty if no judgement has a value of all seeds; nan at a judgement where a seed has none.
        """
        shared = self._shared_points()
        spreads = [spread([_mean_of(point["notes"].get(key, [])[levels]) for point in points]) for points in shared]
        known = any(math.isfinite(value.mean) for value in spreads)
        return (_spent(shared), spreads) if known else ([], [])

    @property
    def skipped(self) -> int:
        """Updates of all seeds that were left out, but for those of the jobs that they start from."""
        return sum(_skipped(run) for run in self.runs)

    def _shared_points(self) -> list[list[Mapping[str, Any]]]:
        """The judgements that every seed has, in order, seed by seed."""
        by_point: dict[int, list[Mapping[str, Any]]] = {}
        for run in self.runs:
            for point in run["points"]:
                by_point.setdefault(point["point"], []).append(point)
        return [points for _, points in sorted(by_point.items()) if len(points) == len(self.runs)]


@dataclass(frozen=True, slots=True)
class Results:
    """A comparison so far.

    Attributes:
        name: Of the comparison.
        budget: Learner forward-equivalents of a job.
        samples: Images per judgement.
        figures: The judge's.
        headline: Key of the one to compare by.
        teacher: Figures by number of steps.
        guidance: CFG scale of the judged teacher.
        real: Figures of real held-out images.
        rivals: Those with a finished seed, in the order of the file.
        actors_curve: Of these, the ones that are drawn against what their actors made, if that is known of all seeds.
        missing: Names of the jobs without a result.
        made: Where and by which codes each result was made, see `made_here`; the teacher's first.
    """

    name: str
    budget: float
    samples: int
    figures: tuple[Figure, ...]
    headline: str
    teacher: Mapping[int, Mapping[str, float | None]]
    guidance: float
    real: Mapping[str, float | None]
    rivals: tuple[RivalResult, ...]
    actors_curve: tuple[RivalResult, ...]
    missing: tuple[str, ...]
    made: tuple[tuple[Mapping[str, Any], ...], ...]

    @property
    def main(self) -> tuple[Figure, ...]:
        """Figures of the headline table."""
        return tuple(figure for figure in self.figures if figure.key not in SKILLS)

    @property
    def skills(self) -> tuple[Figure, ...]:
        """Figures of single skills; empty where the judge has none."""
        return tuple(figure for figure in self.figures if figure.key in SKILLS)

    def figure(self, key: str) -> Figure:
        """A figure by its key."""
        return next(figure for figure in self.figures if figure.key == key)


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value; both nan if one of them is."""
    if any(math.isnan(value) for value in values):
        return Spread(math.nan, math.nan, len(values))
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), std, len(values))


def collect(
    name: str, jobs: Sequence[Job], actors_curve: Sequence[str] = (), headline: str | None = None
) -> Results | None:
    """Reads the results that are there; None as long as the teacher has none.

    Args:
        name: Of the comparison.
        jobs: All its jobs, the teacher's first.
        actors_curve: Names of the rivals on it.
        headline: Key of the figure to compare by; None: the judge's own choice.
    """
    if not jobs[0].done:
        return None
    teacher = _read(jobs[0])
    by_rival: dict[str, list[Job]] = {}
    for job in jobs[1:]:
        by_rival.setdefault(job.rival, []).append(job)
    rivals, curve = [], []
    for rival, own in by_rival.items():
        runs = tuple(_read(job) for job in own if job.done)
        if runs:
            rivals.append(RivalResult(rival, own[0].title, own[0].config.steps, runs))
            if rival in actors_curve and all(job.start is None or job.start.done for job in own if job.done):
                curve.append(rivals[-1])
    return Results(
        name=name,
        budget=max(job.budget for job in jobs[1:]),
        samples=jobs[0].judge_samples,
        figures=tuple(Figure(**figure) for figure in teacher["judge"]["figures"]),
        headline=teacher["judge"]["headline"] if headline is None else headline,
        teacher={point["steps"]: point["figures"] for point in teacher["points"]},
        guidance=teacher["guidance"],
        real=teacher["real"]["figures"],
        rivals=tuple(rivals),
        actors_curve=tuple(curve),
        missing=tuple(job.name for job in jobs if not job.done),
        made=tuple(map(_makings, (teacher, *(run for rival in rivals for run in rival.runs)))),
    )


def _read(job: Job) -> dict[str, Any]:
    """A job's result; its curve begins with the last judgement of the job that it starts from."""
    result = json.loads((job.folder / RESULT).read_text(encoding="utf-8"))
    if job.start is not None and job.start.done:
        result["points"].insert(0, {**_read(job.start)["points"][-1], "point": 0})
    return result


def _makings(run: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Where and by which codes a job was worked on, in order."""
    return (*run.get("made_before", ()), run["made"])


def _skipped(run: Mapping[str, Any]) -> int:
    """Updates that a job left out itself: judgement 0 is the end of the one that it started from."""
    first, last = (run["points"][place] for place in (0, -1))
    before = first["notes"].get(SKIPPED, 0) if first["point"] == 0 else 0
    return last["notes"].get(SKIPPED, 0) - before


def _own(run: Mapping[str, Any], key: str) -> float:
    """What a job spent itself: judgement 0 is the end of the one that it started from."""
    first, last = run["points"][0], run["points"][-1]
    return last[key] - (first[key] if first["point"] == 0 else 0.0)


def _spent(shared: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
    return [statistics.fmean(point["learner"] for point in points) for points in shared]


def _mean_of(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value
