"""`micro_batch=auto` in a worker: the estimate, the trial, and all ranks alike, in memory that a stand-in has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from advdmd_ray.comparison.serial import SerialRun
from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.runs.needs.memory import sizes_of
from advdmd_ray.runs.needs.micro_batch import HEADROOM, fitting_rows, role_memory
from advdmd_ray.runs.parts import micro_batch, workers
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.micro_batch import agreed, available_memory, tried

pytestmark = pytest.mark.usefixtures("encoders_once")


class Room:
    """A GPU with room for so many rows; notes what is tried."""

    def __init__(self, rows: int) -> None:
        self.rows, self.tried = rows, []

    def __call__(self, rows: int) -> None:
        self.tried.append(rows)
        if rows > self.rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")


class Two(SoloGang):
    """The first of two ranks; the other has room for so many rows."""

    size = 2

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def mean(self, tensor: Tensor) -> Tensor:
        return (tensor + (torch.arange(len(tensor)) < self._rows).float()) / 2


@pytest.mark.parametrize(
    ("estimated", "room", "attempts", "taken"),
    [
        (12, 20, [12], 12),
        (12, 5, [12, 6, 3], 3),
        (None, 20, [16], None),  # all are 16
        (None, 9, [16, 8], 8),
        (100, 20, [16], 100),  # no more than all are tried
        (1, 1, [1], 1),
    ],
)
def test_rows_are_halved_until_a_part_fits(
    estimated: int | None, room: int, attempts: list[int], taken: int | None
) -> None:
    gpu = Room(room)
    assert tried(estimated, gpu, 16) == taken
    assert gpu.tried == attempts


def test_a_gpu_without_room_for_a_row_is_one_line() -> None:
    with pytest.raises(UserError, match="not even one row fits"):
        tried(4, Room(0), 16)


def test_another_failure_of_the_trial_is_no_lack_of_memory() -> None:
    def broken(_: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        tried(4, broken, 16)


@pytest.mark.parametrize(("mine", "theirs", "both"), [(3, 5, 3), (5, 3, 3), (None, 3, 3), (1, 1, 1)])
def test_all_ranks_take_what_fits_everywhere(mine: int | None, theirs: int, both: int) -> None:
    assert agreed(mine, Two(theirs)) == both


def test_a_rank_alone_takes_what_fits_it() -> None:
    assert agreed(None, SoloGang()) is None
    assert agreed(7, SoloGang()) == 7


def config(folder: Path, micro_batch: Any, lora: int = 0) -> Config:
    place = {"micro_batch": micro_batch}
    return Config.model_validate(
        {
            "model": {"path": str(folder)},
            "lora": {"rank": lora},
            "diffusion": {"sigmas": (1.0, 0.6)},
            "rollout": {"group_size": 4, "groups_per_cycle": 2} | place,
            "reward": place,
            "learner": {"engine": "torch"} | place,
            "dmd": {"batch_size": 4, "gan_weight": 0.5},
            "fake_score": {"batch_size": 4},
            "discriminator": {"batch_size": 4, "backbone": "own", "blocks": (0, 2)},
        }
    )


def test_on_a_cpu_there_is_no_limit_and_the_run_is_bitwise_that_without_one(tiny_pipeline: Path) -> None:
    assert available_memory(torch.device("cpu"), 1.0) is None
    found = []
    for given in ("auto", None):
        run = SerialRun(config(tiny_pipeline, given))
        run.cycle()
        found.append(run.learner.published()[0])
    assert all(torch.equal(found[1][name], weight) for name, weight in found[0].items())


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("role", ["rollout", "reward", "learner"])
def test_a_worker_on_a_gpu_takes_what_is_estimated_and_tried(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, role: str, lora: int
) -> None:
    settings = config(tiny_pipeline, "auto", lora)
    on_gpu = {role: getattr(settings, role).model_copy(update={"num_gpus": 1.0})}
    there = settings.model_copy(update=on_gpu)
    available = int(role_memory(there, sizes_of(settings), role, 2).gpu / HEADROOM) + 1000
    expected = fitting_rows(there, sizes_of(settings), role, available)
    assert expected in {2, 3}  # a pair of the discriminator is two rows
    monkeypatch.setattr(micro_batch, "available_memory", lambda _device, _gpus: available)
    monkeypatch.setattr(micro_batch, "memory_taken", lambda _device: 0)
    monkeypatch.setattr(workers, "device_of", lambda _role: torch.device("cpu"))
    monkeypatch.setattr("advdmd_ray.runs.parts.networks.device_of", lambda _role: torch.device("cpu"))
    rows: list[int] = []
    run = TransformerDenoiser.whole

    def noted(network: TransformerDenoiser, x: Tensor, *rest: Any) -> Tensor:
        rows.append(len(x))
        return run(network, x, *rest)

    monkeypatch.setattr(TransformerDenoiser, "whole", noted)
    table = encode_table(settings)
    if role == "learner":
        learner = workers.build_learner(there, SoloGang(), table, None)
        assert isinstance(learner, Learner)
        assert learner._settings[0].micro_batch == expected
        assert learner._engines["student"].module.execution.micro_batch == expected  # pyright: ignore[reportAttributeAccessIssue] - a denoiser
    else:
        build = workers.build_rollout_worker if role == "rollout" else workers.build_reward_worker
        build(there, "worker", table)
    assert rows == [expected]
    (line,) = caplog.messages
    assert line.startswith(f"{role}.micro_batch=auto: {expected} rows at a time in ")
