"""Pipeline folders with the headers of full-size models and sparse files in place of their weights."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from advdmd_ray.models.diffusers_classes import transformer_class
from advdmd_ray.models.families.registry import FAMILIES, Family
from benchmarks.sizes import SD3_MEDIUM, SD35_MEDIUM

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
# By recipe: family, configuration of the transformer, of the scheduler, and the published number of weights; of SD3
# also its table of positions, which is in the file and does not learn.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], float]] = {
    "sd3_medium": ("sd3", dict(SD3_MEDIUM), {"shift": 3.0}, 2.03e9 + 192**2 * 1536),
    "sd35_medium_lora": (
        "sd3",
        dict(SD35_MEDIUM),
        {"shift": 3.0},
        2.24e9 + 384**2 * 1536,
    ),
    "sd35_large_lora": (
        "sd3",
        dict(SD3_MEDIUM)
        | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"},
        {"shift": 3.0},
        8.06e9 + 192**2 * 2432,
    ),
    "qwen_image_lora_2step": (
        "qwen_image",
        {
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 60,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
            "axes_dims_rope": [16, 56, 56],
        },
        {**DYNAMIC, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02},
        20.4e9,
    ),
    "flux_dev_lora": (
        "flux",
        {
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": [16, 56, 56],
        },
        DYNAMIC,
        11.9e9,
    ),
}


def write_full_size(recipe: str, folder: Path) -> Path:
    """Write the folder of a recipe's model; its files take no room."""
    name, config, scheduler, _ = MODELS[recipe]
    (family,) = (family for family in FAMILIES if family.name == name)
    with torch.device("meta"):
        transformer = transformer_class(family).from_config(config)
    index: dict[str, Any] = {"_class_name": family.pipeline}
    shapes = {key: tuple(tensor.shape) for key, tensor in transformer.state_dict().items()}
    _component(folder, "transformer", config, shapes, "diffusion_pytorch_model")
    index["transformer"] = ["diffusers", family.transformer]
    for component in (*family.components, *family.optional):
        if component == "transformer":
            continue
        index[component] = _other(folder, family, component, scheduler)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _other(folder: Path, family: Family, component: str, scheduler: Mapping[str, Any]) -> list[str]:
    if component == "scheduler":
        (folder / component).mkdir()
        (folder / component / "scheduler_config.json").write_text(json.dumps(scheduler))
        return ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    if component.startswith("tokenizer"):
        (folder / component).mkdir()
        for file in ("tokenizer_config.json", "tokenizer.json"):
            (folder / component / file).write_text("{}")
        return ["transformers", "CLIPTokenizer"]
    depth = {family.codec_depth: [1] * (3 - family.codec_offset)}
    stem = "diffusion_pytorch_model" if component == "vae" else "model"
    _component(folder, component, depth if component == "vae" else {}, {"w": (1000,)}, stem)
    return ["diffusers", "AutoencoderKL"] if component == "vae" else ["transformers", "CLIPTextModel"]


def _component(
    folder: Path, name: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], stem: str
) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    for key, shape in shapes.items():
        size = 2 * int(torch.Size(shape).numel())
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    with (folder / name / f"{stem}.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + offset)
