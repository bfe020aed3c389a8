"""The shapes' oracle says what the checker says, as one number."""

import numpy as np
import pytest
import torch

from advdmd_ray.data.shapes.oracle import ShapesOracle
from advdmd_ray.data.shapes.skills import all_prompts
from advdmd_ray.data.shapes.training_set import draw_images, draw_rows


def test_an_image_of_its_prompt_scores_one() -> None:
    prompts, rows = all_prompts(), draw_rows(40, seed=3)
    images, oracle = torch.from_numpy(draw_images(rows, seed=3)), ShapesOracle()
    for image, row in zip(images, rows, strict=True):
        assert oracle(image.unsqueeze(0), prompts[row].text).tolist() == [1.0]


def test_a_scene_with_one_of_two_shapes_holds_half_its_facts_and_is_not_correct() -> None:
    prompts = {prompt.text: row for row, prompt in enumerate(all_prompts())}
    whole, half, other = (
        draw_images(np.asarray([prompts[text]]), seed=5)
        for text in ("a red circle and a blue square", "a red circle", "a cyan cross")
    )
    images = torch.from_numpy(np.concatenate([whole, half, other]))
    scores = ShapesOracle()(images, "a red circle and a blue square")
    assert scores.tolist() == [1.0, 0.25, 0.0]


def test_a_prompt_outside_the_language_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'a cat' is no prompt of the shapes"):
        ShapesOracle()(torch.zeros(1, 3, 24, 24), "a cat")
