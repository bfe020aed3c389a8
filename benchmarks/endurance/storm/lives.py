"""The run of a storm over all of its drivers: each goes on from what the one before has left."""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from advdmd_ray.runs.folder import RunFolder
from benchmarks.endurance.one_run import OneRun, begun, value
from benchmarks.endurance.processes import having
from benchmarks.endurance.storm.instants import Instants
from benchmarks.endurance.tiny import tiny_settings, write_teacher

ACTORS, REWARDS, RANKS = 2, 1, 1
PER_CYCLE, AGE_CAP, CHECKPOINT_CYCLES = 8, 2, 4
MANY_CYCLES, TAIL = 100_000, 6
COUNTS = {"rollout": "actors", "reward": "workers", "learner": "ranks"}
PAGE_S = 2.0


def settings(folder: Path, address: str, actors: int = ACTORS) -> dict[str, Any]:
    """A tiny run whose hangs are noticed soon and whose checkpoints are many; writes its teacher.

    Args:
        folder: Takes the teacher and the run, `folder/run`.
        address: Of the cluster.
        actors: That generate.
    """
    write_teacher(folder / "teacher")
    tree = tiny_settings(folder, 32)
    tree["run"]["cycles"] = MANY_CYCLES
    tree["rollout"] |= {"actors": actors, "groups_per_cycle": PER_CYCLE, "max_policy_age": AGE_CAP, "num_cpus": 0.5}
    tree["reward"] |= {"workers": REWARDS}
    for name in ("dmd", "fake_score", "discriminator"):
        tree[name] |= {"batch_size": PER_CYCLE}
    tree["learner"] |= {
        "ranks": RANKS,
        "zero_stage": 2,
        "checkpoint_cycles": CHECKPOINT_CYCLES,
        "cycle_timeout_s": 15.0,
    }
    tree["ray"] = {"address": address, "hang_s": 6.0, "start_timeout_s": 120.0}
    return tree


@dataclass(frozen=True, slots=True)
class End:
    """How a driver ended.

    Attributes:
        life: Its number, from 1.
        code: Its exit code; a signal is negative.
        expected: Whether that is what had to come.
        said: Its last lines.
    """

    life: int
    code: int
    expected: bool
    said: str


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the run.

    Attributes:
        at: Monotonic seconds.
        cycle: Of the run; None if it does not say.
        full: Whether all workers that it asks for are up, as it says.
    """

    at: float
    cycle: float | None
    full: bool


class Lives:
    """Starts drivers and looks at the run.

    Args:
        folder: Of the storm; exists.
        settings: Of the run, which is `folder/run`.
        mark: Of its processes.

    Attributes:
        run: The present driver.
        ends: Of the drivers before.
        instants: By which they are held.
        staff: How many processes of each role it is to have.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], mark: str) -> None:
        self._folder, self._mark = folder, mark
        self._config = folder / "run.yaml"
        self._config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        rollout, reward, learner = (settings[at][of] for at, of in COUNTS.items())
        self._up = {"rollout": rollout, "reward": reward, "learner": learner}
        self.staff = {"rollout actor": rollout, "reward worker": reward, "learner rank": learner, "hub": 1}
        self.files = RunFolder(folder / "run")
        self.instants = Instants(folder, self.files.checkpoints)
        self.ends: list[End] = []
        self.run = self._begun()

    def _begun(self, *overrides: str) -> OneRun:
        arguments = [str(self._folder), str(self.files.path), "--config", str(self._config), "--resume", "auto"]
        log = self._folder / f"log-{len(self.ends) + 1}.txt"
        return begun("benchmarks.endurance.storm.driver", [*arguments, *overrides], log, self._mark)

    @property
    def over(self) -> bool:
        """Whether the present driver has ended."""
        return self.run.process.poll() is not None

    def ended(self, expected: tuple[int, ...], within_s: float) -> End:
        """Waits for the end of the present driver, and kills it if there is none in time."""
        try:
            code = self.run.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.run.process.kill()
            code, expected = self.run.process.wait(), ()
        said = "\n".join(self.run.log.read_text(errors="replace").splitlines()[-TAIL:])
        self.ends.append(End(len(self.ends) + 1, code, code in expected, said))
        return self.ends[-1]

    def go_on(self, *overrides: str) -> None:
        """Starts the next driver."""
        self.run = self._begun(*overrides)

    def processes(self, role: str) -> list[psutil.Process]:
        """The living processes of a role."""
        return having(self._mark, self.run.process.pid, role)

    def look(self) -> Look:
        """Looks at /metrics."""
        page = self.run.metrics(PAGE_S)
        up = all(value(page, f'advdmd_run_workers{{role="{role}"}}') == count for role, count in self._up.items())
        return Look(time.monotonic(), value(page, "advdmd_run_cycle"), up)
