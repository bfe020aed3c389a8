"""A frozen base in 8 bits under adapters: what it says, what it takes, and a run on it from the start to an export."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.checkpoint import latest_checkpoint
from advdmd_ray.models.families.base import Execution, TransformerDenoiser
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora, is_adapter, sharing_copy
from advdmd_ray.models.pipeline import load_denoiser
from advdmd_ray.models.targets import BlockLayers
from advdmd_ray.runs.export import export, export_adapter
from local_runs import train_here
from tiny_families import write_family

pytestmark = pytest.mark.usefixtures("encoders_once")

BOUND = 0.01
"""Of the norm of a velocity: what 8 bits may change of it, about as much as bfloat16 does."""
BOUND_OF = {"z_image": 0.05}
"""Where bfloat16 changes more too."""
TARGETS = ("to_q", "to_v", "to_out.0")
TEXTS = {
    "sd3": (32, 32),
    "flux": (32, 16),
    "flux2": (48, 0),
    "qwen_image": (16, 0),
    "z_image": (16, 0),
    "sana": (16, 0),
    "krea2": (32, 0),
}
"""Widths of a token and of a whole text."""
OFTEN = {"flux", "krea2"}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.wide]) for name in TEXTS]
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(request.param, tmp_path_factory.mktemp("quantized") / request.param)


@pytest.fixture(scope="module")
def half(folder: Path) -> TransformerDenoiser:
    return load_denoiser(folder, 2.0, Execution(autocast=True), torch.bfloat16)


@pytest.fixture(scope="module")
def stored(folder: Path) -> TransformerDenoiser:
    return load_denoiser(folder, 2.0, Execution(autocast=True), torch.bfloat16, "int8")


@pytest.fixture(scope="module")
def inputs(folder: Path) -> tuple[Tensor, Tensor, Conditioning]:
    info, generator = inspect_pipeline(folder, (32, 64)), torch.Generator().manual_seed(0)
    width, pooled = TEXTS[info.family.name]
    prompts = Conditioning(torch.randn(2, 8, width, generator=generator), torch.randn(2, pooled, generator=generator))
    return torch.randn(2, *info.latent.shape, generator=generator), torch.tensor([0.3, 0.8]), prompts


def in_8_bits(network: TransformerDenoiser) -> Iterator[tuple[str, Any]]:
    """Name and weight of each layer that is stored so."""
    for name, tensor in network.transformer.named_buffers():
        if hasattr(tensor, "qdata"):
            yield name, tensor


def velocity(network: TransformerDenoiser, inputs: tuple[Tensor, Tensor, Conditioning]) -> Tensor:
    with torch.no_grad():
        return network(*inputs)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_velocity_is_that_of_the_base_within_the_bound(
    folder: Path, stored: TransformerDenoiser, half: TransformerDenoiser, inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    assert 1e-4 < apart(velocity(stored, inputs), velocity(half, inputs)) < BOUND_OF.get(folder.name, BOUND)


@pytest.mark.parametrize("factor", [1.05, -1.0])
def test_a_wrong_scale_is_outside_the_bound(
    stored: TransformerDenoiser, half: TransformerDenoiser, inputs: tuple[Tensor, Tensor, Conditioning], factor: float
) -> None:
    wrong = deepcopy(stored)
    for _, weight in in_8_bits(wrong):
        weight.scale.mul_(factor)
    assert apart(velocity(wrong, inputs), velocity(half, inputs)) > 2 * BOUND


def test_each_weight_is_within_half_a_step_of_the_folders(
    stored: TransformerDenoiser, half: TransformerDenoiser
) -> None:
    own = half.transformer.state_dict()
    for name, weight in in_8_bits(stored):
        step = own[name].float().abs().amax(dim=1, keepdim=True) / 127.5
        assert torch.all((weight.dequantize(torch.float32) - own[name].float()).abs() <= 0.51 * step), name


def test_linear_layers_of_blocks_take_what_the_plan_counts_and_all_others_stay(
    folder: Path, stored: TransformerDenoiser, half: TransformerDenoiser
) -> None:
    layers, weights = BlockLayers.of(inspect_pipeline(folder)), dict(in_8_bits(stored))
    parts = [part for weight in weights.values() for part in (weight.qdata, weight.scale, weight.zero_point)]
    assert sum(part.numel() * part.element_size() for part in parts) == layers.weights + 5 * layers.outputs
    kept = {name: tensor for name, tensor in stored.transformer.state_dict().items() if name not in weights}
    assert all(torch.equal(tensor, half.transformer.state_dict()[name]) for name, tensor in kept.items())
    assert kept.keys() | weights.keys() == half.transformer.state_dict().keys()


def test_adapters_learn_in_float32_what_they_would_learn_on_the_base(
    folder: Path, stored: TransformerDenoiser, half: TransformerDenoiser, inputs: tuple[Tensor, Tensor, Conditioning]
) -> None:
    gradients: list[dict[str, Tensor]] = []
    for base in (stored, half):
        role = add_lora(sharing_copy(base), rank=2, alpha=2.0, targets=TARGETS, seed=0)
        held = {id(tensor) for tensor in (*base.parameters(), *base.buffers())}
        learnt = {name: parameter for name, parameter in role.named_parameters() if parameter.requires_grad}
        assert all(is_adapter(name) and parameter.dtype == torch.float32 for name, parameter in learnt.items())
        others = [*role.buffers(), *(parameter for parameter in role.parameters() if not parameter.requires_grad)]
        assert all(id(tensor) in held for tensor in others), "all roles share the base"
        x, t, prompts = inputs
        state = x.clone().requires_grad_()
        role(state, t, prompts).square().sum().backward()
        found = {name: parameter.grad for name, parameter in learnt.items() if parameter.grad is not None}
        assert found.keys() == learnt.keys()
        assert state.grad is not None
        gradients.append(found | {"state": state.grad})
    ours, theirs = (torch.cat([grad.flatten() for grad in found.values()]) for found in gradients)
    assert 1e-4 < apart(ours, theirs) < 5 * BOUND_OF.get(folder.name, BOUND)


def test_a_run_learns_resumes_and_exports_adapters_of_the_folders_own_weights(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    settings: dict[str, dict[str, Any]] = {
        "run": {"name": "eight", "output": str(tmp_path), "cycles": 1},
        "model": {
            "path": str(tiny_pipeline),
            "max_sequence_length": 5,
            "precision": "bfloat16",
            "quantization": "int8",
        },
        "lora": {"rank": 2},
        "diffusion": {"sigmas": (1.0, 0.5)},
        "rollout": {"actors": 1, "group_size": 2, "groups_per_cycle": 2},
        "learner": {"gradient_checkpointing": True},
        "dmd": {"batch_size": 2, "gan_weight": 0.5},
        "fake_score": {"batch_size": 2},
        "discriminator": {"batch_size": 2, "text_errors": None, "auc_high": 1.0},
        "cadence": {"warm_dmd_updates": 0, "ramp_interval": 1},
    }
    assert train_here(Config.model_validate(settings)) == 1
    settings["run"]["cycles"] = 2
    config = Config.model_validate(settings)
    assert train_here(config, resume=config.folder / "checkpoints") == 2

    average = latest_checkpoint(config.folder / "checkpoints").load("ema")
    assert average
    assert all(is_adapter(name) and tensor.dtype == torch.float32 for name, tensor in average.items())
    file = "transformer/diffusion_pytorch_model.safetensors"
    own, merged = load_file(tiny_pipeline / file), load_file(export(config, tmp_path / "student") / file)
    for name, tensor in own.items():
        layer = f"transformer.{name.removesuffix('.weight')}"
        down, up = (average.get(f"{layer}.lora_{part}.default.weight") for part in "AB")
        added = tensor if down is None or up is None else tensor + up @ down
        torch.testing.assert_close(merged[name], added, rtol=0, atol=1e-6)
    alone = load_file(export_adapter(config, tmp_path / "adapter") / "pytorch_lora_weights.safetensors")
    assert len(alone) == len(average)
