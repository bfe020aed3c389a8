"""What a gang reduces over, entered for GPUs by stand-ins; ranks that really meet are in test_engine.py."""

import os
from typing import Any

import pytest
import torch
import torch.distributed
from pydantic import ValidationError
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] - documented by torch

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.learner.gang import TorchDistributedGang, backend_of, meeting_point

CUDA = torch.device("cuda")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for a machine with NCCL and a GPU per rank, and writes down what it is asked for, in order."""
    made: list[str] = []
    zeros = torch.zeros

    def init(backend: str, *, store: TCPStore, rank: int, world_size: int, timeout: Any) -> None:
        assert (rank, world_size, timeout.total_seconds()) == (0, 2, 30.0)
        assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"
        made.append(f"init {backend}")

    def on_gpu(size: int, *, device: torch.device) -> Tensor:
        made.append(f"tensor on {device}")
        return zeros(size)

    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", init)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cpu:gloo,cuda:nccl")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: made.append("all_reduce"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(f"device {device}"))
    monkeypatch.setattr(torch, "zeros", on_gpu)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCH_NCCL_ASYNC_ERROR_HANDLING"):
        monkeypatch.setenv(name, "0")
    return made


def gang() -> TorchDistributedGang:
    meeting = meeting_point("127.0.0.1", 30.0)
    return TorchDistributedGang(
        0, 2, device=CUDA, address="127.0.0.1", port=meeting.port, timeout_s=30.0, meeting=meeting
    )


def test_ranks_on_gpus_meet_over_nccl_on_their_own_device_and_reduce_once_at_the_start(calls: list[str]) -> None:
    assert gang().backend == "cpu:gloo,cuda:nccl"
    assert calls == ["device 0", "init cpu:gloo,cuda:nccl", "tensor on cuda", "all_reduce"]
    assert os.environ["LOCAL_RANK"] == "0"


def test_a_group_that_would_reduce_gpus_over_gloo_is_refused(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cpu:gloo,cuda:gloo")
    with pytest.raises(ValueError, match=r"cpu:gloo,cuda:nccl, this one has cpu:gloo,cuda:gloo"):
        gang()
    assert "all_reduce" not in calls


def test_a_torch_without_nccl_is_one_line_for_ranks_on_gpus(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(UserError, match="learner ranks on GPUs need NCCL"):
        gang()
    assert calls == []


def test_ranks_on_cpus_need_gloo_alone_and_other_devices_are_refused() -> None:
    assert backend_of(torch.device("cpu")) == "cpu:gloo"
    with pytest.raises(ValueError, match="one of"):
        backend_of(torch.device("meta"))


def test_rank_0_holds_its_port_from_the_moment_it_tells_it() -> None:
    meeting = meeting_point("127.0.0.1", 5.0)

    with pytest.raises(RuntimeError):
        meeting_point("127.0.0.1", 5.0, meeting.port)


def test_two_ranks_on_one_gpu_are_refused_before_the_start() -> None:
    Config.model_validate({"learner": {"ranks": 2, "num_gpus": 1}})
    Config.model_validate({"learner": {"ranks": 1, "num_gpus": 0.5}})
    with pytest.raises(ValidationError, match="NCCL refuses two on one"):
        Config.model_validate({"learner": {"ranks": 2, "num_gpus": 0.5}})
