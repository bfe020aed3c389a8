"""The whole loop: `advdmd run` over Ray in its steady state, against its arithmetic alone.

Both are processes of their own, and what they do before the first cycles that count is left out.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import yaml

from advdmd_ray.config import Config
from advdmd_ray.config.reading import read_config
from advdmd_ray.metrics.history import entries_of
from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.one_run import OneRun, running
from benchmarks.endurance.processes import found
from benchmarks.host.bare_loop import End, queued
from benchmarks.host.contest import OURS, Field, Row

Contestant = Callable[[Config, Path], list[End]]
"""Trains in a folder and says when each cycle ended."""
BARE = "bare loop: two threads"
WARM, LAST = 4, 2
"""Cycles that are not counted: the first ones, and the last, for which actors have nothing to make any more."""
LOOK_S = 0.5
# All networks learn from the first cycle on. Grids and judgements are left out, as the bare loop has none.
STEADY = (
    "cadence.warm_dmd_updates=0",
    "cadence.ramp_interval=1",
    "evaluation.judge_cycles=0",
    "evaluation.grid_cycles=0",
)


@dataclass(frozen=True, slots=True)
class Loop:
    """A shipped configuration, how many of its cycles are counted, and what differs from it."""

    name: str
    cycles: int
    overrides: tuple[str, ...] = ()

    def config(self, folder: Path) -> Config:
        """Of a run in this folder."""
        own = (
            f"run.output={folder}",
            "run.name=run",
            f"run.cycles={WARM + self.cycles + LAST}",
            "run.time_limit_s=null",
        )
        return read_config(self.name, [*STEADY, *own, "metrics.port=0", *self.overrides])

    def figures(self, ends: Sequence[End], config: Config) -> End:
        """The cycles that are counted, for each of their trajectories."""
        first, last = ends[WARM - 1], ends[WARM + self.cycles - 1]
        trajectories = self.cycles * config.rollout.groups_per_cycle * config.last_group_size
        return End(*((after - before) / trajectories for before, after in zip(first, last, strict=True)))


def bare(config: Config, folder: Path) -> list[End]:
    """The bare loop's cycles. Its engine is plain torch: DeepSpeed's is the run's choice."""
    path = folder / "bare.yaml"
    learner = config.learner.model_copy(update={"engine": "torch"})
    path.write_text(yaml.safe_dump(config.model_copy(update={"learner": learner}).model_dump(mode="json")))
    command = [sys.executable, "-m", "benchmarks.host.bare_loop", str(path)]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout  # noqa: S603 - our own program
    return [End(*each) for each in json.loads(said)]


def ours(config: Config, folder: Path) -> list[End]:
    """The run's cycles; it is ended after the last that counts.

    Raises:
        RuntimeError: if it ends before.
    """
    metrics, needed = RunFolder(config.folder).metrics, config.run.cycles - LAST

    def ended(cycles: int) -> list[float] | None:
        ends = cycle_ends(metrics)
        return ends if len(ends) >= cycles else None

    with running(folder, config.model_dump(mode="json")) as run:
        run.until(lambda: ended(WARM), LOOK_S)
        rank = found(run.mark, run.process.pid)["learner rank"].pid
        first = End(time.monotonic(), cpu_of(run), queued(rank))
        ends = run.until(lambda: ended(needed), LOOK_S)
        last = End(time.monotonic(), cpu_of(run), queued(rank))
    # They are read between the ends of cycles, so their rates count.
    cpu, waited = ((after - before) / (last.at - first.at) for before, after in zip(first[1:], last[1:], strict=True))
    return [End(at, cpu * at, waited * at) for at in ends[:needed]]


def cycle_ends(metrics: Path) -> list[float]:
    """When each cycle so far ended, seconds since the loops began."""
    ends: dict[int, float] = {}
    for entry in entries_of(metrics) if metrics.is_file() else ():
        elapsed = entry["values"].get("advdmd_run_elapsed_seconds")
        if elapsed is not None and entry["cycle"]:
            ends.setdefault(entry["cycle"], elapsed)
    return [ends[cycle] for cycle in sorted(ends)]


def cpu_of(run: OneRun) -> float:
    """CPU seconds of all its processes so far, Ray's and those that have ended too."""
    driver, total = psutil.Process(run.process.pid), 0.0
    for process in (driver, *driver.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def turn(loop: Loop, contestant: Contestant, name: str, facts: MutableMapping[str, list[float]]) -> float:
    """Seconds for each trajectory; its pace and what it computed become facts.

    So does the pace with the time left out in which the learner waited for a core. That is what it would be on cores of
    its own, as long as it is the learner that the others wait for.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = loop.config(Path(folder))
        each = loop.figures(contestant(config, Path(folder)), config)
    facts[f"{name}: trajectories/s"].append(1 / each.at)
    facts[f"{name}: trajectories/s, but for its learner's wait for a core"].append(1 / (each.at - each.queued))
    facts[f"{name}: CPU ms a trajectory"].append(1e3 * each.cpu)
    return each.at


@contextmanager
def _opened(loop: Loop) -> Iterator[Field]:
    facts: MutableMapping[str, list[float]] = defaultdict(list)
    contestants: dict[str, Contestant] = {OURS: ours, BARE: bare}
    yield Field({name: partial(turn, loop, each, name, facts) for name, each in contestants.items()}, facts=facts)


def _row(name: str, loop: Loop, goal: float) -> Row:
    return Row(
        name,
        f"a trajectory of `advdmd run --config {loop.name}` in its steady state",
        partial(_opened, loop),
        goals={BARE: goal},
        rounds=3,
    )


DIGITS = _row("loop", Loop("digits", 24), 0.9)
SHAPES = _row("loop_shapes", Loop("shapes", 20), 0.95)
