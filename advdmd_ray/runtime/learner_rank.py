"""The Ray actor around `LearnerWorker`: one rank of the gang."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from advdmd_ray.config import Config
from advdmd_ray.errors import BytesLostError
from advdmd_ray.evaluation.judges.contract import Judgement
from advdmd_ray.learner.checkpoint import open_checkpoint
from advdmd_ray.learner.gang import SoloGang, TorchDistributedGang
from advdmd_ray.learner.worker import CycleResult, Nothing, Publication
from advdmd_ray.runs.parts.workers import build_decoder, build_learner_worker, build_student_judge
from advdmd_ray.runtime.calls import answer
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import GroupInfo
from advdmd_ray.stations.weights.snapshot import Manifest, Snapshot, unpack


@ray.remote
class LearnerRank:
    """One rank; all ranks get every call in the same order. Collectives stay between the ranks."""

    def __init__(self, config: Config, rank: int) -> None:
        torch.set_num_threads(config.learner.threads)
        self._config, self._rank = config, rank
        self._fetched: list[np.ndarray] = []

    def rendezvous(self) -> tuple[str, int]:
        """Address of this rank's node and a port free there; rank 0's is where the gang meets."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def join(
        self,
        address: str,
        port: int,
        texts: tuple[str, ...],
        checkpoint: Path | None,
        manifest: Manifest,
        payload: np.ndarray,
    ) -> str:
        """Meets the other ranks and builds networks and engines; returns the node."""
        learner = self._config.learner
        gang = (
            SoloGang()
            if learner.engine == "torch"
            else TorchDistributedGang(
                self._rank, learner.ranks, address=address, port=port, timeout_s=learner.cycle_timeout_s
            )
        )
        # Keeps a copy on this node, whose end ends the run: for new workers, when the node it came from is gone.
        self._prompts = payload
        table = PromptTable.from_state(texts, unpack(Snapshot(manifest, payload)))
        state = None if checkpoint is None else open_checkpoint(checkpoint)
        self._worker = build_learner_worker(self._config, gang, table, state)
        self._decode = build_decoder(self._config) if self._rank == 0 else None
        judged = self._rank == 0 and self._config.evaluation.judge_cycles > 0
        self._judge = build_student_judge(self._config) if judged else None
        return ray.get_runtime_context().get_node_id()

    def publication(self) -> Publication | Nothing:
        """See `LearnerWorker`."""
        return self._worker.publication()

    def fetch(self, groups: Sequence[tuple[GroupInfo, ray.ObjectRef]]) -> tuple[int, ...]:
        """Brings the bytes of this rank's share to its node and keeps them there until a cycle takes them.

        Returns:
            Ordinals of the groups whose bytes are gone.
        """
        try:
            # All in one question: Ray pulls them from their nodes side by side.
            self._fetched = answer([reference for _, reference in groups], f"the bytes of {len(groups)} groups")
        except BytesLostError:
            return self._fetch_singly(groups)
        return ()

    def _fetch_singly(self, groups: Sequence[tuple[GroupInfo, ray.ObjectRef]]) -> tuple[int, ...]:
        self._fetched, lost = [], []
        for info, reference in groups:
            try:
                self._fetched.append(answer(reference, f"the bytes of ordinal {info.ordinal}"))
            except BytesLostError:
                lost.append(info.ordinal)
        return tuple(lost)

    def cycle(self, infos: Sequence[GroupInfo], *payloads: np.ndarray) -> CycleResult:
        """See `LearnerWorker`; the payloads are views of the node's shared memory."""
        self._fetched = []  # now held by the arguments
        return self._worker.cycle(infos, payloads)

    def checkpoint(self, facts: Mapping[str, Any]) -> str:
        """See `LearnerWorker`."""
        return self._worker.checkpoint(facts)

    def grid(self) -> str:
        """See `LearnerWorker`; asked of rank 0."""
        if self._decode is None:
            raise ValueError(f"rank {self._rank} draws no grids; ask rank 0")
        return self._worker.grid(self._decode)

    def judge(self) -> Judgement:
        """See `LearnerWorker`; asked of rank 0."""
        if self._judge is None:
            raise ValueError(f"rank {self._rank} has no judge; set evaluation.judge_cycles and ask rank 0")
        return self._worker.judge(self._judge)
