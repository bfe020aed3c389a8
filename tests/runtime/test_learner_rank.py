"""A rank's gang reduces over what its device needs, and rank 0 meets the others where it said that it listens."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] - documented by torch

from advdmd_ray.config import Config
from advdmd_ray.config.sections import Resources
from advdmd_ray.errors import UserError
from advdmd_ray.learner.gang import Gang, SoloGang, backend_of
from advdmd_ray.runs.folder import RunFolder, Start, claim
from advdmd_ray.runs.lasting import Mark
from advdmd_ray.runtime import learner_rank


class Met:
    """Stands for a gang that has met: remembers what it was asked to be."""

    def __init__(
        self, rank: int, size: int, *, device: torch.device, address: str, port: int, timeout_s: float, meeting: object
    ) -> None:
        assert (size, address, timeout_s) == (2, "10.0.0.1", 70.0)
        assert (meeting is not None) == (rank == 0)
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self.device, self.port, self.backend = device, port, backend_of(device)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Resources]:
    """Stands for a node of a cluster with a GPU for each rank that reserves one."""
    sections: list[Resources] = []

    def device_of(section: Resources) -> torch.device:
        sections.append(section)
        return torch.device("cuda" if section.num_gpus else "cpu")

    monkeypatch.setattr(learner_rank, "TorchDistributedGang", Met)
    monkeypatch.setattr(learner_rank, "device_of", device_of)
    monkeypatch.setattr(learner_rank.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    return sections


def rank(number: int, gpus: float, engine: str = "deepspeed") -> Any:
    """A rank without Ray."""
    ranks = 1 if engine == "torch" else 2
    config = Config.model_validate(
        {"learner": {"ranks": ranks, "num_gpus": gpus, "engine": engine, "cycle_timeout_s": 70.0}}
    )
    kind: Any = learner_rank.LearnerRank
    return kind.__ray_metadata__.modified_class(config, number)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("gpus", "backend"), [(1.0, "cpu:gloo,cuda:nccl"), (0.0, "cpu:gloo")])
def test_a_rank_hands_the_device_of_its_section_to_its_gang(
    number: int, gpus: float, backend: str, asked: list[Resources]
) -> None:
    one = rank(number, gpus)
    if number == 0:
        one.rendezvous()
    gang: Gang = one._gang_at("10.0.0.1", 4711)
    assert isinstance(gang, Met)
    assert [section.num_gpus for section in asked] == [gpus]
    assert (gang.rank, gang.port, gang.backend) == (number, 4711, backend)


def test_rank_0_listens_where_it_says_until_the_ranks_have_met(asked: list[Resources]) -> None:
    zero = rank(0, 0.0)
    address, port = zero.rendezvous()
    with pytest.raises(RuntimeError, match="in use"):
        TCPStore(address, port, is_master=True, wait_for_workers=False)
    assert asked == []


def test_an_engine_in_plain_torch_reduces_over_nothing(asked: list[Resources]) -> None:
    assert isinstance(rank(0, 1.0, "torch")._gang_at("10.0.0.1", 4711), SoloGang)
    assert asked == []


def test_every_rank_proves_that_it_sees_the_run_folder_and_may_write_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claim(Start(tmp_path / "run", None, None, "")) as folder:
        mark = RunFolder(folder).mark()
        for number in (0, 1):
            rank(number, 0.0).sees(mark)
        assert [*folder.iterdir()] == [RunFolder(folder).lock]
    clock = SimpleNamespace(monotonic=itertools.count(0, 100).__next__, sleep=refuse)
    monkeypatch.setattr("advdmd_ray.runs.lasting.time", clock)
    elsewhere = Mark(tmp_path / "elsewhere" / "run.lock", mark.text, mark.setting)
    with pytest.raises(UserError, match=rf"learner rank 1 on node .* does not see {tmp_path}/elsewhere of node"):
        rank(1, 0.0).sees(elsewhere)
    monkeypatch.setattr(learner_rank, "check_writable", refuse)
    with pytest.raises(UserError, match="read-only"):
        rank(0, 0.0).sees(mark)


def refuse(folder: Path) -> None:
    raise UserError(f"folder {folder} cannot be written: read-only file system")
