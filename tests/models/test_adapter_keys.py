"""Adapters under the keys of others, judged by diffusers' own converters: LoRA loaders, and tables of single files."""

import importlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from advdmd_ray.errors import UserError
from advdmd_ray.models.adapter_keys import DOWN, RULES, UP, Convention, renamed

diffusers: Any = importlib.import_module("diffusers")
single_file: Any = importlib.import_module("diffusers.loaders.single_file_utils")

RANK, INPUTS, WIDTH = 2, 3, 8
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
OWN = ("to_q", "to_k", "to_v", "to_out.0")
MLP = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
FLUX_WIDTH = 3072
"""Diffusers' tables have it as a number."""


def _blocks(count: int, prefix: str, names: tuple[str, ...]) -> list[str]:
    return [f"{prefix}.{block}.{name}" for block in range(count) for name in names]


ATTENTION = tuple(f"attn.{name}" for name in (*OWN, *ADDED))
NORMS = ("norm1.linear", "norm1_context.linear")
NAMES: dict[str, list[str]] = {
    "sd3": [
        *_blocks(1, "transformer_blocks", (*ATTENTION, *(f"attn2.{name}" for name in OWN), *NORMS, *MLP)),
        # The last block does nothing with its text but attend to it.
        *(f"transformer_blocks.1.{name}" for name in (*ATTENTION[:-1], *NORMS, *MLP[:2])),
        "proj_out",
        "norm_out.linear",
    ],
    "flux": [
        *_blocks(2, "transformer_blocks", (*ATTENTION, *NORMS, *MLP)),
        *_blocks(2, "single_transformer_blocks", ("proj_out", "norm.linear")),
    ],
    "qwen_image": [
        *_blocks(2, "transformer_blocks", (*ATTENTION, "img_mod.1", "txt_mod.1", "img_mlp.net.0.proj", "txt_mlp.net.2"))
    ],
    "z_image": [
        name
        for prefix in ("layers", "noise_refiner", "context_refiner")
        for name in _blocks(2, prefix, (*(f"attention.{name}" for name in OWN), "feed_forward.w1", "feed_forward.w2"))
    ],
}


def shapes_of(family: str) -> dict[str, tuple[int, int]]:
    """Linear layers of a transformer of two blocks, such as a convention has names for."""
    shapes: dict[str, tuple[int, int]] = dict.fromkeys(NAMES[family], (WIDTH, INPUTS))
    if family == "flux":
        for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"):
            outputs = 4 * FLUX_WIDTH if name == "proj_mlp" else FLUX_WIDTH
            shapes.update(dict.fromkeys(_blocks(2, "single_transformer_blocks", (name,)), (outputs, INPUTS)))
    return shapes


def adapters(shapes: Mapping[str, tuple[int, int]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    told: dict[str, torch.Tensor] = {}
    for name, (outputs, inputs) in shapes.items():
        told[name + DOWN] = torch.randn(RANK, inputs, generator=generator)
        told[name + UP] = torch.randn(outputs, RANK, generator=generator)
    return told


def added(layers: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What adapters add to each weight."""
    names = [key.removesuffix(DOWN) for key in layers if key.endswith(DOWN)]
    return {name: layers[name + UP] @ layers[name + DOWN] for name in names}


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    """Theirs adds what ours does, and nothing to any other weight."""
    assert ours.keys() <= theirs.keys()
    for name, weight in theirs.items():
        expected = ours.get(name, torch.zeros_like(weight))
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-5)


LOADERS = {"flux": "FluxPipeline", "qwen_image": "QwenImagePipeline", "z_image": "ZImagePipeline"}


@pytest.mark.parametrize("convention", ["kohya", "comfyui"])
@pytest.mark.parametrize("family", LOADERS)
@pytest.mark.parametrize("part", ["all", "some"])
def test_the_loader_of_a_family_reads_them_back(family: str, convention: Convention, part: str) -> None:
    shapes = shapes_of(family)
    # Of the parts of a joined layer, one may have no adapter.
    chosen = {name: shape for name, shape in shapes.items() if part == "all" or not name.endswith(("to_k", "proj_mlp"))}
    ours = adapters(chosen)
    theirs = getattr(diffusers, LOADERS[family]).lora_state_dict(renamed(ours, convention, family, shapes))
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    same(added(ours), added({key.removeprefix("transformer."): tensor for key, tensor in theirs.items()}))


class Rest(dict[str, torch.Tensor]):
    """A checkpoint whose other weights are zero."""

    def pop(self, key: str, *_: object) -> torch.Tensor:
        return super().pop(key) if key in self else torch.zeros(7 * FLUX_WIDTH if "linear1" in key else 6, 1)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_names_are_those_that_a_checkpoint_of_the_models_own_repository_has(family: str) -> None:
    shapes = shapes_of(family)
    ours = adapters(shapes)
    there = renamed(ours, "comfyui", family, shapes)
    assert all(key.startswith("diffusion_model.") for key in there)
    weights = Rest({"context_embedder.weight": torch.zeros(6, 1)})
    for key in [key for key in there if key.endswith(".lora_down.weight")]:
        name = key.removesuffix(".lora_down.weight")
        share = there[f"{name}.alpha"] / len(there[key])
        weight = share * there[f"{name}.lora_up.weight"] @ there[key]
        weights[f"{name.removeprefix('diffusion_model.')}.weight"] = weight
    converter = getattr(single_file, f"convert_{family}_transformer_checkpoint_to_diffusers")
    converted = {key.removesuffix(".weight"): value for key, value in converter(weights).items()}
    assert not weights.keys() - {"context_embedder.weight"}, "a name that no checkpoint has"
    for name, weight in added(ours).items():
        torch.testing.assert_close(converted[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", RULES)
def test_kohyas_keys_are_the_names_of_the_same_layers_without_points(family: str) -> None:
    shapes = shapes_of(family)
    ours = adapters(shapes)
    flat, pointed = (renamed(ours, convention, family, shapes) for convention in ("kohya", "comfyui"))
    ends = (".lora_down.weight", ".lora_up.weight", ".alpha")
    for key in flat:
        (end,) = [end for end in ends if key.endswith(end)]
        assert key.startswith("lora_unet_")
        assert "." not in key.removesuffix(end)
        assert flat[key].is_contiguous()
    if family != "z_image":  # whose parts ComfyUI reads one by one
        assert {key.replace("diffusion_model.", "lora_unet.", 1).replace(".", "_") for key in pointed} == {
            key.replace(".", "_") for key in flat
        }


def test_adapters_of_other_numbers_stay_theirs() -> None:
    shapes = shapes_of("flux")
    told = renamed({key: value.half() for key, value in adapters(shapes).items()}, "kohya", "flux", shapes)
    assert {value.dtype for value in told.values()} == {torch.float16}


def test_a_family_whose_names_nobody_said_is_refused() -> None:
    with pytest.raises(
        UserError, match="--keys kohya: is known for the families sd3, flux, qwen_image, z_image, not for x"
    ):
        renamed({}, "kohya", "x", {})
