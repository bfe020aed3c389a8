"""Adapter files in the key conventions of others: kohya's sd-scripts, and ComfyUI.

Both name layers as the model's own repository does. Where that has one layer for several of diffusers' (query, key and
value, in FLUX also the first of the MLP), their adapters become one, exactly: the rows of A are stacked, B is block
diagonal, and a part that has no adapter has rows of zeros in B. Where the halves of a layer's output are the other way
round there, so are the rows of B.

| convention | keys of a layer |
|---|---|
| `kohya` | `lora_unet_` and the name with `_` for `.`, then `.lora_down.weight`, `.lora_up.weight`, `.alpha` |
| `comfyui` | `diffusion_model.` and the name, then the same |

Adapters count `alpha / rank`, and alpha is the rank here: what they count is in B.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.errors import UserError

Convention = Literal["diffusers", "comfyui", "kohya"]
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class Rule:
    """Layers of diffusers that are one layer, or a part of one, elsewhere.

    Attributes:
        parts: Their names, in the order of their outputs there; `N` stands for the number of a block.
        name: Its name there.
        swapped: Whether the two halves of its output are the other way round there.
        last: Whether this is of the last block alone, before rules of all blocks.
    """

    parts: tuple[str, ...]
    name: str
    swapped: bool = False
    last: bool = False


def _attention(block: str, there: str, out: str = "proj") -> tuple[Rule, ...]:
    queries = tuple(f"{block}.to_{part}" for part in "qkv")
    return (Rule(queries, f"{there}.qkv"), Rule((f"{block}.to_out.0",), f"{there}.{out}"))


def _added(block: str, there: str) -> tuple[Rule, ...]:
    queries = tuple(f"{block}.add_{part}_proj" for part in "qkv")
    return (Rule(queries, f"{there}.qkv"), Rule((f"{block}.to_add_out",), f"{there}.proj"))


def _two(here: str, there: str, numbers: tuple[str, str] = ("0", "2")) -> tuple[Rule, ...]:
    """An embedder of two layers."""
    return tuple(Rule((f"{here}.linear_{place}",), f"{there}.{number}") for place, number in enumerate(numbers, 1))


_SD3_BLOCK, _SD3_IMAGE, _SD3_TEXT = "transformer_blocks.N", "joint_blocks.N.x_block", "joint_blocks.N.context_block"
_FLUX_BLOCK, _FLUX_ONE = "transformer_blocks.N", "single_transformer_blocks.N"
_LAYERS = ("in_layer", "out_layer")
RULES: Mapping[str, tuple[Rule, ...]] = {
    "sd3": (
        *_attention(f"{_SD3_BLOCK}.attn", f"{_SD3_IMAGE}.attn"),
        *_attention(f"{_SD3_BLOCK}.attn2", f"{_SD3_IMAGE}.attn2"),
        *_added(f"{_SD3_BLOCK}.attn", f"{_SD3_TEXT}.attn"),
        Rule((f"{_SD3_BLOCK}.norm1.linear",), f"{_SD3_IMAGE}.adaLN_modulation.1"),
        # The last block only normalises its text: with a scale and a shift, in the other order.
        Rule((f"{_SD3_BLOCK}.norm1_context.linear",), f"{_SD3_TEXT}.adaLN_modulation.1", swapped=True, last=True),
        Rule((f"{_SD3_BLOCK}.norm1_context.linear",), f"{_SD3_TEXT}.adaLN_modulation.1"),
        Rule((f"{_SD3_BLOCK}.ff.net.0.proj",), f"{_SD3_IMAGE}.mlp.fc1"),
        Rule((f"{_SD3_BLOCK}.ff.net.2",), f"{_SD3_IMAGE}.mlp.fc2"),
        Rule((f"{_SD3_BLOCK}.ff_context.net.0.proj",), f"{_SD3_TEXT}.mlp.fc1"),
        Rule((f"{_SD3_BLOCK}.ff_context.net.2",), f"{_SD3_TEXT}.mlp.fc2"),
        *_two("time_text_embed.timestep_embedder", "t_embedder.mlp"),
        *_two("time_text_embed.text_embedder", "y_embedder.mlp"),
        Rule(("context_embedder",), "context_embedder"),
        Rule(("norm_out.linear",), "final_layer.adaLN_modulation.1", swapped=True),
        Rule(("proj_out",), "final_layer.linear"),
    ),
    "flux": (
        *_attention(f"{_FLUX_BLOCK}.attn", "double_blocks.N.img_attn"),
        *_added(f"{_FLUX_BLOCK}.attn", "double_blocks.N.txt_attn"),
        Rule((f"{_FLUX_BLOCK}.norm1.linear",), "double_blocks.N.img_mod.lin"),
        Rule((f"{_FLUX_BLOCK}.norm1_context.linear",), "double_blocks.N.txt_mod.lin"),
        Rule((f"{_FLUX_BLOCK}.ff.net.0.proj",), "double_blocks.N.img_mlp.0"),
        Rule((f"{_FLUX_BLOCK}.ff.net.2",), "double_blocks.N.img_mlp.2"),
        Rule((f"{_FLUX_BLOCK}.ff_context.net.0.proj",), "double_blocks.N.txt_mlp.0"),
        Rule((f"{_FLUX_BLOCK}.ff_context.net.2",), "double_blocks.N.txt_mlp.2"),
        Rule((*(f"{_FLUX_ONE}.attn.to_{part}" for part in "qkv"), f"{_FLUX_ONE}.proj_mlp"), "single_blocks.N.linear1"),
        Rule((f"{_FLUX_ONE}.proj_out",), "single_blocks.N.linear2"),
        Rule((f"{_FLUX_ONE}.norm.linear",), "single_blocks.N.modulation.lin"),
        *_two("time_text_embed.timestep_embedder", "time_in", _LAYERS),
        *_two("time_text_embed.text_embedder", "vector_in", _LAYERS),
        *_two("time_text_embed.guidance_embedder", "guidance_in", _LAYERS),
        Rule(("context_embedder",), "txt_in"),
        Rule(("x_embedder",), "img_in"),
        Rule(("norm_out.linear",), "final_layer.adaLN_modulation.1", swapped=True),
        Rule(("proj_out",), "final_layer.linear"),
    ),
    # Its own repository is diffusers.
    "qwen_image": (),
    "z_image": (
        *(
            rule
            for block in ("layers.N", "noise_refiner.N", "context_refiner.N")
            for rule in _attention(f"{block}.attention", f"{block}.attention", "out")
        ),
        Rule(("all_x_embedder.2-1",), "x_embedder"),
        Rule(("all_final_layer.2-1.adaLN_modulation.1",), "final_layer.adaLN_modulation.1"),
        Rule(("all_final_layer.2-1.linear",), "final_layer.linear"),
    ),
}
"""By family; a layer that no rule names has the same name there."""
KEEPS_NAMES = frozenset({("comfyui", "z_image")})
"""Who reads adapters of the parts of a joined layer one by one, by diffusers' names."""
LOADED_BY_DIFFUSERS = frozenset({"flux", "qwen_image", "z_image"})
"""Families of which `load_lora_weights` reads the other conventions too."""


def renamed(
    layers: Mapping[str, Tensor], convention: Convention, family: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Adapters under the keys of a convention.

    Args:
        layers: By diffusers' names relative to the transformer: `NAME.lora_A.weight` `[rank, in]` and
            `NAME.lora_B.weight` `[out, rank]`; `B A` is what they add to a weight.
        convention: Not `diffusers`.
        family: Of the pipeline.
        shapes: Outputs and inputs of every linear layer of the transformer.

    Raises:
        UserError: if nobody has said how the family's layers are called elsewhere.
    """
    if family not in RULES:
        known = ", ".join(RULES)
        raise UserError(f"--keys {convention}: is known for the families {known}, not for {family}; use diffusers")
    names = [key.removesuffix(DOWN) for key in layers if key.endswith(DOWN)]
    rules = () if (convention, family) in KEEPS_NAMES else RULES[family]
    last = _last_block(shapes)
    groups: dict[str, tuple[tuple[str, ...], bool]] = {}
    for name in names:
        parts, there, swapped = _elsewhere(name, rules, last)
        groups[there] = parts, swapped
    told: dict[str, Tensor] = {}
    for there, (parts, swapped) in groups.items():
        down, up = _joined(layers, parts, shapes)
        if swapped:
            up = torch.cat(up.chunk(2)[::-1])
        flat = f"lora_unet_{there.replace('.', '_')}" if convention == "kohya" else f"diffusion_model.{there}"
        told[f"{flat}.lora_down.weight"] = down.contiguous()
        told[f"{flat}.lora_up.weight"] = up.contiguous()
        told[f"{flat}.alpha"] = torch.tensor(float(len(down)), dtype=down.dtype)
    return told


def _elsewhere(name: str, rules: Sequence[Rule], last: int) -> tuple[tuple[str, ...], str, bool]:
    """The layers that one layer elsewhere has joined, its name there, and whether its output's halves are swapped."""
    number = re.search(r"\.(\d+)\.", name)
    block = number[1] if number is not None else ""
    form = name if number is None else f"{name[: number.start()]}.N.{name[number.end() :]}"
    for rule in rules:
        if form in rule.parts and (not rule.last or block == str(last)):
            return tuple(_numbered(part, block) for part in rule.parts), _numbered(rule.name, block), rule.swapped
    return (name,), name, False


def _numbered(name: str, block: str) -> str:
    return re.sub(r"\bN\b", block, name)


def _last_block(shapes: Mapping[str, tuple[int, ...]]) -> int:
    numbers = [int(found[1]) for name in shapes if (found := re.match(r"transformer_blocks\.(\d+)\.", name))]
    return max(numbers, default=-1)


def _joined(
    layers: Mapping[str, Tensor], parts: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
    """One adapter for several layers of the same input; those that have none add nothing."""
    downs = [layers[part + DOWN] for part in parts if part + DOWN in layers]
    rank = [len(layers[part + DOWN]) if part + DOWN in layers else 0 for part in parts]
    up = downs[0].new_zeros(sum(shapes[part][0] for part in parts), sum(rank))
    row = column = 0
    for part, own in zip(parts, rank, strict=True):
        if own:
            up[row : row + shapes[part][0], column : column + own] = layers[part + UP]
        row, column = row + shapes[part][0], column + own
    return torch.cat(downs), up
