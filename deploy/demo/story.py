"""What is done: a run is submitted, gets a second actor, is stopped by its owner, and goes on to its end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.runs.folder import RunFolder
from deploy.demo.cluster import Cluster
from deploy.demo.place import EndedError, Place, Started
from deploy.demo.prometheus import Prometheus

NAME = "cluster-demo"
FEW, MORE = 1, 2
"""Rollout actors at first, and from then on."""
DOCTOR_S, SCALE_S, FIRST_S, CYCLES_S, END_S = 300.0, 120.0, 900.0, 900.0, 900.0
"""Each is many times what its step takes on an idle machine: this one may be busy."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and when something is done to it.

    Attributes:
        folder: Of the demo; the run is `folder/cluster-demo`.
        config: A file, or the name of one that ships.
        overrides: Settings after it.
        cycles: That are waited for before the run is scaled, and again before it is stopped.
        more: Cycles after the stop at which it ends; None: at run.cycles.
    """

    folder: Path
    config: str
    overrides: Sequence[str]
    cycles: int
    more: int | None

    @property
    def run(self) -> RunFolder:
        """Where the run is."""
        return RunFolder(self.folder / NAME)

    @property
    def arguments(self) -> list[str]:
        """Of the run and of its doctor."""
        place = [f"run.name={NAME}", f"run.output={self.folder}", "ray.placement=labelled", f"rollout.actors={FEW}"]
        found = ["metrics.port=0", f"metrics.targets={self.folder / 'targets'}"]
        return ["--config", self.config, *self.overrides, *place, *found]


@dataclass(frozen=True, slots=True)
class Events:
    """When things happened, in Unix seconds.

    Attributes:
        submitted: The first job was.
        asked: For the second actor.
        scaled: Both actors were up.
        stopped: The first job was told to stop.
        saved: It had ended.
        ended: The second job had ended.
        cycle: At which the first job ended, and which is saved.
    """

    submitted: float
    asked: float
    scaled: float
    stopped: float
    saved: float
    ended: float
    cycle: int


class Story:
    """Does it.

    Args:
        place: Holds the processes.
        cluster: That runs.
        server: Looks at the run; what is waited for is what it has seen.
        plan: Of the run.
        tell: Is told each step, as one line.
    """

    def __init__(
        self, place: Place, cluster: Cluster, server: Prometheus, plan: Plan, tell: Callable[[str], None]
    ) -> None:
        self._place, self._cluster, self._server, self._plan, self._tell = place, cluster, server, plan, tell

    def ask_the_doctor(self) -> str:
        """Compares the run with the cluster, as its owner does before the first one; what the cluster offers.

        Raises:
            EndedError: if something has to change.
        """
        doctor = self._cluster.advdmd("doctor", *self._plan.arguments, f"ray.address={self._cluster.address}")
        doctor.ended(DOCTOR_S)
        return next(line.strip() for line in doctor.said().splitlines() if f"{self._cluster.address} answers" in line)

    def play(self) -> Events:
        """Everything, to the end of the run."""
        submitted = time.time()
        first = self._submit("first-job", ())
        self._until_cycle(first, self._plan.cycles, FIRST_S)
        asked = time.time()
        self._cluster.advdmd("scale", "--run", str(self._plan.run.path), f"rollout={MORE}").ended(SCALE_S)
        self._tell(f"asked for {MORE} actors at cycle {self._cycle():g}")
        first.until(f"{MORE} actors", lambda: self._actors() == MORE or None, CYCLES_S)
        scaled = time.time()
        self._tell(f"{MORE} actors are up after {scaled - asked:.0f} s, at cycle {self._cycle():g}")
        self._until_cycle(first, self._cycle() + self._plan.cycles, CYCLES_S)
        stopped = time.time()
        self._cluster.stop(first.name)
        first.ended(END_S, (0, 1))
        saved, cycle = time.time(), self._saved(first)
        self._tell(f"ray job stop: saved at cycle {cycle}, after {saved - stopped:.0f} s")
        end = [] if self._plan.more is None else [f"run.cycles={cycle + self._plan.more}"]
        second = self._submit("second-job", ["--resume", "auto", f"rollout.actors={MORE}", *end])
        second.ended(END_S)
        return Events(submitted, asked, scaled, stopped, saved, time.time(), cycle)

    def _submit(self, name: str, more: Sequence[str]) -> Started:
        self._tell(f"ray job submit: {name}")
        return self._cluster.submit(name, [*self._plan.arguments, *more])

    def _until_cycle(self, job: Started, cycle: float, within_s: float) -> None:
        job.until(f"cycle {cycle:g}", lambda: self._cycle() >= cycle or None, within_s)

    def _cycle(self) -> float:
        return self._server.newest(f'advdmd_run_cycle{{run="{NAME}"}}') or 0.0

    def _actors(self) -> float | None:
        return self._server.newest(f'advdmd_run_workers{{run="{NAME}",role="rollout"}}')

    def _saved(self, job: Started) -> int:
        """The newest checkpoint's cycle.

        Raises:
            EndedError: if the job was not stopped, or has saved nothing.
        """
        status = self._cluster.status_of(job.name, self._place.token)
        steps = [int(path.name.removeprefix("step-")) for path in self._plan.run.checkpoints.glob("step-*")]
        if status != "STOPPED" or not steps:
            raise EndedError(f"{job.name} is {status} and has {len(steps)} checkpoints; see {job.log}")
        return max(steps)
