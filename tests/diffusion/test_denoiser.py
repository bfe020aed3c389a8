"""Conditioning and classifier-free guidance."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser, guided


def _prompts(count: int, seed: int = 0) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(torch.randn(count, 3, 5, generator=generator), torch.randn(count, 4, generator=generator))


class _Recorder:
    """A denoiser whose velocity depends on state, level and prompt, and which counts its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.batches.append(x.shape[0])
        text = conditioning.embeds.mean(dim=(1, 2)) + conditioning.pooled.sum(1)
        return x * t.reshape(-1, 1, 1, 1) + text.reshape(-1, 1, 1, 1)


def test_guidance_follows_its_formula_in_one_batched_forward() -> None:
    network, prompts, empty = _Recorder(), _prompts(2), _prompts(1, seed=1)
    x, t = torch.randn(2, 1, 2, 2), torch.tensor([0.3, 0.9])
    result = guided(network, empty, 4.0)(x, t, prompts)
    assert network.batches == [4]
    alone = _Recorder()
    without = torch.cat([alone(x[i : i + 1], t[i : i + 1], empty) for i in range(2)])
    torch.testing.assert_close(result, without + 4.0 * (alone(x, t, prompts) - without))


def test_guidance_of_one_is_the_network_itself() -> None:
    network = _Recorder()
    assert guided(network, _prompts(1), 1.0) is network
    assert guided(network, None, 1.0) is network


def test_guidance_in_bfloat16_is_combined_in_float32() -> None:
    def network(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return (x + conditioning.pooled.sum(1).reshape(-1, 1, 1, 1)).bfloat16()

    assert isinstance(network, Denoiser)
    velocity = guided(network, _prompts(1), 2.0)(torch.zeros(2, 1, 2, 2), torch.ones(2), _prompts(2))
    assert velocity.dtype == torch.float32


@pytest.mark.parametrize("unconditional", [None, _prompts(2)])
def test_guidance_without_one_empty_prompt_is_refused(unconditional: Conditioning | None) -> None:
    with pytest.raises(ValueError, match="one unconditional embedding"):
        guided(_Recorder(), unconditional, 2.0)


def test_selecting_and_concatenating_prompts_are_inverse() -> None:
    prompts = _prompts(4)
    parts = [prompts.select(torch.tensor([0, 1])), prompts.select(torch.tensor([2, 3])).to("cpu")]
    again = Conditioning.concatenate(parts)
    assert len(again) == 4
    assert torch.equal(again.embeds, prompts.embeds)
    assert torch.equal(again.pooled, prompts.pooled)
    repeated = prompts.select(torch.tensor([3, 3, 0]))
    assert torch.equal(repeated.pooled, prompts.pooled[[3, 3, 0]])


def test_concatenating_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        Conditioning.concatenate([])


def _masked(lengths: list[int], seed: int = 0) -> Conditioning:
    rows = torch.randn(len(lengths), max(lengths), 5, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return Conditioning(rows * mask.unsqueeze(2), torch.zeros(len(lengths), 0), mask)


def test_prompts_of_unequal_length_are_joined_by_padding_that_the_mask_leaves_out() -> None:
    short, long = _masked([2, 1]), _masked([4], seed=1)
    both = Conditioning.concatenate([short, long])
    assert both.mask is not None
    assert both.mask.sum(dim=1).tolist() == [2, 1, 4]
    for part, rows in ((short, slice(0, 2)), (long, slice(2, 3))):
        assert part.mask is not None
        assert torch.equal(both.embeds[rows][both.mask[rows]], part.embeds[part.mask])
        torch.testing.assert_close(both.summary()[rows], part.summary())


def test_prompts_with_and_without_a_mask_are_not_joined() -> None:
    bare = Conditioning(torch.zeros(1, 2, 5), torch.zeros(1, 0))
    with pytest.raises(ValueError, match="some of the prompts have a mask and others not"):
        Conditioning.concatenate([_masked([2]), bare])


def test_a_change_of_precision_leaves_the_mask_as_it_is() -> None:
    changed = _masked([2, 1]).to(dtype=torch.bfloat16)
    assert changed.embeds.dtype == changed.pooled.dtype == torch.bfloat16
    assert changed.mask is not None
    assert changed.mask.dtype == torch.bool


def test_a_summary_is_the_pooled_embedding_or_the_normalised_mean_of_the_prompts_own_tokens() -> None:
    pooled = _prompts(3)
    assert torch.equal(pooled.summary(), pooled.pooled)
    summary = _masked([2, 1]).summary()
    torch.testing.assert_close(summary.mean(dim=1), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(summary.var(dim=1, correction=0), torch.ones(2), rtol=1e-3, atol=0)
    # Padding does not count, whatever stands there.
    dirty = _masked([2, 1])
    dirty.embeds[1, 1] = 100.0
    torch.testing.assert_close(dirty.summary(), summary)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 4))
def test_trimming_takes_away_what_is_padding_in_every_row_and_a_mask_that_says_nothing(
    lengths: list[int], more: int
) -> None:
    longest, padded_to = max(lengths), max(lengths) + more
    mask = torch.arange(padded_to) < torch.tensor(lengths).unsqueeze(1)
    rows = Conditioning(torch.randn(len(lengths), padded_to, 3), torch.randn(len(lengths), 2), mask)
    short = rows.trimmed()
    assert torch.equal(short.embeds, rows.embeds[:, :longest])
    assert torch.equal(short.pooled, rows.pooled)
    if set(lengths) == {longest}:
        assert short.mask is None
    else:
        assert short.mask is not None
        assert torch.equal(short.mask, mask[:, :longest])


def test_prompts_without_a_mask_keep_every_token() -> None:
    prompts = _prompts(2)
    assert prompts.trimmed() is prompts
