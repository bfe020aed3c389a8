"""Conditioning and classifier-free guidance."""

import pytest
import torch
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
