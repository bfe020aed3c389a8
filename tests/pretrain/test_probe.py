"""The linear probe of word order: what it says of embeddings whose worth is known."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.data.shapes.captions import draw_exam, sides_of
from advdmd_ray.data.shapes.scene import SHAPES
from advdmd_ray.data.shapes.skills import ShapePrompt
from advdmd_ray.pretrain.probe import order_probe, ridge, wilson

FITTED, ASKED = draw_exam(60, 1, fitted=True), draw_exam(30, 2)
KNOWN, TRUTH = sides_of(FITTED), sides_of(ASKED)
WORDS = sorted({word for prompt in (*FITTED, *ASKED) for word in prompt.text.split()})


def bags(prompts: Sequence[ShapePrompt]) -> torch.Tensor:
    """How often each prompt has each word: embeddings that ignore order."""
    return torch.tensor([[float(prompt.text.split().count(word)) for word in WORDS] for prompt in prompts])


def orders(prompts: Sequence[ShapePrompt]) -> torch.Tensor:
    """Bags, and which shape is named first: embeddings that know words and order, but not their product."""
    first = [[float(prompt.phrases[0].shape == shape) for shape in SHAPES] for prompt in prompts]
    return torch.cat([bags(prompts), torch.tensor(first)], dim=1)


def test_words_without_their_order_are_right_on_half_exactly() -> None:
    assert order_probe(bags(FITTED), KNOWN, bags(ASKED), TRUTH).value == 0.5


def test_order_without_the_relation_is_right_on_half_of_the_pairs() -> None:
    assert order_probe(orders(FITTED), KNOWN, orders(ASKED), TRUTH).value == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(("seed", "width"), [(0, 8), (1, 12), (2, 24)])
def test_embeddings_that_hold_the_sides_linearly_are_read_whatever_their_axes(seed: int, width: int) -> None:
    axes = torch.randn(8, width, generator=torch.Generator().manual_seed(seed))
    share = order_probe(KNOWN @ axes + 3.0, KNOWN, TRUTH @ axes + 3.0, TRUTH)
    assert share.value == 1.0
    assert 0.9 < share.low < share.high == pytest.approx(1.0)


def test_embeddings_that_say_the_opposite_are_wrong_on_all() -> None:
    assert order_probe(KNOWN, KNOWN, -TRUTH, TRUTH).value == 0.0


def test_captions_that_are_not_in_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="exchanged"):
        order_probe(KNOWN, KNOWN, TRUTH, TRUTH.roll(1, dims=0))
    with pytest.raises(ValueError, match="exchanged"):
        order_probe(KNOWN, KNOWN, TRUTH[:-1], TRUTH[:-1])


@given(st.integers(0, 2**31))
def test_ridge_finds_a_linear_map_and_its_offset(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features, map_ = torch.randn(200, 5, generator=generator), torch.randn(5, 3, generator=generator)
    asked = torch.randn(7, 5, generator=generator)
    assert torch.allclose(ridge(features, features @ map_ + 2.0, asked), asked @ map_ + 2.0, atol=0.02)


@given(st.floats(0, 1), st.integers(1, 1000))
def test_an_interval_holds_the_share_and_narrows_with_more_trials(value: float, count: int) -> None:
    one, more = wilson(value, count), wilson(value, 4 * count)
    for share in (one, more):
        assert 0 <= share.low <= share.value + 1e-12
        assert share.value - 1e-12 <= share.high <= 1
    assert more.high - more.low < one.high - one.low
