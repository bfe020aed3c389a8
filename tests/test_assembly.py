"""From a configuration to the parts: prompts, their real images, and shapes."""

from pathlib import Path

import pytest
import torch

from advdmd_ray.assembly import build_reward_worker, encode_table, geometry, kernel_of, prompts_of, real_images
from advdmd_ray.config import Config
from advdmd_ray.data.digits import DIGIT_PROMPTS, load_digits
from advdmd_ray.errors import UserError
from advdmd_ray.weights import digest_of


def _with_prompts(path: Path, *texts: str) -> Config:
    file = path / "prompts.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    return Config.model_validate({"data": {"prompts": str(file)}})


def test_real_images_follow_the_order_of_the_prompts() -> None:
    real, digits = real_images(Config(), (DIGIT_PROMPTS[7], DIGIT_PROMPTS[2])), load_digits("train")
    for row, digit in enumerate((7, 2)):
        assert torch.equal(real.latents[real.prompt_ids == row], digits.images[digits.labels == digit])
    assert set(real.prompt_ids.tolist()) == {0, 1}


def test_a_prompt_written_twice_has_real_images_in_both_rows() -> None:
    real = real_images(Config(), (DIGIT_PROMPTS[3], DIGIT_PROMPTS[1], DIGIT_PROMPTS[3]))
    assert torch.equal(real.latents[real.prompt_ids == 0], real.latents[real.prompt_ids == 2])
    assert real.matched(torch.tensor([0, 1, 2]), seed=0).shape == (3, 1, 8, 8)


def test_a_prompt_without_real_images_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no real image has the prompt 'a cat'"):
        prompts_of(_with_prompts(tmp_path, DIGIT_PROMPTS[0], "a cat"))
    assert prompts_of(_with_prompts(tmp_path, DIGIT_PROMPTS[4])) == (DIGIT_PROMPTS[4],)
    assert prompts_of(Config()) == DIGIT_PROMPTS


def test_the_kernel_is_the_configurations() -> None:
    kernel = kernel_of(Config.model_validate({"diffusion": {"kernel": "cps", "eta": 0.4}}))
    assert (kernel.name, kernel.freshness) == ("cps", 0.4)


def test_shapes_and_levels_come_from_the_folders_headers(tiny_pipeline: Path) -> None:
    config = Config.model_validate({"model": {"path": str(tiny_pipeline)}})
    shapes = geometry(config)
    assert shapes.latent_shape == (1, 8, 8)
    assert shapes.sigmas.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_every_worker_starts_with_the_same_discriminator(tiny_pipeline: Path) -> None:
    config = Config.model_validate({"model": {"path": str(tiny_pipeline)}})
    table = encode_table(config)

    def heads(config: Config) -> str:
        return digest_of(build_reward_worker(config, "reward-0", table)._network.module.state_dict())

    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": 1})})
    assert heads(config) == heads(config) != heads(other)
