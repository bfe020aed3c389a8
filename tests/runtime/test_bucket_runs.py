"""A run of images of two sizes, from the files to the student that is sampled at both."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advdmd_ray.config import Config
from advdmd_ray.controller.prompt_order import size_of
from advdmd_ray.evaluation.pictures.sheet import read_sheet
from advdmd_ray.evaluation.place import place_of
from advdmd_ray.evaluation.sample import sample_grid
from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.models.sampling_settings import read_sampling
from advdmd_ray.runs import verdict
from advdmd_ray.runs.export import export
from advdmd_ray.stations.records import Lease, TrajectoryGroup
from advdmd_ray.stations.rollout import RolloutWorker
from advdmd_ray.stations.weights.snapshot import digest_of
from local_runs import train_here
from tiny_families import write_family

pytestmark = pytest.mark.usefixtures("encoders_once")

SIZES, EACH, CYCLES = [(16, 32), (32, 16)], (60, 44), 4
SHAPES = [(2, 4), (4, 2)]
"""Heights and widths of their latents."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("sd3", tmp_path_factory.mktemp("buckets") / "teacher")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide and tall images of no two shapes, one after the other as long as there are both."""
    folder = tmp_path_factory.mktemp("sized") / "images"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number, size in enumerate([0, 1] * EACH[1] + [0] * (EACH[0] - EACH[1])):
        height, width = SIZES[size][0] + number % 5, SIZES[size][1] + number % 3
        pixels = draws.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(f"a picture of {number % 7} things")
    return folder


def config(output: Path, teacher: Path, images: Path, **sections: Mapping[str, Any]) -> Config:
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": "run", "output": str(output), "cycles": CYCLES, "seed": 3},
        "model": {"path": str(teacher)},
        "data": {"source": "files", "path": str(images), "cache": str(images.parent / "latents"), "buckets": SIZES},
        "diffusion": {"sigmas": (1.0, 0.6)},
        "rollout": {"actors": 1, "group_size": 4, "groups_per_cycle": 2, "max_policy_age": 0},
        "learner": {"engine": "torch", "checkpoint_cycles": 2},
        "dmd": {"batch_size": 2},
        "fake_score": {"batch_size": 2},
        "discriminator": {"batch_size": 2, "blocks": (0, 1), "text_errors": None, "auc_high": 1.0},
        "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1, "fake_score_updates": 1, "discriminator_updates": 1},
        "evaluation": {"samples": 20, "judge_samples": 20, "judge_cycles": 4, "grid_cycles": 4},
    }
    for section, values in sections.items():
        tree[section] = tree.get(section, {}) | dict(values)
    return Config.model_validate(tree)


def recorded(patch: pytest.MonkeyPatch) -> dict[int, tuple[int, ...]]:
    """Height and width of the latents of each ordinal that is generated from now on."""
    made: dict[int, tuple[int, ...]] = {}
    generate = RolloutWorker.generate_together

    def noted(worker: RolloutWorker, leases: Sequence[Lease]) -> list[TrajectoryGroup]:
        groups = generate(worker, leases)
        made.update({group.ordinal: group.latents.shape[3:] for group in groups})
        return groups

    patch.setattr(RolloutWorker, "generate_together", noted)
    return made


def digests(run: Config) -> dict[str, str]:
    checkpoint = latest_checkpoint(run.folder / "checkpoints")
    assert checkpoint.step == run.run.cycles
    return {stem: digest_of(checkpoint.load(stem)) for stem in checkpoint.stems}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, images: Path
) -> tuple[Config, Mapping[int, tuple[int, ...]]]:
    """A run to its end, and the sizes of its groups."""
    run = config(tmp_path_factory.mktemp("runs"), teacher, images)
    with pytest.MonkeyPatch.context() as patch:
        made = recorded(patch)
        assert train_here(run) == CYCLES
    return run, made


def test_all_groups_of_a_cycle_are_of_one_size_which_the_images_shares_and_the_seed_decide(
    finished: tuple[Config, Mapping[int, tuple[int, ...]]],
) -> None:
    plan = [size_of(3, cycle, EACH) for cycle in range(CYCLES)]
    assert {*plan} == {0, 1}
    assert finished[1] == {ordinal: SHAPES[plan[ordinal // 2]] for ordinal in range(2 * CYCLES)}


def test_a_run_that_is_resumed_with_other_numbers_of_workers_has_the_same_sizes_and_ends_with_the_same_bytes(
    finished: tuple[Config, Mapping[int, tuple[int, ...]]],
    tmp_path: Path,
    teacher: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = config(tmp_path, teacher, images, rollout={"actors": 3}, reward={"workers": 2})
    shutil.copytree(finished[0].folder, run.folder)
    shutil.rmtree(run.folder / "checkpoints" / f"step-{CYCLES:08d}")
    made = recorded(monkeypatch)
    assert train_here(run, resume=run.folder / "checkpoints") == CYCLES
    assert made == {ordinal: shape for ordinal, shape in finished[1].items() if ordinal >= CYCLES}
    assert digests(run) == digests(finished[0])


def test_grids_the_judge_the_exported_student_and_samples_of_it_have_both_sizes(
    finished: tuple[Config, Mapping[int, tuple[int, ...]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "usable_cores", torch.get_num_threads)  # more would wait for each other
    run = finished[0]
    (grid,) = (run.folder / "grids").glob("*.png")
    sheet = read_sheet(grid)
    assert sheet is not None
    assert (sheet.height, sheet.width) == (32 * sheet.enlarged, 32 * sheet.enlarged)
    student = export(run)
    settings = read_sampling(student)
    assert settings is not None
    assert (settings.pixels, settings.sizes) == (SIZES[0], tuple(SIZES))
    judged = verdict.verdict_of(run, verdict.draw_here(run, student))
    assert judged.student is not None
    figures = judged.student.figures
    assert {"frechet", "frechet_16x32", "frechet_32x16", "diversity_32x16", "coverage_16x32"} <= figures.keys()
    weighted = (EACH[0] * figures["frechet_16x32"] + EACH[1] * figures["frechet_32x16"]) / sum(EACH)
    assert figures["frechet"] == pytest.approx(weighted)
    assert judged.prompts[:2] == ("a picture of 0 things (16 x 32)", "a picture of 0 things (32 x 16)")
    settings = {"steps": None, "guidance": None, "images": 2, "seed": 1, "place": place_of("cpu")}
    both = sample_grid(str(student), ["a picture of 3 things"], out=tmp_path / "both.png", **settings)
    one = sample_grid(str(student), ["a picture of 3 things"], out=tmp_path / "one.png", size=(32, 16), **settings)
    with Image.open(both) as whole, Image.open(one) as part:
        assert whole.height > 1.3 * part.height


def test_a_single_bucket_is_the_run_of_that_size_to_the_last_byte(tmp_path: Path, teacher: Path, images: Path) -> None:
    plainly = {"run": {"cycles": 2}, "evaluation": {"judge_cycles": 0, "grid_cycles": 0}}
    sized = config(tmp_path / "one", teacher, images, **plainly, data={"buckets": SIZES[:1]})
    size = {"path": str(teacher), "height": SIZES[0][0], "width": SIZES[0][1]}
    plain = config(tmp_path / "two", teacher, images, **plainly, data={"buckets": []}, model=size)
    for run in (sized, plain):
        assert train_here(run) == 2
    assert digests(sized) == digests(plain)
