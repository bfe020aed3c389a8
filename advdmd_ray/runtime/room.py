"""Room for workers, asked of Ray before they start: an autoscaler sees what is asked and brings nodes for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.node_roles import ALL, Nodes

CREATED = "CREATED"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one worker reserves on one node.

    Attributes:
        role: Of the worker.
        num_cpus: Logical CPUs.
        num_gpus: GPUs.
        nodes: Where it may be.
    """

    role: str
    num_cpus: float
    num_gpus: float = 0.0
    nodes: Nodes = ALL

    @property
    def resources(self) -> dict[str, float]:
        """Those of which it reserves any, by Ray's names."""
        return {kind: count for kind, count in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if count}


class ClusterRequest:
    """Room that is asked of the cluster for workers that are not there yet.

    It is a placement group: Ray's autoscalers count those that are pending, and Ray removes them with the driver,
    however that ends. (`ray.autoscaler.sdk.request_resources` keeps one request for the whole cluster: the last
    caller's, which a driver that is killed leaves behind.)
    """

    def __init__(self) -> None:
        self._asked: list[Bundle] = []
        self._group: PlacementGroup | None = None

    def ask(self, bundles: Sequence[Bundle]) -> None:
        """Asks for room for all of these together, and for nothing else any more.

        Args:
            bundles: What is not there yet. Those that reserve nothing need no room.
        """
        asked = [bundle for bundle in bundles if bundle.resources]
        if asked == self._asked:
            return
        self.release()
        if asked:
            self._group = placement_group(
                [bundle.resources for bundle in asked],
                strategy="PACK",
                bundle_label_selector=[bundle.nodes.selector for bundle in asked],
            )
        self._asked = asked

    def placed(self, within_s: float = 0.0) -> bool:
        """Whether there is room for all; from then on it is held until `release`.

        Args:
            within_s: Seconds to wait for it, 0 or more.
        """
        if self._group is None or placement_group_table(self._group)["state"] == CREATED:
            return True
        return within_s > 0 and self._group.wait(within_s)

    def release(self) -> None:
        """Asks for nothing any more, and lets go of what is held, for the workers to take."""
        if self._group is not None:
            remove_placement_group(self._group)
        self._asked, self._group = [], None


@contextmanager
def asking() -> Iterator[ClusterRequest]:
    """A request that is released at the end."""
    request = ClusterRequest()
    try:
        yield request
    finally:
        request.release()


def bundles_of(config: Config, nodes: Mapping[str, Nodes]) -> list[Bundle]:
    """What all workers of a run reserve, one bundle a worker, the gang's ranks first.

    Args:
        config: The run's.
        nodes: Of each role, from `nodes_of_roles`.
    """
    counts = {"learner": config.learner.ranks, "rollout": config.rollout.actors, "reward": config.reward.workers}
    return [
        Bundle(role, config.roles[role].num_cpus, config.roles[role].num_gpus, nodes[role])
        for role, count in counts.items()
        for _ in range(count)
    ]
