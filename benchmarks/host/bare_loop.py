"""The arithmetic of a run in one process with two threads, and nothing between them.

One thread makes groups and scores them, the other learns. Weights are copied from network to network. There is no Ray,
no buffer, no record batch, no digest, no checkpoint and no metrics.

`python -m benchmarks.host.bare_loop RUN.YAML` prints a list of `End`s as JSON.
"""

import json
import math
import queue
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.config.reading import read_config
from advdmd_ray.controller.frontier import lease_limit
from advdmd_ray.controller.prompt_order import work_of
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.workers import build_learner, build_reward_worker, build_rollout_worker, make_shards_here
from advdmd_ray.stations.records import GroupInfo, Lease, ScoredGroup
from advdmd_ray.stations.reward import group_info


class End(NamedTuple):
    """The end of a cycle.

    Attributes:
        at: When, seconds.
        cpu: What all processes had computed until then, seconds.
        queued: How long the thread that learns had waited for a core until then, seconds.
    """

    at: float
    cpu: float
    queued: float


def queued(process: int | Literal["self"]) -> float:
    """Seconds that the main thread of a process could have run and did not, as other work had the cores.

    Not a number where the system does not tell, as Linux does.
    """
    told = Path(f"/proc/{process}/schedstat")
    return float(told.read_text().split()[1]) / 1e9 if told.is_file() else math.nan


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest weights.

    Attributes:
        version: Their version.
        student: By name.
        discriminator: By name.
    """

    version: int
    student: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor]


def load(worker: Any, weights: Mapping[str, Tensor], version: int) -> None:
    """Copies weights into a worker's network, without the digests of its own loading."""
    network = worker._network  # noqa: SLF001 - a worker has no way to load what is not verified, rightly
    if network.version != version:
        network._loader.load(weights)  # noqa: SLF001
        network.version = version


class BareLoop:
    """Two threads that share a queue of groups and the newest weights.

    Args:
        config: As of a run.
    """

    def __init__(self, config: Config) -> None:
        self._config, self._table = config, encode_table(config)
        make_shards_here(config, self._table)
        self._learner = build_learner(config, SoloGang(), self._table, None)
        self._rollout = build_rollout_worker(config, "rollout", self._table)
        self._reward = build_reward_worker(config, "reward", self._table)
        self._groups: queue.SimpleQueue[tuple[ScoredGroup, GroupInfo]] = queue.SimpleQueue()
        self._published = threading.Condition()
        self._newest = Newest(0, *self._learner.published())

    def run(self) -> list[End]:
        """Trains all cycles."""
        threading.Thread(target=self._make, daemon=True).start()
        torch.set_num_threads(self._config.learner.threads)
        ends = []
        for version in range(1, self._config.run.cycles + 1):
            taken = [self._groups.get() for _ in range(self._config.rollout.groups_per_cycle)]
            self._learner.cycle([group for group, _ in taken], [info for _, info in taken])
            newest = Newest(version, *self._learner.published())
            with self._published:
                self._newest = newest
                self._published.notify()
            ends.append(End(time.monotonic(), time.process_time(), queued("self")))
        return ends

    def _make(self) -> None:
        """Makes and scores the groups of all cycles, with the newest weights and within the age cap."""
        rollout, seed = self._config.rollout, self._config.run.seed
        torch.set_num_threads(rollout.threads)
        for ordinal in range(self._config.run.cycles * rollout.groups_per_cycle):
            with self._published:
                while ordinal >= lease_limit(self._newest.version, rollout.groups_per_cycle, rollout.max_policy_age):
                    self._published.wait()
                newest = self._newest
            load(self._rollout, newest.student, newest.version)
            load(self._reward, newest.discriminator, newest.version)
            work = work_of(seed, self._table.rollouts, ordinal)
            group = self._rollout.generate(Lease(ordinal, 0, work.prompt_id, work.seed, newest.version))
            scored = self._reward.score(group)
            self._groups.put((scored, group_info(scored, size_bytes=0)))


def main() -> None:
    """Runs the loop of the configuration file that the command line names."""
    sys.stdout.write(json.dumps(BareLoop(read_config(sys.argv[1])).run()) + "\n")


if __name__ == "__main__":
    main()
