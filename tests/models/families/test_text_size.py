"""The size of an encoded text, told before anything is encoded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from advdmd_ray.models.families.text_size import text_elements
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.stations.encoded_texts import Shard, arrow_bytes
from full_size import write_full_size

LENGTH = 300


def test_it_is_that_of_the_row_that_the_pipeline_gives_or_of_the_longest(
    family_folder: Path, family_pipeline: Any
) -> None:
    texts = ["a fox", "a red fox above the boat " * 30]
    rows = encode_prompts(family_pipeline, texts, LENGTH)
    short, long = Shard(arrow_bytes(texts, rows), "rows").sizes()
    told = text_elements(inspect_pipeline(family_folder), LENGTH) * torch.float32.itemsize
    assert long == told
    assert short == told if rows.mask is None else short < told


@pytest.mark.parametrize(
    ("recipe", "length", "by_hand"),
    [
        ("sd3_medium", 256, (77 + 256) * 4096 + 2048),
        ("flux_dev_lora", 512, 512 * 4096 + 768),
        ("qwen_image_lora_2step", 256, 256 * 3584),
    ],
)
def test_full_size_texts_are_what_a_calculation_by_hand_says(
    recipe: str, length: int, by_hand: int, tmp_path: Path
) -> None:
    assert text_elements(inspect_pipeline(write_full_size(recipe, tmp_path), (1024, 1024)), length) == by_hand
