"""A scorer is held to its contract: what it is given, and what it must return."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from advdmd_ray.config.scorers import ScorersSection
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.scorers import Scorer, check_scorer, load_scorer

IMAGES = torch.linspace(-1.2, 1.2, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
PROMPTS = ["a red circle", "a blue square"]


def scorer(function: object) -> Scorer:
    """A user's function as `reward.extra` names it."""
    module = ModuleType("scorer_of_a_test")
    module.__dict__["mine"] = function
    sys.modules[module.__name__] = module
    return load_scorer("reward.extra", "scorer_of_a_test:mine", ScorersSection(), torch.device("cpu"))


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_given_rgb_between_0_and_1_and_the_prompt_of_each_image(channels: int) -> None:
    def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert (images.dtype, tuple(images.shape)) == (torch.float32, (2, 3, 4, 5))
        assert (float(images.min()), float(images.max())) == (0.0, 1.0)
        assert list(prompts) == PROMPTS
        assert not torch.is_grad_enabled()
        return images.mean(dim=(1, 2, 3))

    images = torch.linspace(-1.2, 1.2, 2 * channels * 4 * 5).reshape(2, channels, 4, 5)
    expected = ((images.clamp(-1, 1) + 1) / 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(scorer(brightness)(images.double(), PROMPTS), expected, check_dtype=False)


@pytest.mark.parametrize(
    "returned", [[1, 2.5], (1, 2.5), np.array([1.0, 2.5]), torch.tensor([1.0, 2.5], requires_grad=True).bfloat16()]
)
def test_numbers_of_any_kind_are_scores(returned: object) -> None:
    scores = scorer(lambda _images, _prompts: returned)(IMAGES, PROMPTS)
    assert (scores.dtype, scores.tolist(), scores.requires_grad) == (torch.float32, [1.0, 2.5], False)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "returned nothing; return 2 numbers for 2 images"),
        (0.5, "returned a float of shape []; return 2 numbers"),
        ([0.5], "returned a list of shape [1]; return 2 numbers"),
        (torch.zeros(2, 1), "returned a Tensor of shape [2, 1]; return 2 numbers"),
        (["good", "bad"], "returned a list; return 2 numbers"),
        ([[1.0], [1.0, 2.0]], "returned a list; return 2 numbers"),
        (torch.zeros(2, dtype=torch.complex64), "returned a Tensor of shape [2]; return 2 numbers"),
        ([0.5, float("nan")], "gave nan for image 1 of 2, of the prompt 'a blue square'; return a finite number"),
        ([float("-inf"), 1e300], "gave -inf for image 0 of 2, of the prompt 'a red circle'"),
    ],
)
def test_anything_else_is_one_line_that_says_what_came(returned: object, says: str) -> None:
    with pytest.raises(UserError) as raised:
        scorer(lambda _images, _prompts: returned)(IMAGES, PROMPTS)
    assert str(raised.value).startswith("reward.extra = 'scorer_of_a_test:mine': ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_it_raises_is_one_line_too() -> None:
    def broken(_images: Tensor, _prompts: Sequence[str]) -> Tensor:
        raise RuntimeError("no\nGPU")

    with pytest.raises(UserError, match=r"failed on 2 images \(RuntimeError: no GPU\); mend it"):
        scorer(broken)(IMAGES, PROMPTS)


def test_a_name_that_ships_needs_the_folder_of_its_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names clip_score, and scorers\.clip_score is not set; set it to the folder"):
        check_scorer("reward.extra", "clip_score", ScorersSection())
    section = ScorersSection(clip_score=str(tmp_path))
    for file, text, says in (
        ("no", "", r"config.json cannot be read \(No such file or directory\); copy the folder again"),
        ("config.json", "{}", "it names no model_type"),
        ("config.json", '{"model_type": "blip"}', "holds a 'blip'; the folder of a 'clip' of transformers is needed"),
        ("config.json", '{"model_type": "clip"}', "has no preprocessor_config.json; copy the folder again"),
        ("preprocessor_config.json", "{}", "has no model.safetensors or model.safetensors.index.json"),
        ("model.safetensors", "", "has no tokenizer.json or vocab.json"),
    ):
        (tmp_path / file).write_text(text)
        with pytest.raises(UserError, match=says):
            check_scorer("reward.extra", "clip_score", section)
