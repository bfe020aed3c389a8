"""In parts, with activations made again, or in bfloat16: what a network computes is the same but for rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.discriminator import Discriminator
from advdmd_ray.models.families.base import Adapter, Execution, TransformerDenoiser
from advdmd_ray.models.features import TokenReader
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora, is_adapter
from advdmd_ray.models.pipeline import load_denoiser
from advdmd_ray.models.text import encode_prompts

Inputs = tuple[torch.Tensor, torch.Tensor, Conditioning]


@pytest.fixture(scope="module")
def inputs(family_folder: Path, family_pipeline: Any) -> Inputs:
    info = inspect_pipeline(family_folder, (32, 48))
    generator = torch.Generator().manual_seed(0)
    prompts = encode_prompts(family_pipeline, ["a red fox above the boat", "a fox", "the boat"], 300)
    rows = torch.tensor([0, 1, 2, 0, 1])
    return (
        torch.randn(5, *info.latent.shape, generator=generator),
        torch.rand(5, generator=generator),
        prompts.select(rows),
    )


def _gradients(denoiser: TransformerDenoiser, inputs: Inputs) -> tuple[torch.Tensor, list[torch.Tensor]]:
    velocity = denoiser.requires_grad_(True)(*inputs)
    loss = (velocity * torch.linspace(-1, 1, velocity.numel()).view_as(velocity)).sum()
    return velocity.detach(), list(
        torch.autograd.grad(loss, list(denoiser.parameters()), allow_unused=True, materialize_grads=True)
    )


@pytest.fixture(scope="module")
def of_the_whole(family_folder: Path, inputs: Inputs) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Velocity and gradients of a network that does all at once and keeps its activations."""
    return _gradients(load_denoiser(family_folder), inputs)


@pytest.mark.parametrize("micro_batch", [1, 2, 5, None])
def test_parts_give_the_velocities_and_gradients_of_the_whole(
    family_folder: Path,
    inputs: Inputs,
    of_the_whole: tuple[torch.Tensor, list[torch.Tensor]],
    micro_batch: int | None,
) -> None:
    whole, gradients = of_the_whole
    parted = load_denoiser(family_folder, execution=Execution(micro_batch=micro_batch))
    sizes: list[int] = []
    parted.transformer.register_forward_pre_hook(lambda *_: sizes.append(1))
    again, others = _gradients(parted, inputs)
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
    parts = {1: 5, 2: 3, 5: 1, None: 1}[micro_batch]
    assert len(sizes) == parts  # and none once more in the backward pass


class _Weightless(nn.Module):
    """A transformer without weights, on the CPU."""

    device, dtype = torch.device("cpu"), torch.float32


class _Watched(TransformerDenoiser):
    """Its velocity is the state times the prompt's number; keeps the states and numbers of each call."""

    def __init__(self, micro_batch: int | None) -> None:
        super().__init__(_Weightless(), execution=Execution(micro_batch=micro_batch))
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def velocity(self, x: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.calls.append((x, conditioning.pooled[:, 0]))
        return x * (t * conditioning.pooled[:, 0]).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, None])
def test_both_halves_of_a_guided_image_are_in_one_part(micro_batch: int | None) -> None:
    x, t = torch.randn(5, 1, 2, 2), torch.rand(5)
    prompts = Conditioning(torch.zeros(5, 1, 1), torch.arange(1.0, 6.0).reshape(5, 1))
    empty = Conditioning(torch.zeros(1, 1, 1), torch.zeros(1, 1))
    network = _Watched(micro_batch)
    velocity = Adapter().guided(network, empty, 3.0)(x, t, prompts)
    images = 3.0 * (t * prompts.pooled[:, 0]).reshape(-1, 1, 1, 1) * x
    torch.testing.assert_close(velocity, images)
    sizes = [5] if micro_batch is None else [len(part) for part in torch.arange(5).split(micro_batch)]
    assert [len(states) for states, _ in network.calls] == [2 * size for size in sizes]
    for states, numbers in network.calls:
        assert torch.equal(*states.chunk(2))
        without, with_text = numbers.chunk(2)
        assert not without.any()
        assert with_text.all()


def test_activations_made_again_give_the_same_gradients(
    family_folder: Path, inputs: Inputs, of_the_whole: tuple[torch.Tensor, list[torch.Tensor]]
) -> None:
    whole, gradients = of_the_whole
    frugal = load_denoiser(family_folder)
    frugal.transformer.enable_gradient_checkpointing()
    calls: list[int] = []
    frugal.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    again, others = _gradients(frugal, inputs)
    assert len(calls) == 2
    torch.testing.assert_close(again, whole)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one)


def test_features_in_parts_are_those_of_the_whole(family_folder: Path, inputs: Inputs) -> None:
    blocks = (0, inspect_pipeline(family_folder).layers - 1)
    whole = TokenReader(load_denoiser(family_folder), blocks)(*inputs)
    parts = TokenReader(load_denoiser(family_folder, execution=Execution(micro_batch=2)), blocks)(*inputs)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frugal", [False, True])
def test_an_own_backbone_in_parts_gets_the_gradients_of_the_whole(
    family_folder: Path, inputs: Inputs, frugal: bool
) -> None:
    found = []
    for execution in (Execution(), Execution(micro_batch=2)):
        backbone = load_denoiser(family_folder, execution=execution)
        if frugal and execution.micro_batch is not None:
            backbone.transformer.enable_gradient_checkpointing()
        critic = Discriminator(backbone, blocks=(0, 1), width=8, hold="own")
        critic(*inputs).sum().backward()
        found.append({name: p.grad for name, p in critic.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any(name.startswith("backbone.") for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch of its own speed, once a process
def test_bfloat16_is_near_and_what_goes_in_and_out_stays_float32(family_folder: Path, inputs: Inputs) -> None:
    with torch.no_grad():
        whole = load_denoiser(family_folder)(*inputs)
        cast = load_denoiser(family_folder, execution=Execution(autocast=True))(*inputs)
        stored = load_denoiser(family_folder, execution=Execution(autocast=True), dtype=torch.bfloat16)(*inputs)
    for half in (cast, stored):
        assert half.dtype == torch.float32
        assert 1e-6 < (half - whole).abs().mean() < 0.1 * whole.abs().mean()


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch of its own speed, once a process
def test_adapters_of_a_bfloat16_base_are_float32_and_learn(family_folder: Path, inputs: Inputs) -> None:
    base = load_denoiser(family_folder, execution=Execution(autocast=True), dtype=torch.bfloat16)
    role = add_lora(base, rank=2, alpha=2.0, targets=("to_q", "to_v"), seed=0)
    role(*inputs).square().mean().backward()
    whole = set(role.transformer._keep_in_fp32_modules or ())  # parts that a family has in float32 always
    for name, parameter in role.named_parameters():
        single = is_adapter(name) or not whole.isdisjoint(name.split("."))
        assert parameter.dtype == (torch.float32 if single else torch.bfloat16)
        if "lora_B" in name:
            assert parameter.grad is not None
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in role.parameters())
