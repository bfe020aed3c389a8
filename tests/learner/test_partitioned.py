"""A learner whose weights are spread over two ranks (ZeRO 3) learns what one process in plain torch learns."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import partitioned_scenario as scenario
from advdmd_ray.config import Config
from advdmd_ray.learner.checkpoint import Checkpoint, latest_checkpoint
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.workers import build_learner
from ports import free_port
from tiny_digits import write_tiny_digits

pytestmark = pytest.mark.slow
SCRIPT = Path(scenario.__file__)
ROOT = SCRIPT.parents[2]


@dataclass(frozen=True)
class Learned:
    """What both ways of one backbone left behind."""

    partitioned: dict[str, Tensor]
    plain: dict[str, Tensor]
    reports: tuple[list[dict[str, Any]], list[dict[str, Any]]]
    settings: Config
    checkpoint: Checkpoint
    peaks: tuple[dict[str, int], ...]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks: each is gathered, released and gathered again, in a first and in a last place."""
    return write_tiny_digits(tmp_path_factory.mktemp("teacher") / "shallow", layers=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pipeline: Path) -> Path:
    """Two ranks, once for all backbones."""
    folder = tmp_path_factory.mktemp("partitioned")
    job = {"size": 2, "port": free_port(), "folder": str(folder), "pipeline": str(pipeline)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(job)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module", params=scenario.CYCLES)
def learned(request: pytest.FixtureRequest, folder: Path, pipeline: Path) -> Learned:
    settings = scenario.config(pipeline, request.param, engine="torch")
    plain, reports = scenario.learned(settings, SoloGang(), scenario.CYCLES[request.param])
    other = json.loads((folder / f"{request.param}.json").read_text())
    return Learned(
        load_file(folder / f"{request.param}.safetensors"),
        plain,
        (other, reports),
        settings,
        latest_checkpoint(folder / request.param),
        tuple(json.loads((folder / f"{request.param}.{rank}.json").read_text()) for rank in range(2)),
    )


def test_what_is_published_is_whole_and_the_same(learned: Learned) -> None:
    assert {name: tensor.shape for name, tensor in learned.partitioned.items()} == {
        name: tensor.shape for name, tensor in learned.plain.items()
    }
    for name, tensor in learned.plain.items():
        difference = (learned.partitioned[name].double() - tensor.double()).abs()
        # Where a gradient is nothing but rounding, Adam makes a step of its sign: few elements, and less than a step.
        assert float(difference.mean()) <= 1e-3 * max(float(tensor.double().abs().mean()), 1e-5), name


def test_what_moved_is_far_more_than_what_differs(learned: Learned) -> None:
    weights = [name for name in learned.plain if name.startswith("student:")]
    before = {name: learned.plain["ema:" + name.removeprefix("student:")] for name in weights}
    moved = sum(float((learned.plain[name] - before[name]).abs().sum()) for name in weights)
    differs = sum(float((learned.plain[name] - learned.partitioned[name]).abs().sum()) for name in weights)
    assert 0 < 1e4 * differs < moved


def test_losses_norms_and_areas_are_the_same_in_every_cycle(learned: Learned) -> None:
    for one, other in zip(*learned.reports, strict=True):
        assert one["auc"] == pytest.approx(other["auc"])
        for name in ("fake_score", "discriminator", "rl", "dmd"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


def test_one_rank_alone_samples_the_average(learned: Learned) -> None:
    torch.testing.assert_close(learned.partitioned["sample"], learned.plain["sample"], rtol=0, atol=1e-4)


def test_no_rank_holds_a_whole_network_but_rank_0_what_it_publishes(learned: Learned) -> None:
    stored = {stem: learned.checkpoint.load(stem) for stem in learned.checkpoint.stems}
    largest = max(tensor.nbytes for tensors in stored.values() for tensor in tensors.values())
    whole = sum(tensor.nbytes for tensor in stored["student"].values())
    few = 5 * largest  # gathered, and the pieces that it is gathered from
    assert few < whole / 2
    rank_0, rank_1 = learned.peaks
    assert rank_0["checkpoint"] < few
    assert max(rank_1.values()) < few
    assert whole <= rank_0["averages"] < whole + few, "the student, which is published next, is kept"
    assert rank_0["publication"] >= whole


def test_one_process_in_plain_torch_goes_on_from_the_checkpoint_of_two_ranks(learned: Learned) -> None:
    one = build_learner(learned.settings, SoloGang(), encode_table(learned.settings), learned.checkpoint)
    student, discriminator = one.published()
    found = {f"student:{name}": tensor for name, tensor in student.items()}
    found |= {f"discriminator:{name}": tensor for name, tensor in discriminator.items()}
    assert found.keys() == {name for name in learned.partitioned if name.startswith(("student:", "discriminator:"))}
    for name, tensor in found.items():
        if name.startswith("student:"):
            assert torch.equal(tensor, learned.partitioned[name]), name
    moments = one.tensors()["student_optimizer"].copied()
    assert all(
        torch.equal(moments[name], stored) for name, stored in learned.checkpoint.load("student_optimizer").items()
    )
