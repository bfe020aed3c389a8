"""The learner's gang on Ray: one actor a rank, placed together, met at rank 0, and started from a checkpoint."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import starmap
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from advdmd_ray.config import Config
from advdmd_ray.errors import DeadlineError
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime.calls import MORE_TIME, Handle
from advdmd_ray.runtime.learner_rank import LearnerRank
from advdmd_ray.runtime.places import Places

ELSEWHERE_S = 30.0
"""A gang looks so long for room away from nodes that are avoided."""
PING_S = 5.0


class RayGang:
    """The ranks of one gang. They are not replaced one by one: what is left of a gang ends, and another starts.

    Args:
        config: The run's.
        places: Where ranks go.

    Attributes:
        ranks: Their actors, once placed.
    """

    def __init__(self, config: Config, places: Places) -> None:
        self._config, self._places = config, places
        self.ranks: list[Handle] = []
        self._group: PlacementGroup | None = None
        self._nodes: list[str] = []  # of each rank

    def place(self) -> None:
        """Finds room for all ranks, and has them import what they need.

        Raises:
            DeadlineError: if there is none in time.
        """
        learner, limit = self._config.learner, self._config.ray.start_timeout_s
        *preferred, last = self._places.choices("learner")
        tries = [*((selector, min(ELSEWHERE_S, limit)) for selector in preferred), (last, limit)]
        self._group = group = next(filter(None, starmap(self._room, tries)), None)
        if group is None:
            raise DeadlineError(f"waited {limit:.0f} s for room for the learner's gang; {MORE_TIME}")
        where = placement_group_table(group)["bundles_to_node_id"]
        self._nodes = [where[index] for index in range(learner.ranks)]
        self.ranks = [self._rank(group, index) for index in range(learner.ranks)]

    def _room(self, selector: Mapping[str, str], within_s: float) -> PlacementGroup | None:
        learner = self._config.learner
        bundle = {"CPU": learner.num_cpus} | ({"GPU": learner.num_gpus} if learner.num_gpus else {})
        selectors = [dict(selector)] * learner.ranks
        group = placement_group([bundle] * learner.ranks, strategy="PACK", bundle_label_selector=selectors)
        if group.wait(within_s):
            return group
        remove_placement_group(group)
        return None

    def note_losses(self) -> None:
        """Has the nodes counted whose ranks are dead, or do not answer; none where no gang was placed."""
        if not self.ranks:
            return
        pings = [rank.ping.remote() for rank in self.ranks]
        answered, _ = ray.wait(pings, num_returns=len(pings), timeout=PING_S)
        for node, ping in zip(self._nodes, pings, strict=True):
            if ping in answered:
                with suppress(RayError):
                    ray.get(ping)
                    continue
            self._places.lost(node)

    def _rank(self, group: PlacementGroup, index: int) -> Handle:
        learner = self._config.learner
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        kind: Handle = LearnerRank
        return kind.options(num_cpus=learner.num_cpus, num_gpus=learner.num_gpus, scheduling_strategy=strategy).remote(
            self._config, index
        )

    def prepare(self, mark: Mark) -> list[ray.ObjectRef]:
        """Has the ranks look for the run folder, then import what they need.

        Args:
            mark: Of the run folder, which every rank must see.

        Returns:
            What each rank sees; a UserError if that is not the folder, or it cannot write there.
        """
        sights = [rank.sees.remote(mark) for rank in self.ranks]
        for rank in self.ranks:
            rank.prepare.remote()
        return sights

    def rendezvous(self) -> ray.ObjectRef:
        """Address and port of rank 0, where the ranks are to meet."""
        return self.ranks[0].rendezvous.remote()

    def join(
        self, address: str, port: int, checkpoint: Path | None, table: Sequence[ray.ObjectRef]
    ) -> dict[str, ray.ObjectRef]:
        """Has the ranks meet and build their engines; returns by name what tells that each is up.

        Args:
            address: Of rank 0.
            port: Where it listens.
            checkpoint: Where they go on from.
            table: The prompt table.
        """
        return {
            f"learner-{index}": rank.join.remote(address, port, checkpoint, *table)
            for index, rank in enumerate(self.ranks)
        }

    def end(self) -> None:
        """Ends the ranks that are left, and gives their room back."""
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks, self._nodes = [], []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
