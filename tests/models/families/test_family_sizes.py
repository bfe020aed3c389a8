"""A pipeline at the sizes of `data.buckets`: its latents, its tokens, and the shift that hangs on their number."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from advdmd_ray.config import Config
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.errors import UserError
from advdmd_ray.models.families.registry import DYNAMIC
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.sizes import largest_pipeline, main_pipeline, sized_pipelines
from advdmd_ray.models.student_scheduler import student_scheduler

SIZES = [[32, 64], [64, 32], [64, 64]]


def run(pipeline: Path, buckets: list[list[int]], **model: Any) -> Config:
    return Config.model_validate(
        {"model": {"path": str(pipeline), **model}, "data": {"source": "files", "path": "images", "buckets": buckets}}
    )


def test_each_size_is_the_pipeline_as_it_is_read_at_that_size(family_folder: Path) -> None:
    infos = sized_pipelines(run(family_folder, SIZES))
    assert infos == tuple(inspect_pipeline(family_folder, (height, width)) for height, width in SIZES)
    assert [list(info.pixels) for info in infos] == SIZES
    assert largest_pipeline(run(family_folder, SIZES)) == infos[2]
    assert main_pipeline(run(family_folder, SIZES)) == infos[0]
    assert main_pipeline(run(family_folder, SIZES, height=64, width=32)) == infos[1]


@pytest.mark.parametrize("sizes", [[[33, 64], [64, 64]], [[64, 64], [33, 64]]])
def test_a_size_that_is_no_multiple_of_a_token_is_refused_by_the_name_of_its_setting(
    family_folder: Path, sizes: list[list[int]]
) -> None:
    with pytest.raises(UserError, match=r"^data\.buckets: 33 x 64 pixels do not divide into tokens of (8|16); use"):
        sized_pipelines(run(family_folder, sizes))


def test_a_student_of_several_sizes_is_sampled_by_plain_diffusers_at_the_levels_of_each(
    family_folder: Path, tmp_path: Path
) -> None:
    infos, before = sized_pipelines(run(family_folder, SIZES)), [1.0, 0.6, 0.3]
    student_scheduler(infos[0], stochastic=True, several=True).save_pretrained(str(tmp_path))
    for info in infos:
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(str(tmp_path))
        assert scheduler.config["stochastic_sampling"] is True
        said = [scheduler.config[key] for key in DYNAMIC]
        tokens = info.image_tokens
        mu = compute_empirical_mu(tokens, 50) if info.family.exponent else calculate_shift(tokens, *said)
        scheduler.set_timesteps(sigmas=before, mu=mu if scheduler.config["use_dynamic_shifting"] else None)
        levels = student_sigmas(before, info.scheduler_shift)
        torch.testing.assert_close(scheduler.sigmas, levels, atol=1e-6, rtol=0)


def test_a_student_of_one_size_has_a_number_for_its_shift(family_folder: Path) -> None:
    (info,) = sized_pipelines(run(family_folder, []))
    scheduler = student_scheduler(info, stochastic=False, several=False)
    assert scheduler.config["shift"] == info.scheduler_shift
    assert (scheduler.config["use_dynamic_shifting"], scheduler.config["stochastic_sampling"]) == (False, False)
