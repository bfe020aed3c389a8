"""The estimate of activations, held against the tensors of real networks: tiny ones, and full-size ones without data.

How close: what a graph of a tiny family saves is met within 0.8 to 1.4 of it, and what lives at a time within 0.7 to
1.6. Tensors that are small beside a real token's 1536 to 3840 channels count there, such as the mask of every pair of
tokens. Full-size networks are bounded from above: graphs by 1.5 at most, forwards by 1.7. Norms are counted in float32,
as GPUs have them under autocast; CPUs have SD3's in bfloat16.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.models.diffusers_classes import transformer_class
from advdmd_ray.models.families import adapter, kept
from advdmd_ray.models.families.base import Execution, TransformerDenoiser
from advdmd_ray.models.families.kept import ATTENTION, BFLOAT16, CLIP_TOKENS, FLOAT32, Backbone, backbone_of
from advdmd_ray.models.families.registry import FAMILIES
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora
from advdmd_ray.models.pipeline import load_denoiser
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.runs.needs.activations import forward_bytes, graph_bytes
from benchmarks.headers import write_headers
from benchmarks.models import Model
from full_size import MODELS, write_full_size
from held_tensors import Live, Saved, weights_of

ROWS = 3
LENGTH = 64
LEARNS = {"whole float32": torch.float32, "adapters float32": torch.float32, "adapters bfloat16": torch.bfloat16}
BFLOAT16_IS_SLOW = "ignore:Mismatch dtype between input and weight"  # torch of its own speed, once a process


def tiny(folder: Path, learns: str, *, checkpointing: bool = False) -> tuple[TransformerDenoiser, int]:
    """A network that learns, and the bytes of an element of its matrix products."""
    dtype = LEARNS[learns]
    denoiser = load_denoiser(folder, 1.0, Execution(autocast=dtype == torch.bfloat16), dtype)
    if learns.startswith("adapters"):
        names = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
        targets = tuple(end for end in sorted(ATTENTION) if any(name.endswith(f".{end}") for name in names))
        add_lora(denoiser, rank=1, alpha=1.0, targets=targets, seed=0)
    else:
        denoiser.requires_grad_(True)
    if checkpointing:
        denoiser.transformer.enable_gradient_checkpointing()
    return denoiser, FLOAT32 if dtype == torch.float32 else BFLOAT16


@pytest.fixture(scope="module")
def prompts(family_pipeline: Any) -> Conditioning:
    return encode_prompts(family_pipeline, ["a red fox above the"] * ROWS, LENGTH)


@pytest.fixture
def backbone(family_folder: Path, prompts: Conditioning) -> Backbone:
    """The tiny network on images of 64 tokens; a prompt is as long as it is, not as long as it may be."""
    info, text = inspect_pipeline(family_folder, (128, 128)), prompts.embeds.shape[1]
    backbone = backbone_of(info, text - 16 if info.family.name == "sd3" else text)
    assert backbone.tokens >= info.image_tokens + text
    return backbone


def run(denoiser: TransformerDenoiser, prompts: Conditioning) -> tuple[int, int]:
    """Bytes saved by a graph, and the most alive in it and its backward pass."""
    x = torch.randn(ROWS, 4, 16, 16).requires_grad_(True)
    denoiser(x, torch.rand(ROWS), prompts)  # what a network makes once, such as tables of positions, is no activation
    saved, live = Saved(weights_of(denoiser)), Live(weights_of(denoiser))
    with live:
        with saved.watching():
            velocity = denoiser(x, torch.rand(ROWS), prompts)
        torch.autograd.grad(velocity.sum(), x)
    return saved.bytes, live.peak


@pytest.mark.filterwarnings(BFLOAT16_IS_SLOW)
@pytest.mark.parametrize("learns", LEARNS)
def test_a_graph_saves_what_the_blocks_are_said_to_keep(
    family_folder: Path, prompts: Conditioning, backbone: Backbone, learns: str
) -> None:
    denoiser, product = tiny(family_folder, learns)
    saved, peak = run(denoiser, prompts)
    adapted = learns.startswith("adapters")
    told = graph_bytes(backbone, ROWS, product, adapted=adapted)
    assert 0.8 * saved < told - forward_bytes(backbone, ROWS, product) < 1.4 * saved
    assert 0.8 * peak < told < 1.5 * peak


@pytest.mark.filterwarnings(BFLOAT16_IS_SLOW)
@pytest.mark.parametrize("learns", LEARNS)
def test_checkpointing_holds_the_inputs_of_blocks_and_one_block(
    family_folder: Path, prompts: Conditioning, backbone: Backbone, learns: str
) -> None:
    denoiser, product = tiny(family_folder, learns, checkpointing=True)
    _, peak = run(denoiser, prompts)
    told = graph_bytes(backbone, ROWS, product, adapted=learns.startswith("adapters"), checkpointing=True)
    assert 0.7 * peak < told < 1.6 * peak


TEXT = {"sd3": (333, 4096, 2048), "flux": (512, 4096, 768), "qwen_image": (256, 3584, 0)}
"""Text tokens, their channels and those of the pooled prompt."""


def with_fewer(recipe: str, times: int) -> Model:
    """The recipe's model, of its own width, with so many times fewer blocks, which are alike and take time."""
    model = MODELS[recipe]
    blocks = ("num_layers", "num_single_layers")
    few = {key: model.transformer[key] // times for key in blocks if key in model.transformer}
    return replace(model, transformer={**model.transformer, **few})


def without_data(model: Model, dtype: torch.dtype, *, checkpointing: bool) -> tuple[TransformerDenoiser, Conditioning]:
    """A network of full width and a prompt of fake tensors, which have shapes and storages of no memory."""
    name = model.family
    (family,) = (family for family in FAMILIES if family.name == name)
    torch.set_default_dtype(dtype)
    try:
        transformer = transformer_class(family).from_config(dict(model.transformer))
    finally:
        torch.set_default_dtype(torch.float32)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    denoiser = adapter(family).denoiser(transformer, 1.0, Execution(autocast=dtype == torch.bfloat16))
    length, width, pooled = TEXT[name]
    mask = torch.ones(1, length, dtype=torch.bool) if name == "qwen_image" else None
    return denoiser, Conditioning(torch.randn(1, length, width), torch.randn(1, pooled), mask)


@pytest.fixture
def of_many_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts of a call keep their mask, as where they differ in length; without data nobody can look."""
    monkeypatch.setattr(Conditioning, "trimmed", lambda rows: rows)


def full_size_backbone(model: Model, folder: Path) -> Backbone:
    info = inspect_pipeline(write_headers(model, folder), (1024, 1024))
    return backbone_of(info, TEXT[info.family.name][0] - (CLIP_TOKENS if info.family.name == "sd3" else 0))


@pytest.mark.usefixtures("of_many_lengths")
@pytest.mark.filterwarnings(BFLOAT16_IS_SLOW)
@pytest.mark.parametrize(
    ("recipe", "times", "dtype", "checkpointing"),
    [
        ("sd3_medium", 6, torch.float32, False),
        ("flux_dev_lora", 4, torch.bfloat16, True),
        ("qwen_image_lora_2step", 12, torch.float32, False),
        *(
            pytest.param(recipe, 1, dtype, checkpointing, marks=pytest.mark.wide)
            for recipe in ("sd3_medium", "sd35_medium_lora", "flux_dev_lora", "qwen_image_lora_2step")
            for dtype, checkpointing in ((torch.float32, False), (torch.bfloat16, True))
        ),
    ],
)
def test_a_full_size_graph_is_bounded_from_above(
    recipe: str, times: int, dtype: torch.dtype, checkpointing: bool, tmp_path: Path
) -> None:
    model, product = with_fewer(recipe, times), FLOAT32 if dtype == torch.float32 else BFLOAT16
    backbone = full_size_backbone(model, tmp_path / "model")
    with FakeTensorMode(allow_non_fake_inputs=True):
        denoiser, prompt = without_data(model, dtype, checkpointing=checkpointing)
        x, live = torch.randn(1, 16, 128, 128).requires_grad_(True), Live(weights_of(denoiser))
        with live:
            torch.autograd.grad(denoiser(x, torch.rand(1), prompt).sum(), x)
    told = graph_bytes(backbone, 1, product, checkpointing=checkpointing)
    assert live.peak < told < 1.5 * live.peak


@pytest.mark.usefixtures("of_many_lengths")
@pytest.mark.filterwarnings(BFLOAT16_IS_SLOW)
@pytest.mark.parametrize(
    ("recipe", "times", "dtype"),
    [
        ("sd3_medium", 6, torch.float32),
        ("flux_dev_lora", 6, torch.bfloat16),
        *(
            pytest.param(recipe, 1, dtype, marks=pytest.mark.wide)
            for recipe in ("sd3_medium", "flux_dev_lora", "qwen_image_lora_2step")
            for dtype in (torch.float32, torch.bfloat16)
        ),
    ],
)
def test_a_full_size_forward_is_bounded_from_above(recipe: str, times: int, dtype: torch.dtype, tmp_path: Path) -> None:
    model, product = with_fewer(recipe, times), FLOAT32 if dtype == torch.float32 else BFLOAT16
    backbone = full_size_backbone(model, tmp_path / "model")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        denoiser, prompt = without_data(model, dtype, checkpointing=False)
        x, live = torch.randn(1, 16, 128, 128), Live(weights_of(denoiser))
        with live:
            denoiser(x, torch.rand(1), prompt)
    assert live.peak < forward_bytes(backbone, 1, product) < 1.7 * live.peak


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_says_what_its_blocks_keep(family: str) -> None:
    assert family in kept._BACKBONES


def test_features_run_the_first_blocks_only(tmp_path: Path) -> None:
    backbone = full_size_backbone(MODELS["sd35_medium_lora"], tmp_path / "model")
    assert (len(backbone.first(None)), len(backbone.first(17))) == (24, 17)
    # The first 13 blocks have a second attention.
    dual, plain = backbone.blocks[12].whole, backbone.blocks[13].whole
    assert dual.norms + dual.rest - plain.norms - plain.rest == 10


def test_a_configuration_without_a_width_is_a_plain_error(tmp_path: Path) -> None:
    folder = write_full_size("flux_dev_lora", tmp_path / "model")
    file = folder / "transformer" / "config.json"
    changed: Mapping[str, Any] = {**json.loads(file.read_text()), "attention_head_dim": None}
    file.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="attention_head_dim is None; a whole number from 1 to 1000000 is needed"):
        backbone_of(inspect_pipeline(folder), 512)
