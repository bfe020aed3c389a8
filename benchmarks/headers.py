"""Pipeline folders with the headers of a model and sparse files in place of its weights.

What the package tells from headers, such as the memory that a role needs, it tells of these too; they take no room.
"""

import functools
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from advdmd_ray.models.diffusers_classes import transformer_class
from advdmd_ray.models.families.registry import EULER, FAMILIES, Family
from benchmarks.models import Model

BFLOAT16 = 2
BESIDE = 1000
"""Weights of a text encoder or codec here: nobody measures them."""


def write_headers(model: Model, folder: Path) -> Path:
    """Writes the folder of a model's pipeline and gives it back."""
    (family,) = (family for family in FAMILIES if family.name == model.family)
    shapes = _shapes(family, json.dumps(dict(model.transformer)))
    _weights(folder, "transformer", model.transformer, shapes, "diffusion_pytorch_model")
    index: dict[str, Any] = {"_class_name": family.pipeline, "transformer": ["diffusers", family.transformer]}
    for component in (*family.components, *family.optional):
        if component != "transformer":
            index[component] = _other(folder, family, component, model)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@functools.cache
def _shapes(family: Family, transformer: str) -> Mapping[str, tuple[int, ...]]:
    """Of a transformer's tensors, by its configuration as JSON; to make its modules takes seconds."""
    with torch.device("meta"):
        network = transformer_class(family).from_config(json.loads(transformer))
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _other(folder: Path, family: Family, component: str, model: Model) -> list[str]:
    if component == "scheduler":
        (folder / component).mkdir()
        (folder / component / "scheduler_config.json").write_text(json.dumps(dict(model.scheduler)))
        return ["diffusers", model.scheduler.get("_class_name", EULER)]
    if component.startswith("tokenizer"):
        (folder / component).mkdir()
        settings = {"model_max_length": model.clip_tokens} if component == "tokenizer" else {}
        (folder / component / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / component / "tokenizer.json").write_text("{}")
        return ["transformers", "CLIPTokenizer"]
    if component == "vae":
        depth = model.pixels.bit_length() - 1 - family.codec_offset
        _weights(folder, component, {family.codec_depth: [1] * depth}, {"w": (BESIDE,)}, "diffusion_pytorch_model")
        return ["diffusers", "AutoencoderKL"]
    _weights(folder, component, {}, {"w": (BESIDE,)}, "model")
    return ["transformers", "CLIPTextModel"]


def _weights(
    folder: Path, name: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], stem: str
) -> None:
    """A component with a safetensors file of bfloat16 tensors that were never written."""
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text(json.dumps(dict(config)))
    header, offset = {}, 0
    for key, shape in shapes.items():
        size = BFLOAT16 * int(torch.Size(shape).numel())
        header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    with (folder / name / f"{stem}.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + offset)
