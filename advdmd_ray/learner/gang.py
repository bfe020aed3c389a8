"""The learner gang: the ranks that train together. The only place where collectives happen."""

import os
import time
from datetime import timedelta
from typing import Final, Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] - documented by torch

from advdmd_ray.errors import DeadlineError, UserError, WorkerLostError

_BACKENDS: Final = {"cpu": {"cpu": "gloo"}, "cuda": {"cpu": "gloo", "cuda": "nccl"}}
"""Where the networks of the ranks are -> what reduces the tensors of each kind of device."""


def backend_of(device: torch.device) -> str:
    """torch.distributed's backend for ranks whose networks are on `device`: gloo for host memory, NCCL for GPUs.

    Raises:
        ValueError: for another kind of device.
    """
    return ",".join(f"{kind}:{backend}" for kind, backend in _backends(device).items())


def require_backend(device: torch.device) -> None:
    """Looks up what the default process group really has for ranks on `device`.

    Raises:
        ValueError: if it is not what `backend_of` says, such as gloo for GPUs, which would copy every gradient to host
            memory.
    """
    found = torch.distributed.get_backend_config()
    if not _backends(device).items() <= dict(pair.split(":") for pair in found.split(",")).items():
        raise ValueError(f"ranks on {device.type} need a process group over {backend_of(device)}, this one has {found}")


def _backends(device: torch.device) -> dict[str, str]:
    if device.type not in _BACKENDS:
        raise ValueError(f"learner ranks compute on one of {list(_BACKENDS)}, got {device}")
    return _BACKENDS[device.type]


def meeting_point(address: str, timeout_s: float, port: int = 0) -> TCPStore:
    """What rank 0 listens on, from now on, so that no other process takes the port before the ranks have met.

    Args:
        address: Host name or address of rank 0's node.
        timeout_s: Longest wait for the others, seconds.
        port: 0: one that the system chooses, which is the store's `port`.
    """
    return TCPStore(address, port, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)


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
    def backend(self) -> str:
        """What the ranks reduce over, such as `cpu:gloo,cuda:nccl`."""
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

    def from_first(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor, which is written into those of the other ranks. Every rank must call it."""
        ...


class SoloGang:
    """A gang of one: nothing to wait for."""

    rank = 0
    size = 1
    backend = "nothing"
    timeout_s = 600.0

    def mean(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor`."""
        return tensor.detach().clone()

    def from_first(self, tensor: Tensor) -> Tensor:
        """`tensor`, which is rank 0's."""
        return tensor


class TorchDistributedGang:
    """A gang over torch.distributed's default process group, which it creates.

    One per process. It sets MASTER_ADDR, MASTER_PORT, RANK, LOCAL_RANK and WORLD_SIZE, where DeepSpeed looks for
    them, so no launcher is needed. On GPUs a collective waits on the device, not here: where one fails or runs out of
    time, torch ends the process, and the rank is reported as dead.

    Args:
        rank: this rank, in [0, size).
        size: ranks in the gang, >= 1.
        device: where the networks of all ranks are; of GPUs each rank sees its own alone.
        address: host name or address of rank 0.
        port: where rank 0 listens, the same number on every rank.
        timeout_s: deadline of the rendezvous and of every collective, seconds.
        meeting: on rank 0 the `meeting_point` that listens at `port` already; None: it listens from now on.

    Attributes:
        backend: the backend of the group that was made.

    Raises:
        ValueError: for a rank outside [0, size), a timeout that is not positive, or a group of another backend.
        UserError: if this torch has no NCCL for ranks on GPUs.
        DeadlineError: if not every rank has joined before the deadline.
        WorkerLostError: if the rendezvous or the first collective fails before it.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        *,
        device: torch.device,
        address: str,
        port: int,
        timeout_s: float,
        meeting: TCPStore | None = None,
    ) -> None:
        if not 0 <= rank < size or timeout_s <= 0:
            raise ValueError(f"need 0 <= rank < size and timeout_s > 0, got {rank}, {size} and {timeout_s}")
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self.backend = backend_of(device)
        os.environ.update(
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
            RANK=str(rank),
            LOCAL_RANK="0",  # a rank sees its own device alone
            WORLD_SIZE=str(size),
        )
        if device.type == "cuda":
            _prepare_nccl()
        started, limit = time.monotonic(), timedelta(seconds=timeout_s)
        try:
            if meeting is None and rank == 0:
                meeting = meeting_point(address, timeout_s, port)
            elif meeting is None:
                meeting = TCPStore(address, port, is_master=False, timeout=limit)
            torch.distributed.init_process_group(self.backend, store=meeting, rank=rank, world_size=size, timeout=limit)
        except RuntimeError as error:
            raise self._failure(f"all ranks to join at {address}:{port}", started, error) from error
        self._meeting = meeting  # rank 0's serves all ranks as long as the gang lives
        require_backend(device)
        self.mean(torch.zeros(1, device=device))  # NCCL connects at its first collective: better now than in a cycle

    def from_first(self, tensor: Tensor) -> Tensor:
        """See `Gang`; raises as `mean`."""
        started = time.monotonic()
        try:
            torch.distributed.broadcast(tensor, 0)
        except RuntimeError as error:
            raise self._failure("rank 0 to send", started, error) from error
        return tensor

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


def _prepare_nccl() -> None:
    """Before any group: each rank on its own device, and no collective that waits for ever.

    Raises:
        UserError: if there is no NCCL.
    """
    if not torch.distributed.is_nccl_available():
        raise UserError(
            f"learner ranks on GPUs need NCCL, which torch {torch.__version__} does not have; install a CUDA build of "
            "torch for Linux, or set learner.num_gpus=0"
        )
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "3"  # torch's own default: a watchdog ends the process
    torch.cuda.set_device(0)
