"""Real images matched to prompts."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from advdmd_ray.data.digits.images import load_digits
from advdmd_ray.data.real import RealImages

DIGITS = load_digits("train")
REAL = RealImages(DIGITS.images, DIGITS.labels)
BY_CONTENT = {tuple(pixels): int(i) for pixels, i in zip(DIGITS.images.flatten(1).tolist(), DIGITS.labels, strict=True)}


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 2**62))
def test_every_drawn_image_is_a_real_one_of_its_prompt(ids: list[int], seed: int) -> None:
    drawn = REAL.drawn(torch.tensor(ids, dtype=torch.int64), seed)[0]
    assert drawn.shape == (len(ids), 1, 8, 8)
    assert [BY_CONTENT[tuple(row)] for row in drawn.flatten(1).tolist()] == ids


def test_a_draw_depends_on_its_seed_alone() -> None:
    ids = torch.arange(10).repeat(3)
    first = REAL.drawn(ids, 5)[0]
    REAL.drawn(ids, 6)
    assert torch.equal(first, REAL.drawn(ids, 5)[0])
    assert not torch.equal(first, REAL.drawn(ids, 6)[0])


def test_all_images_of_a_prompt_are_drawn_equally_often() -> None:
    real = RealImages(torch.arange(5.0).view(5, 1, 1, 1), torch.tensor([0, 1, 1, 1, 1]))
    drawn = real.drawn(torch.ones(8000, dtype=torch.int64), 0)[0].flatten().long()
    counts = torch.bincount(drawn, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 200


def test_a_prompt_without_images_gets_any_image_with_the_prompt_that_describes_it() -> None:
    real = RealImages(torch.arange(5.0).view(5, 1, 1, 1), torch.tensor([0, 1, 1, 2, 2]))
    asked = torch.tensor([1, 7] * 500)
    latents, ids = real.drawn(asked, 0)
    assert set(ids[::2].tolist()) == {1}
    assert set(ids[1::2].tolist()) == {0, 1, 2}
    assert torch.equal(real.prompt_ids[latents.flatten().long()], ids)


def test_as_many_ids_as_images_are_needed() -> None:
    with pytest.raises(ValueError, match="as many"):
        RealImages(torch.zeros(2, 1, 8, 8), torch.zeros(3, dtype=torch.int64))


def _values(part: RealImages) -> list[int]:
    return [int(value) for value in part.latents[part.rows].flatten()]


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_split_is_disjoint_complete_and_has_every_prompt_in_both_parts(fraction: float, seed: int) -> None:
    numbered = RealImages(torch.arange(60.0).view(60, 1, 1, 1), torch.arange(60) % 7)
    parts = numbered.split(fraction, seed)
    assert sorted(value for part in parts for value in _values(part)) == list(range(60))
    for part in parts:
        latents, ids = part.drawn(torch.arange(7).repeat(40), seed)
        assert torch.equal(latents.flatten().long() % 7, ids)
        assert {int(value) for value in latents.flatten()} <= set(_values(part))
        assert len(part) == len(_values(part))


@given(fraction=st.floats(0.05, 0.95), seed=st.integers(0, 1000), captions=st.integers(2, 30))
def test_captions_of_one_image_go_to_one_part_or_the_other(fraction: float, seed: int, captions: int) -> None:
    learn, measure = RealImages(torch.arange(captions).view(-1, 1, 1, 1).float(), torch.arange(captions)).split(
        fraction, seed
    )
    assert sorted([*_values(learn), *_values(measure)]) == list(range(captions))
    assert len(learn) >= 1
    assert len(measure) == min(max(round(fraction * captions), 1), captions - 1)


def test_an_image_with_two_captions_is_in_one_part() -> None:
    images = torch.arange(40) % 20
    both = RealImages(images.view(-1, 1, 1, 1).float(), torch.arange(40), images)
    learn, measure = both.split(0.3, 5)
    assert not set(_values(learn)) & set(_values(measure))
    assert len(learn) + len(measure) == 40


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=2, max_size=40),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
def test_however_images_and_prompts_share_rows_no_image_is_in_both_parts(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    prompts, images = (torch.tensor(column) for column in zip(*rows, strict=True))
    assume(len(images.unique()) > 1)
    learn, measure = RealImages(images.view(-1, 1, 1, 1).float(), prompts, images).split(fraction, seed)
    assert sorted([*learn.rows.tolist(), *measure.rows.tolist()]) == list(range(len(rows)))
    assert not set(_values(learn)) & set(_values(measure))
    assert len(learn) > 0
    assert len(measure) > 0


def test_the_digest_is_of_the_texts_and_of_what_stands_in_which_row() -> None:
    latents, ids = torch.arange(4.0).view(4, 1, 1, 1), torch.tensor([0, 0, 1, 1])
    texts = ("a", "b")
    whole = RealImages(latents, ids).digest(texts)
    assert RealImages(latents.clone(), ids.clone()).digest([*texts]) == whole
    others = [
        RealImages(latents, ids).digest(("a", "c")),
        RealImages(latents, ids).digest(("a", "b", "")),
        RealImages(latents, torch.tensor([0, 1, 1, 1])).digest(texts),
        RealImages(latents[:3], ids[:3]).digest(texts),
        RealImages(latents, ids, torch.tensor([0, 1, 2, 2])).digest(texts),
        RealImages(latents, ids, sizes=torch.tensor([0, 0, 0, 1])).digest(texts),
    ]
    assert len({whole, *others}) == 1 + len(others)


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="one real image only"):
        RealImages(torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.int64)).split(0.5, 0)


def test_an_image_of_a_prompt_that_stands_twice_is_held_out_of_both_rows_or_of_neither() -> None:
    count = len(REAL.prompt_ids)
    numbers = torch.arange(count).repeat(2)
    twice = RealImages(numbers.view(-1, 1, 1, 1).float(), torch.cat([REAL.prompt_ids, REAL.prompt_ids + 10]), numbers)
    learn, measure = (set(_values(part)) for part in twice.split(0.3, 11))
    assert learn | measure == set(range(count))
    assert not learn & measure
