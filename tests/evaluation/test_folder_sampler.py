"""A pipeline folder's images: the same in any batch, nearly the same in half precision."""

from typing import Any

import numpy as np
import pytest
import torch

from advdmd_ray.evaluation import folder_sampler
from advdmd_ray.evaluation.folder_sampler import FolderSampler
from advdmd_ray.evaluation.place import Place, place_of
from advdmd_ray.models.families.sd3 import SD3Denoiser

CPU = place_of("cpu")
PROMPTS, SEEDS = ["a handwritten two", "a handwritten six", "a handwritten two"], [3, 4, 5]


def drawn(place: Place = CPU) -> np.ndarray:
    sampler = FolderSampler("builtin:digits", place, steps=2, guidance=2.0)
    return sampler.images(PROMPTS, SEEDS).astype(np.int64)


def test_images_are_the_same_in_any_batch_and_no_call_is_larger_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[int] = []
    velocity = SD3Denoiser.velocity

    def recorded(self: SD3Denoiser, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(x))
        return velocity(self, x, *rest)

    monkeypatch.setattr(SD3Denoiser, "velocity", recorded)
    together = drawn()
    assert max(rows) == 2 * len(SEEDS)  # with and without the prompt
    rows.clear()
    monkeypatch.setattr(folder_sampler, "TOKENS_AT_ONCE", 16)  # of one digit
    alone = drawn()
    assert max(rows) == 2
    assert np.abs(together - alone).max() <= 1
    assert together.std() > 10


def test_half_precision_draws_nearly_the_same_images() -> None:
    whole, half = drawn(), drawn(place_of("cpu", "bfloat16"))
    assert 0 < np.abs(whole - half).mean() < 6


def test_a_bound_of_tokens_is_eight_large_images() -> None:
    assert folder_sampler.TOKENS_AT_ONCE // (64 * 64) == 8  # 1024 x 1024 pixels are 64 x 64 tokens


def test_progress_counts_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_sampler, "TOKENS_AT_ONCE", 32)
    told: list[tuple[int, int]] = []
    sampler = FolderSampler("builtin:digits", CPU, steps=1)
    assert sampler.images(PROMPTS, SEEDS, lambda done, of: told.append((done, of))).shape == (3, 8, 8, 3)
    assert told == [(0, 3), (2, 3), (3, 3)]
