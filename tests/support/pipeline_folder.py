"""A pipeline folder with true headers and no meaning: what pre-flight reads, in a few kilobytes."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = 100
"""Float32 weights of each network in the folder."""
LAYERS = 4
NETWORKS = {
    "transformer": ("diffusers", "SD3Transformer2DModel", "diffusion_pytorch_model"),
    "vae": ("advdmd_ray.models.codec", "PixelCodec", "diffusion_pytorch_model"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection", "model"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", "model"),
}


ATTENTION = {f"transformer_blocks.0.attn.{name}.weight": (5, 5) for name in ("to_q", "to_k", "to_v", "to_out.0")}
"""The transformer's layers, which together have `WEIGHTS` weights too."""


def write_safetensors(file: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, dtype: str = "F32") -> None:
    """Tensors of zeros in the safetensors format: header length, header, data; by default one of `WEIGHTS` weights."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in ({"w": (WEIGHTS,)} if shapes is None else shapes).items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(end))


def write_pipeline(folder: Path) -> Path:
    """Write the folder and return it."""
    index: dict[str, object] = {"_class_name": "StableDiffusion3Pipeline"}
    for name, (library, class_name, stem) in NETWORKS.items():
        (folder / name).mkdir(parents=True)
        config = {"sample_size": 8, "patch_size": 2, "in_channels": 1, "num_layers": LAYERS, "block_out_channels": [1]}
        config |= {"num_attention_heads": 2, "attention_head_dim": 4}
        config |= {"joint_attention_dim": 4, "pooled_projection_dim": 4}
        (folder / name / "config.json").write_text(json.dumps(config))
        write_safetensors(folder / name / f"{stem}.safetensors", ATTENTION if name == "transformer" else None)
        index[name] = [library, class_name]
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        (folder / name / "tokenizer_config.json").write_text("{}")
        (folder / name / "tokenizer.json").write_text("{}")
        index[name] = ["transformers", "CLIPTokenizer"]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"shift": 1.0}')
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
