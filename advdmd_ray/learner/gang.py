"""The learner gang: the ranks that train together. The only place where collectives happen."""

import os
import time
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed
from torch import Tensor

from advdmd_ray.errors import DeadlineError, WorkerLostError


class Gang(Protocol):
    """Ranks 0 .. size - 1 that call the same methods in the same order. Every wait has a deadline."""

    @property
    def rank(self) -> int:
        """This rank, in [0, size)."""
        ...

    @property
    def size(self) -> int:
        """Ranks in the gang, >= 1."""
        ...

    @property
    def timeout_s(self) -> float:
        """Longest wait for the other ranks, seconds."""
        ...

    def mean(self, tensor: Tensor) -> Tensor:
        """The element-wise mean over all ranks, as a new tensor; the same bytes on every rank.

        Args:
            tensor: floating point, of the same shape and dtype on every rank.
        """
        ...


class SoloGang:
    """A gang of one: nothing to wait for."""

    rank = 0
    size = 1
    timeout_s = 600.0

    def mean(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor`."""
        return tensor.detach().clone()


class TorchDistributedGang:
    """A gang over torch.distributed's default process group, which it creates.

    One per process. It sets MASTER_ADDR, MASTER_PORT, RANK, LOCAL_RANK and WORLD_SIZE, where DeepSpeed looks for
    them, so no launcher is needed.

    Args:
        rank: this rank, in [0, size).
        size: ranks in the gang, >= 1.
        address: host name or address of rank 0.
        port: free TCP port on rank 0, the same number on every rank.
        timeout_s: deadline of the rendezvous and of every collective, seconds.
        backend: torch.distributed backend; "gloo" for CPU ranks, "cpu:gloo,cuda:nccl" for GPU ranks.

    Raises:
        ValueError: for a rank outside [0, size) or a timeout that is not positive.
        DeadlineError: if not every rank has joined before the deadline.
        WorkerLostError: if the rendezvous fails before it.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        *,
        address: str,
        port: int,
        timeout_s: float,
        backend: str = "gloo",
    ) -> None:
        if not 0 <= rank < size or timeout_s <= 0:
            raise ValueError(f"need 0 <= rank < size and timeout_s > 0, got {rank}, {size} and {timeout_s}")
        self.rank = rank
        self.size = size
        self.timeout_s = timeout_s
        os.environ.update(
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
            RANK=str(rank),
            LOCAL_RANK="0",  # a rank sees its own device alone
            WORLD_SIZE=str(size),
        )
        started = time.monotonic()
        try:
            torch.distributed.init_process_group(
                backend,
                init_method=f"tcp://{address}:{port}",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_s),
            )
        except RuntimeError as error:
            raise self._failure(f"all ranks to join at {address}:{port}", started, error) from error

    def mean(self, tensor: Tensor) -> Tensor:
        """The element-wise mean over all ranks.

        Raises:
            DeadlineError: if a rank does not take part before the deadline.
            WorkerLostError: if a rank is gone.
        """
        total = tensor.detach().clone()
        started = time.monotonic()
        try:
            torch.distributed.all_reduce(total)
        except RuntimeError as error:
            raise self._failure(f"the mean of a tensor of shape {tuple(tensor.shape)}", started, error) from error
        return total.div_(self.size)

    def _failure(self, awaited: str, started: float, error: RuntimeError) -> DeadlineError | WorkerLostError:
        """What a failed collective means: time tells a missing rank from a dead one."""
        waited = time.monotonic() - started
        who = f"learner rank {self.rank} of {self.size}"
        if waited >= 0.9 * self.timeout_s:  # torch stops a little early or late
            return DeadlineError(f"{who} waited {waited:.1f} s for {awaited}; deadline {self.timeout_s:g} s")
        return WorkerLostError(f"{who} lost another rank after {waited:.1f} s while waiting for {awaited}: {error}")
