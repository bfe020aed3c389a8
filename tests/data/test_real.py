"""Real images matched to prompts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.data.digits import load_digits
from advdmd_ray.data.real import RealImages

DIGITS = load_digits("train")
REAL = RealImages(DIGITS.images, DIGITS.labels)
BY_CONTENT = {tuple(latent.flatten().tolist()): int(i) for latent, i in zip(REAL.latents, REAL.prompt_ids, strict=True)}
BY_ROW = {tuple(latent.flatten().tolist()): row for row, latent in enumerate(REAL.latents)}


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 2**62))
def test_every_drawn_image_is_a_real_one_of_its_prompt(ids: list[int], seed: int) -> None:
    drawn = REAL.matched(torch.tensor(ids, dtype=torch.int64), seed)
    assert drawn.shape == (len(ids), 1, 8, 8)
    assert [BY_CONTENT[tuple(row)] for row in drawn.flatten(1).tolist()] == ids


def test_a_draw_depends_on_its_seed_alone() -> None:
    ids = torch.arange(10).repeat(3)
    first = REAL.matched(ids, 5)
    REAL.matched(ids, 6)
    assert torch.equal(first, REAL.matched(ids, 5))
    assert not torch.equal(first, REAL.matched(ids, 6))


def test_all_images_of_a_prompt_are_drawn_equally_often() -> None:
    real = RealImages(torch.arange(5.0).view(5, 1, 1, 1), torch.tensor([0, 1, 1, 1, 1]))
    drawn = real.matched(torch.ones(8000, dtype=torch.int64), 0).flatten().long()
    counts = torch.bincount(drawn, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 200


def test_a_prompt_without_images_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="prompt id 11"):
        REAL.matched(torch.tensor([0, 11]), 0)


def test_as_many_ids_as_images_are_needed() -> None:
    with pytest.raises(ValueError, match="as many"):
        RealImages(torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64))


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_split_is_disjoint_complete_and_has_every_prompt_in_both_parts(fraction: float, seed: int) -> None:
    numbered = RealImages(torch.arange(60.0).view(60, 1, 1, 1), torch.arange(60) % 7)
    learn, measure = numbered.split(fraction, seed)
    assert sorted([*learn.latents.flatten().tolist(), *measure.latents.flatten().tolist()]) == list(range(60))
    assert set(learn.prompt_ids.tolist()) == set(measure.prompt_ids.tolist()) == set(range(7))
    assert all(int(latent.item()) % 7 == int(i) for latent, i in zip(learn.latents, learn.prompt_ids, strict=True))


def test_an_image_of_a_prompt_that_stands_twice_is_held_out_of_both_rows_or_of_neither() -> None:
    twice = RealImages(REAL.latents.repeat(2, 1, 1, 1), torch.cat([REAL.prompt_ids, REAL.prompt_ids + 10]))
    learn, measure = ({BY_ROW[tuple(row)] for row in part.latents.flatten(1).tolist()} for part in twice.split(0.3, 11))
    assert learn | measure == set(BY_ROW.values())
    assert not learn & measure
