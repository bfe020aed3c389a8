"""The Ray actor that is a `LearnerWorker`: one rank of the gang."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psutil
import ray
import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] - documented by torch

from advdmd_ray.config import Config
from advdmd_ray.errors import BytesLostError
from advdmd_ray.learner.checkpoint import verified_checkpoint
from advdmd_ray.learner.deepspeed_engine import import_deepspeed
from advdmd_ray.learner.gang import Gang, SoloGang, TorchDistributedGang, meeting_point
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runs.outputs import check_writable
from advdmd_ray.runs.parts.networks import device_of, import_networks
from advdmd_ray.runs.parts.workers import learner_parts
from advdmd_ray.runtime.calls import PULSE, answer
from advdmd_ray.runtime.pulsed import Pulsed
from advdmd_ray.stations.prompt_table import PromptTable, TableFacts
from advdmd_ray.stations.records import GroupInfo

GroupReferences: TypeAlias = tuple[ray.ObjectRef, ray.ObjectRef]


@ray.remote(concurrency_groups={PULSE: 1})  # pyright: ignore[reportCallIssue]
class LearnerRank(LearnerWorker, Pulsed):
    """One rank; all ranks get every call in the same order. Collectives stay between the ranks.

    It is a worker once it has joined: not before, as the ranks must be placed first, and not in the constructor, whose
    errors Ray hands on as text only.
    """

    def __init__(self, config: Config, rank: int) -> None:
        torch.set_num_threads(config.learner.threads)
        self._config, self._rank = config, rank
        self._meeting: TCPStore | None = None

    def sees(self, mark: Mark) -> None:
        """Makes sure that this node sees the run folder, as every rank reads checkpoints there and rank 0 writes.

        Raises:
            UserError: if it does not, or cannot write there.
        """
        mark.check_seen(f"learner rank {self._rank}")
        check_writable(mark.file.parent)

    def prepare(self) -> None:
        """Imports what networks and engines need, which takes seconds: while the prompts are encoded."""
        import_networks(self._config, whole=True)  # rank 0 decodes images and encodes the judge's prompts
        if self._config.learner.engine == "deepspeed":
            import_deepspeed(device_of(self._config.learner))

    def rendezvous(self) -> tuple[str, int]:
        """Address of this rank's node and the port where it listens; rank 0's is where the gang meets."""
        address = ray.util.get_node_ip_address()
        self._meeting = meeting_point(address, self._config.learner.cycle_timeout_s)
        return address, self._meeting.port

    def join(self, address: str, port: int, checkpoint: Path | None, facts: TableFacts, *shards: np.ndarray) -> str:
        """Meets the other ranks and builds networks and engines; returns how the ranks reduce."""
        gang = self._gang_at(address, port)
        # Keeps a copy on this node, whose end ends the run: for new workers, when the node it came from is gone.
        self._shards = shards
        table = PromptTable.opened(facts, shards)
        state = None if checkpoint is None else verified_checkpoint(checkpoint)
        super().__init__(**learner_parts(self._config, gang, table, state))
        return gang.backend

    def _gang_at(self, address: str, port: int) -> Gang:
        learner = self._config.learner
        if learner.engine == "torch":
            return SoloGang()
        here = interface_of(ray.util.get_node_ip_address())
        if here is not None:
            # Gloo's own choice is what the host's name resolves to: on many systems the loopback, which no other node
            # can reach.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", here)
        return TorchDistributedGang(
            self._rank,
            learner.ranks,
            device=device_of(learner),
            address=address,
            port=port,
            timeout_s=learner.cycle_timeout_s,
            meeting=self._meeting if self._rank == 0 else None,
        )

    def fetch(self, groups: Sequence[tuple[GroupInfo, GroupReferences]]) -> tuple[int, ...]:
        """Brings the bytes of this rank's share to its node and holds these views of its memory for the next cycle.

        Args:
            groups: Each with references of its record batch and of that of its scores.

        Returns:
            Ordinals of the groups whose bytes are gone.
        """
        try:
            # All in one question: Ray pulls them from their nodes side by side.
            batches = answer([each for _, pair in groups for each in pair], f"the bytes of {len(groups)} groups")
        except BytesLostError:
            return self._fetch_singly(groups)
        self.hold(list(zip(batches[::2], batches[1::2], strict=True)))
        return ()

    def _fetch_singly(self, groups: Sequence[tuple[GroupInfo, GroupReferences]]) -> tuple[int, ...]:
        found, lost = [], []
        for info, pair in groups:
            try:
                found.append(tuple(answer([*pair], f"the bytes of ordinal {info.ordinal}")))
            except BytesLostError:
                lost.append(info.ordinal)
        self.hold(found)  # they are asked for again, with those that are made again
        return tuple(lost)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address; None if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    return None
