"""Where a storm is: a Ray cluster of three nodes on this machine, whose processes all carry one mark."""

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.endurance.processes import MARK

CPUS, NODES = 1, 2
STORE = 80 * 2**20
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A raylet that is killed closes its socket; a silent one is given ten seconds, as all share two cores.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "10",
    # Ray's workers step back behind whatever else this machine does; times would tell of that.
    "RAY_worker_niceness": "0",
}


class Place:
    """A head with a CPU, on which the driver is, and two nodes with one each, which may be lost.

    Attributes:
        mark: What all processes have in their environment.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        # Short: the paths of Ray's sockets may have 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="adv-", dir="/tmp"))
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update({**ENVIRONMENT, MARK: self.mark, "RAY_TMPDIR": str(self._folder)})
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - Ray reads the environment when it is imported

        self._node: dict[str, Any] = {"num_cpus": CPUS, "object_store_memory": STORE}
        self._cluster = Cluster(initialize_head=True, head_node_args={**self._node, "include_dashboard": False})
        self.nodes: list[Any] = []
        for _ in range(NODES):
            self.add_node()

    @property
    def address(self) -> str:
        """Of the cluster, host:port."""
        return str(self._cluster.address)

    def add_node(self) -> None:
        """Adds one that may be lost."""
        self.nodes.append(self._cluster.add_node(**self._node))

    def lose(self, node: Any) -> None:
        """Kills all processes of a node at once."""
        self._cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    @staticmethod
    def processes_of(node: Any) -> set[int]:
        """The processes of a node: its raylet and whatever that started."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return {raylet.pid, *(child.pid for child in raylet.children(recursive=True))}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
