"""A pipeline folder with true headers and no meaning: what pre-flight reads, in a few kilobytes."""

import json
import struct
from pathlib import Path

WEIGHTS = 100
"""Float32 weights of each network in the folder."""
LAYERS = 4
NETWORKS = {
    "transformer": ("diffusers", "SD3Transformer2DModel", "diffusion_pytorch_model"),
    "vae": ("advdmd_ray.models.codec", "PixelCodec", "diffusion_pytorch_model"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection", "model"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", "model"),
}


def write_safetensors(file: Path, weights: int = WEIGHTS) -> None:
    """One float32 tensor of zeros, in the safetensors format: header length, header, data."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [weights], "data_offsets": [0, 4 * weights]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * weights))


def write_pipeline(folder: Path) -> Path:
    """Write the folder and return it."""
    index: dict[str, object] = {"_class_name": "StableDiffusion3Pipeline"}
    for name, (library, class_name, stem) in NETWORKS.items():
        (folder / name).mkdir(parents=True)
        config = {"sample_size": 8, "patch_size": 2, "in_channels": 1, "num_layers": LAYERS, "block_out_channels": [1]}
        config |= {"num_attention_heads": 2, "attention_head_dim": 4}
        (folder / name / "config.json").write_text(json.dumps(config))
        write_safetensors(folder / name / f"{stem}.safetensors")
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
