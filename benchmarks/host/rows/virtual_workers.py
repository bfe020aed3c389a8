"""Workers of a run over Ray that only take time: very many share a few processes, while the driver is the real one.

What the driver does for a lease does not hang on what an actor does with it. So this is its cost with as many actors as
no one machine can hold.
"""

import asyncio
import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import ray

from advdmd_ray.config import Config
from advdmd_ray.learner.outcome import CheckpointOutcome, CycleOutcome
from advdmd_ray.planning.virtual import Costs, virtual_cycle, virtual_manifests
from advdmd_ray.runs.folder import Start, claim
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runtime.calls import Handle, answer
from advdmd_ray.runtime.crew import Crew
from advdmd_ray.runtime.heap import frozen_heap
from advdmd_ray.runtime.learner_rank import GroupReferences
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.runtime.remote_hub import metrics_hub
from advdmd_ray.stations.records import GroupInfo, Lease, LoadReport, WorkReport
from advdmd_ray.stations.rollout import sample_seeds
from advdmd_ray.stations.weights.snapshot import Manifest

GROUP_BYTES = 1024
"""Of the bytes that stand for a group. Ray hands values as small as these over in its messages."""
AT_ONCE = 4000
"""Calls that a host has under way: a worker's next lease may be sent before its last is over."""

Group = np.ndarray
"""Stands for a group's record batch: ordinal, prompt and policy version, and zeros behind them."""
Scores = np.ndarray
"""Stands for that of its scores: the ordinal."""


class _Host:
    """Takes the time of the work of many workers.

    Args:
        names: Workers that live here.
        seconds: Of one piece of work, on average.
        spread: Half its relative width.
        seed: Of the draws.
    """

    def __init__(self, names: Sequence[str], seconds: float, spread: float, seed: int) -> None:
        self._names = itertools.cycle(names)
        self._versions: dict[str, int] = {}
        self._seconds, self._spread = seconds, spread
        self._random = Random(seed)  # noqa: S311 - draws of durations keep no secret

    async def _work(self, manifest: Manifest) -> WorkReport:
        """One piece of work, by the next worker in turn: they are all alike."""
        worker, load = next(self._names), None
        if self._versions.get(worker) != manifest.version:
            self._versions[worker] = manifest.version
            load = LoadReport(worker, manifest.stream, manifest.version, manifest.digest)
        seconds = self._seconds * self._random.uniform(1 - self._spread, 1 + self._spread)
        await asyncio.sleep(seconds)
        return WorkReport(worker, seconds, load, 0)

    async def up(self) -> None:
        """Once it is."""

    async def ping(self) -> None:
        """See `RolloutActor`."""


@ray.remote(num_cpus=0)
class RolloutHost(_Host):
    """Many rollout actors."""

    def __init__(self, names: Sequence[str], seconds: float, spread: float, seed: int) -> None:
        super().__init__(names, seconds, spread, seed)
        self._at_hand: dict[Lease, str] = {}  # by whom each was generated

    async def generate(self, lease: Lease, manifest: Manifest, payload: None) -> tuple[WorkReport, None]:  # noqa: ARG002
        """See `RolloutActor`."""
        report = await self._work(manifest)
        self._at_hand[lease] = report.worker
        return report, None

    async def hand_over(self, lease: Lease) -> tuple[WorkReport, Group]:
        """See `RolloutActor`; takes no time."""
        group = np.zeros(GROUP_BYTES // 8, np.int64)
        group[:4] = lease.ordinal, lease.prompt_id, sample_seeds(lease.seed, 1)[0], lease.policy_version
        return WorkReport(self._at_hand.pop(lease), 0.0, None, 0), group


@ray.remote(num_cpus=0)
class RewardHost(_Host):
    """Many reward workers."""

    async def score(
        self,
        group: Group,
        manifest: Manifest,
        payload: None,  # noqa: ARG002
    ) -> tuple[tuple[WorkReport, GroupInfo], Scores]:
        """See `RewardActor`."""
        ordinal, prompt, seed, version = (int(value) for value in group[:4])
        info = GroupInfo(ordinal, prompt, seed, 1, version, manifest.version, group.nbytes, (0.0,), (0.0,))
        return (await self._work(manifest), info), group[:1]


@ray.remote(num_cpus=0)
class LearnerHost:
    """The learner's one rank.

    Args:
        seconds: Of a cycle.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._version = seconds, 0
        self._fetched: list[int] = []

    def ping(self) -> None:
        """See `LearnerRank`."""

    def publication(self) -> tuple[tuple[Manifest, Manifest], None, None]:
        """See `LearnerWorker`."""
        return virtual_manifests(self._version), None, None

    def fetch(self, groups: Sequence[tuple[GroupInfo, GroupReferences]]) -> tuple[int, ...]:
        """See `LearnerRank`."""
        batches = answer([each for _, pair in groups for each in pair], "the groups")
        self._fetched = [int(batch[0]) for batch in batches]
        return ()

    async def cycle(self, infos: Sequence[GroupInfo]) -> tuple[CycleOutcome, None, None]:
        """See `LearnerWorker`.

        Raises:
            RuntimeError: if groups and scores are not those that were fetched.
        """
        if self._fetched != [info.ordinal for info in infos for _ in range(2)]:
            raise RuntimeError(f"a cycle is of other groups than were fetched: {self._fetched[:4]}...")
        await asyncio.sleep(self._seconds)
        self._version += 1
        return virtual_cycle(self._version, infos, self._seconds), None, None

    def checkpoint(self, facts: dict[str, Any]) -> CheckpointOutcome:  # noqa: ARG002 - nothing is written
        """See `LearnerWorker`."""
        return CheckpointOutcome(f"version {self._version}")


def shares(names: Sequence[str], hosts: int) -> list[Sequence[str]]:
    """The workers of each host: of at most so many, as no host is without any."""
    return [names[index::hosts] for index in range(min(hosts, len(names)))]


class VirtualWorkersShell(RayShell):
    """`RayShell` whose workers share a few processes.

    Args:
        config: The numbers of workers.
        costs: Seconds of generate, score and cycle; fetching takes what it takes.
        hosts: Processes of each role, as far as it has workers for them.
    """

    def __init__(self, config: Config, costs: Costs, *, hosts: int = 2) -> None:
        super().__init__(config)
        self.prompts = 1000
        roles: tuple[tuple[Sequence[str], Handle, float], ...] = (
            (self.rollout_workers, RolloutHost, costs.generate),
            (self.reward_workers, RewardHost, costs.score),
        )
        processes: dict[str, Handle] = {}
        for names, kind, seconds in roles:
            made: list[Handle] = []
            for share in shares(names, hosts):
                placed = kind.options(max_concurrency=AT_ONCE)
                made.append(placed.remote(share, seconds, costs.spread, len(made)))
                processes |= dict.fromkeys(share, made[-1])
            answer([host.up.remote() for host in made], "the hosts of the workers")
        self._crew = Crew(config, processes)
        self._gang.ranks = [LearnerHost.remote(costs.cycle)]


def trained(config: Config, shell: VirtualWorkersShell) -> None:
    """A whole run in the configuration's folder, with a run's own controller and hub; its workers are ended."""
    with claim(Start(config.folder, None, None, "")), metrics_hub(config) as hub, frozen_heap():
        build_controller(config, shell, hub).run()
    shell.stop()
